//! GEM handles and who still needs them.
//!
//! Importing one DMA-BUF twice gives the same handle both times, and the kernel counts it once: a close
//! by one user would pull it away from the other. So handles are counted here, and import and close happen
//! under one lock: between "the last user is gone" and the close, nobody can be given the same handle.
//!
//! It does not know what a handle is used for.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::sys;

/// An open node and its handles.
#[derive(Debug)]
pub struct Node {
    fd: OwnedFd,
    users: Mutex<HashMap<u32, usize>>,
}

/// One user's share in a handle; the last one's drop closes it.
#[derive(Debug)]
pub struct Handle {
    node: Arc<Node>,
    handle: u32,
}

impl Node {
    /// Takes charge of an open node.
    pub fn new(fd: OwnedFd) -> Arc<Self> {
        Arc::new(Self { fd, users: Mutex::default() })
    }

    /// The node's descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn users(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        // A count is never left half-written: a panic elsewhere does not make it wrong.
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Handles that are open.
    pub fn open_handles(&self) -> usize {
        self.users().len()
    }

    /// Takes the handle that `make` gets from the kernel.
    pub fn take(
        self: &Arc<Self>,
        make: impl FnOnce(BorrowedFd<'_>) -> io::Result<u32>,
    ) -> io::Result<Handle> {
        let mut users = self.users();
        let handle = make(self.fd())?;
        *users.entry(handle).or_insert(0) += 1;
        Ok(Handle { node: Arc::clone(self), handle })
    }

    fn give_up(&self, handle: u32, close: impl FnOnce(BorrowedFd<'_>, u32)) {
        let mut users = self.users();
        if let Some(count) = users.get_mut(&handle) {
            *count -= 1;
            if *count == 0 {
                users.remove(&handle);
                close(self.fd(), handle);
            }
        }
    }
}

impl Handle {
    /// The number, for an ioctl on [`Self::fd`].
    pub fn raw(&self) -> u32 {
        self.handle
    }

    /// The node that it belongs to.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.node.fd()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.node.give_up(self.handle, |fd, handle| {
            // The handle is ours, so that this can fail only if the device is gone; then so is the handle.
            let _ = sys::gem_close(fd, handle);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Arc<Node> {
        Node::new(std::fs::File::open("/dev/null").expect("/dev/null opens").into())
    }

    #[test]
    fn a_handle_is_closed_by_its_last_user_only() {
        let node = node();
        let first = node.take(|_| Ok(7)).expect("made");
        let second = node.take(|_| Ok(7)).expect("made");
        let other = node.take(|_| Ok(8)).expect("made");
        assert_eq!(node.open_handles(), 2);
        drop(first);
        assert_eq!(node.open_handles(), 2, "the second user still holds handle 7");
        let mut closed = Vec::new();
        node.give_up(second.raw(), |_, handle| closed.push(handle));
        assert_eq!(closed, [7]);
        assert_eq!(node.open_handles(), 1);
        drop(other);
        assert_eq!(node.open_handles(), 0);
        drop(second); // Its share is gone already: nothing to close, nothing to underflow.
    }

    #[test]
    fn a_failed_import_leaves_nothing() {
        let node = node();
        assert!(node.take(|_| Err(io::ErrorKind::InvalidInput.into())).is_err());
        assert_eq!(node.open_handles(), 0);
    }
}
