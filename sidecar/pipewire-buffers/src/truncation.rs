//! Survives truncation of memory that the PipeWire daemon shares.
//!
//! libpipewire maps files that the daemon sends: descriptions of buffers, their metadata, activation records. The daemon is a
//! program of the desktop, and libpipewire demands no seals. An access beyond the end of a truncated file raises `SIGBUS`,
//! which would end the process. The handler maps a zeroed page of this process over the missing one, as libwayland-server
//! does for the memory of clients (`wayland-shm.c`), and the access is repeated.

#![expect(unsafe_code, reason = "signal handlers and mappings at fixed addresses are raw")]

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use libc::{c_int, c_void, siginfo_t};

/// Size of a page; 0 until the handler is installed.
static PAGE: AtomicUsize = AtomicUsize::new(0);
/// Number of pages that were replaced.
static REPLACED: AtomicU64 = AtomicU64::new(0);

/// Installs the handler of `SIGBUS` for this process. For programs only: a library does not own its process's signals.
///
/// # Errors
/// The error of `sigaction`.
pub fn survive_truncation() -> io::Result<()> {
    // SAFETY: sysconf has no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    PAGE.store(usize::try_from(page).map_err(io::Error::other)?, Ordering::Relaxed);
    set_handler(handle as *const () as libc::sighandler_t, libc::SA_SIGINFO | libc::SA_ONSTACK)
}

/// Number of pages that were replaced since the start of the process. When it grows, the daemon truncated memory of any stream:
/// the stream reads zeros and must be ended.
pub fn truncated_pages() -> u64 {
    REPLACED.load(Ordering::Relaxed)
}

fn set_handler(handler: libc::sighandler_t, flags: c_int) -> io::Result<()> {
    // SAFETY: `sigaction` is a C structure for which all zeros is valid: no flags, an empty mask, the default handler.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    // SAFETY: `action` is initialised and lives during the call. The handler is `SIG_DFL` or `handle`, which has the
    // signature that `SA_SIGINFO` demands and calls only functions that are async-signal-safe.
    let result = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Replaces the missing page. Every other `SIGBUS` of an access ends the process by the default action when the access is
/// repeated, and one that another process sent ends it by the next one. The handler leaves `errno` unchanged when it
/// returns to an access that succeeds: only failed system calls set it.
extern "C" fn handle(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: with `SA_SIGINFO` the kernel passes a pointer to a `siginfo_t` that lives until the handler returns.
    let info = unsafe { &*info };
    // SAFETY: the kernel fills `si_addr` for SIGBUS; for a signal of `kill` the bytes there are a number.
    let address = unsafe { info.si_addr() } as usize;
    let page = PAGE.load(Ordering::Relaxed);
    if info.si_code != libc::BUS_ADRERR || !replace(address & !(page - 1), page) {
        // Fails only for an invalid signal.
        let _infallible = set_handler(libc::SIG_DFL, 0);
        return;
    }
    REPLACED.fetch_add(1, Ordering::Relaxed);
}

/// Maps a zeroed page at `start`.
fn replace(start: usize, len: usize) -> bool {
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_ANONYMOUS);
    // SAFETY: MAP_FIXED demands that nothing depends on the former mapping at `start`, and that the range is still this
    // mapping's.
    // - The kernel reported BUS_ADRERR for an address in this page: it is of a file that ended before the page. Rust's own
    //   mappings are of sealed files and of GPU buffers, which never shrink, so the page is of a library in C, and any
    //   process that has the file may change its bytes at any time. Zeros in their place are such a change.
    // - The access that faulted is repeated when the handler returns. To unmap the range meanwhile, another thread would
    //   have to unmap memory that this one accesses, which is undefined without the handler too.
    // - If several threads fault on the page, each replaces it, and what one stored before the last replacement is lost:
    //   again a change that the file's other holders could have made.
    let mapped = unsafe { libc::mmap(ptr::without_provenance_mut(start), len, protection, flags, -1, 0) };
    mapped != libc::MAP_FAILED
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsRawFd as _, FromRawFd as _};

    use super::*;

    const LEN: usize = 1 << 20;

    #[test]
    fn truncated_mapping_reads_zeros_and_is_reported() {
        survive_truncation().expect("installed");
        // SAFETY: the name is a C string.
        let fd = unsafe { libc::memfd_create(c"daemon".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: `fd` was just created and has no other owner.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(LEN as u64).expect("sized");
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: the address is null and MAP_FIXED is not set, so the kernel picks a free range.
        let map = unsafe { libc::mmap(ptr::null_mut(), LEN, protection, flags, file.as_raw_fd(), 0) };
        assert_ne!(map, libc::MAP_FAILED);
        let at = |offset: usize| map.cast::<u8>().wrapping_add(offset);
        // SAFETY: the byte is in the mapping, which no other code uses.
        unsafe { at(LEN - 1).write_volatile(7) };
        assert_eq!(truncated_pages(), 0);
        file.set_len(0).expect("truncated");
        for (offset, pages) in [(0, 1), (LEN / 2, 2), (LEN - 1, 3)] {
            // SAFETY: the byte is in the mapping; the handler replaces its missing page.
            assert_eq!(unsafe { at(offset).read_volatile() }, 0);
            assert_eq!(truncated_pages(), pages, "{offset}");
            // SAFETY: as above.
            unsafe { at(offset).write_volatile(1) };
            assert_eq!(truncated_pages(), pages, "the page exists now");
        }
        // SAFETY: the range is the mapping's, and nothing refers to it any more.
        assert_eq!(unsafe { libc::munmap(map, LEN) }, 0);
    }
}
