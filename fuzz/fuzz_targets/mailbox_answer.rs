//! Bytes from a tap to the sidecar, in a mailbox.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::mailbox_answer(data));
