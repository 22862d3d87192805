//! Resolve: from a compositor's DMA-BUF to the buffer as the tap knows it, once per buffer.
//!
//! A compositor cycles through a few buffers and names each by a descriptor, which is only this process's
//! number for it. `PRIME_FD_TO_HANDLE` gives a GEM handle, which is only this *open of the node's* number for
//! it, counted from 1 and reused. Neither says anything outside: the predecessor sent the handle and read other
//! people's buffers, or none. The number that guest kernel and virglrenderer share is the *resource ID*, by
//! `RESOURCE_INFO`. Import also attaches the resource to our context, which is what entitles us to ask for it.
//!
//! Both ioctls together cost up to a millisecond, so what was resolved is kept for as long as somebody holds
//! it. A DMA-BUF is recognised by its inode, which the kernel gives to it alone: descriptors of the same
//! buffer differ, and closed ones are reused. It does not know PipeWire or Wayland.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};

use virtgpu::{Device, Imported};

/// Remembers which buffer is which.
#[derive(Debug)]
pub struct Resolver {
    device: Device,
    known: HashMap<Inode, Weak<Imported>>,
}

/// (device, inode) of a DMA-BUF.
type Inode = (u64, u64);

impl Resolver {
    /// A resolver that knows nothing yet.
    pub fn new(device: Device) -> Self {
        Self { device, known: HashMap::new() }
    }

    /// The buffer behind a descriptor.
    pub fn resolve(&mut self, buffer: impl AsFd) -> io::Result<Arc<Imported>> {
        let stat = rustix::fs::fstat(&buffer)?;
        let inode = (stat.st_dev, stat.st_ino);
        if let Some(imported) = self.known.get(&inode).and_then(Weak::upgrade) {
            return Ok(imported);
        }
        let imported = Arc::new(self.device.import(buffer)?);
        // Bounded by what is alive: inodes of dead buffers may be reused.
        self.known.retain(|_, known| known.strong_count() > 0);
        self.known.insert(inode, Arc::downgrade(&imported));
        Ok(imported)
    }
}
