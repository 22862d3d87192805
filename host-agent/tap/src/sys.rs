//! Operating system differences, and the C calls for signals and symbols. The only cfg site of this
//! crate.

#[cfg(not(target_os = "macos"))]
mod linux;
#[cfg(not(target_os = "macos"))]
pub(crate) use linux::{RECEIVE, SEND, arguments, default_folder, new_socket, peer_user};

#[cfg(target_os = "macos")]
mod macos;
#[cfg(target_os = "macos")]
pub(crate) use macos::{RECEIVE, SEND, arguments, default_folder, new_socket, peer_user};

#[cfg(exported)]
mod loaded;
#[cfg(exported)]
pub(crate) use loaded::Originals;

#[cfg(not(exported))]
mod interposed;
#[cfg(not(exported))]
pub(crate) use interposed::Originals;

/// Runs `spawn` with all signals blocked. A thread that it starts inherits the mask, so the VMM's signals
/// are delivered to the VMM's threads only.
pub(crate) fn without_signals<T>(spawn: impl FnOnce() -> T) -> T {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the pointer is to a local with room for a set, which the function initialises.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: `all` was initialised above; `before` is a local with room for a set.
    let failed = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    let result = spawn();
    if failed == 0 {
        // SAFETY: `before` was initialised by the call that succeeded; the old-set pointer may be null.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    }
    result
}
