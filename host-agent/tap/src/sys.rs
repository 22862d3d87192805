//! What differs between operating systems, and the little C that threads and libraries need. The only
//! cfg site of this crate.

use std::ffi::{CStr, c_void};

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(crate) use linux::{RECEIVE, SEND, VIRGLRENDERER, new_socket};

#[cfg(not(target_os = "linux"))]
mod macos;
#[cfg(not(target_os = "linux"))]
pub(crate) use macos::{RECEIVE, SEND, VIRGLRENDERER, new_socket};

/// A library that somebody else loaded.
#[derive(Debug)]
pub(crate) struct Library(*mut c_void);

impl Library {
    /// Finds a loaded library; loads nothing. The handle stays open for ever.
    pub(crate) fn loaded(name: &CStr) -> Self {
        // SAFETY: a C string; with RTLD_NOLOAD no code of the library runs.
        Self(unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) })
    }

    /// A symbol; null if there is none. Without the library under its usual name: whatever comes after
    /// us in the search order.
    pub(crate) fn symbol(&self, name: &CStr) -> *mut c_void {
        let handle = if self.0.is_null() { libc::RTLD_NEXT } else { self.0 };
        // SAFETY: an open handle or RTLD_NEXT, and a C string.
        unsafe { libc::dlsym(handle, name.as_ptr()) }
    }
}

/// Runs `spawn` with all signals blocked, so that the thread it starts inherits that: the VMM's
/// signals are for the VMM's threads.
pub(crate) fn without_signals<T>(spawn: impl FnOnce() -> T) -> T {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: room for a set.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: `all` was filled above, `before` has room for a set.
    let failed = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    let result = spawn();
    if failed == 0 {
        // SAFETY: `before` was written by the call that did not fail; null means: don't tell.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    }
    result
}
