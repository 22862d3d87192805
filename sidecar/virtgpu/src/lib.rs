//! virtio-gpu from the guest: PRIME import, resource IDs, the mailbox.
