//! Resolves a compositor's DMA-BUF to its resource ID, once per buffer.
//!
//! A DMA-BUF arrives as a file descriptor. `PRIME_FD_TO_HANDLE` converts it to a GEM handle, which is valid only
//! for this open of the render node. `RESOURCE_INFO` returns the resource ID, by which the guest kernel and
//! virglrenderer both identify the buffer. The import also attaches the resource to this process's virgl context,
//! which entitles the sidecar to request it from the tap.
//!
//! Both ioctls together take up to 1 ms, so results are cached while in use. The cache key is the DMA-BUF's
//! inode, which is unique among live buffers; descriptors differ per message and are reused.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};

use virtgpu::{Device, Imported};

/// Cache of imported DMA-BUFs.
#[derive(Debug)]
pub struct Resolver {
    device: Device,
    imported: HashMap<Inode, Weak<Imported>>,
}

/// Device and inode number of a DMA-BUF.
type Inode = (u64, u64);

impl Resolver {
    /// An empty cache of imports by `device`.
    pub fn new(device: Device) -> Self {
        Self { device, imported: HashMap::new() }
    }

    /// Imports the DMA-BUF behind a descriptor, or returns the cached import.
    ///
    /// # Errors
    /// The error of `fstat` or of the import.
    pub fn resolve(&mut self, buffer: impl AsFd) -> io::Result<Arc<Imported>> {
        let stat = rustix::fs::fstat(&buffer)?;
        let inode = (stat.st_dev, stat.st_ino);
        if let Some(imported) = self.imported.get(&inode).and_then(Weak::upgrade) {
            return Ok(imported);
        }
        let imported = Arc::new(self.device.import(buffer)?);
        // Inodes of dead buffers may be reused, and the cache must not outgrow the live buffers.
        self.imported.retain(|_, known| known.strong_count() > 0);
        self.imported.insert(inode, Arc::downgrade(&imported));
        Ok(imported)
    }
}
