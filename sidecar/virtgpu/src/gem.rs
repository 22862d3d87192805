//! Reference-counted GEM handles.
//!
//! Importing one DMA-BUF twice returns the same handle, and the kernel closes it at the first `GEM_CLOSE`. Users of a
//! handle are therefore counted here. Import and close run under one lock: otherwise an import could return a handle
//! that another thread is about to close.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use drm::buffer;
use drm::control::Device as _;
use parking_lot::Mutex;

use crate::sys;

/// Open DRM node and the use counts of its GEM handles.
#[derive(Debug)]
pub struct Node {
    fd: OwnedFd,
    users: Mutex<HashMap<buffer::Handle, usize>>,
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl drm::Device for Node {}
impl drm::control::Device for Node {}

/// One use of a GEM handle; dropping the last one closes the handle.
#[derive(Debug)]
pub struct Handle {
    node: Arc<Node>,
    handle: buffer::Handle,
}

impl Node {
    /// Wraps an open node.
    pub fn new(fd: OwnedFd) -> Arc<Self> {
        Arc::new(Self { fd, users: Mutex::default() })
    }

    /// Number of open GEM handles.
    pub fn open_handles(&self) -> usize {
        self.users.lock().len()
    }

    /// Counts one more use of the handle that `make` obtains from the kernel.
    pub fn take(
        self: &Arc<Self>,
        make: impl FnOnce(&Self) -> io::Result<buffer::Handle>,
    ) -> io::Result<Handle> {
        let mut users = self.users.lock();
        let handle = make(self)?;
        *users.entry(handle).or_insert(0) += 1;
        Ok(Handle { node: Arc::clone(self), handle })
    }

    /// Ends one use of `handle`, and calls `close` if it was the last.
    fn release(&self, handle: buffer::Handle, close: impl FnOnce(&Self, buffer::Handle)) {
        let mut users = self.users.lock();
        if let Some(count) = users.get_mut(&handle) {
            *count -= 1;
            if *count == 0 {
                users.remove(&handle);
                close(self, handle);
            }
        }
    }
}

impl Handle {
    /// Handle for an ioctl on [`Self::node`].
    pub fn raw(&self) -> buffer::Handle {
        self.handle
    }

    /// Node that the handle belongs to.
    pub fn node(&self) -> &Node {
        &self.node
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.node.release(self.handle, |node, handle| {
            // The handle is open, so this fails only if the device was removed, which closes the handle too.
            let _ = sys::retry(|| node.close_buffer(handle));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Arc<Node> {
        Node::new(std::fs::File::open("/dev/null").expect("/dev/null opens").into())
    }

    fn handle(number: u32) -> io::Result<buffer::Handle> {
        drm::control::from_u32(number).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    #[test]
    fn shared_handle_is_closed_by_its_last_user() {
        let node = node();
        let first = node.take(|_| handle(7)).expect("made");
        let second = node.take(|_| handle(7)).expect("made");
        let other = node.take(|_| handle(8)).expect("made");
        assert_eq!(node.open_handles(), 2);
        drop(first);
        assert_eq!(node.open_handles(), 2, "the second user still holds handle 7");
        let mut closed = Vec::new();
        node.release(second.raw(), |_, handle| closed.push(u32::from(handle)));
        assert_eq!(closed, [7]);
        assert_eq!(node.open_handles(), 1);
        drop(other);
        assert_eq!(node.open_handles(), 0);
        // Released above: the drop must neither close again nor underflow.
        drop(second);
    }

    #[test]
    fn failed_import_counts_no_handle() {
        let node = node();
        assert!(node.take(|_| Err(io::ErrorKind::InvalidInput.into())).is_err());
        assert_eq!(node.open_handles(), 0);
    }
}
