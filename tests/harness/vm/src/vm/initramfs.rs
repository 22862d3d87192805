//! Initramfs of one boot: busybox, the modules for the root disk, and the guest files of the working tree.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::guest::Keys;
use crate::image::guest_folder;

pub(super) fn make(boot: &Path, keys: &Keys) -> Result<Vec<u8>> {
    let guest = guest_folder();
    let mut archive = Archive::default();
    for folder in ["bin", "proc", "sys", "dev", "mnt"] {
        archive.directory(folder);
    }
    archive.file("bin/busybox", 0o755, &fs::read(boot.join("busybox"))?);
    archive.file("init", 0o755, &fs::read(guest.join("initramfs-init"))?);
    archive.tree("modules", &boot.join("modules")).context("modules of the initramfs")?;
    archive.tree("overlay", &guest.join("root")).context("guest files")?;
    archive.file("overlay/etc/ssh/lab_host_key", 0o600, &fs::read(keys.host())?);
    archive.file("overlay/etc/ssh/lab_authorized_keys", 0o600, &fs::read(keys.user_public())?);
    Ok(archive.finish())
}
