//! One function per ioctl: borrowed descriptor in, `io::Result` out, nothing kept.
//!
//! It does not know who owns a handle or when one may be closed: that is [`gem`](crate::gem).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::ioctl::{Opcode, Updater, ioctl};

use crate::uapi;

/// Calls ioctl `OP` with `value` as its argument, again if a signal came.
///
/// # Safety
///
/// `T` must be the structure that the kernel's ioctl `OP` reads and writes, and every address inside it
/// must be writable for as long as the kernel was told.
unsafe fn call<const OP: Opcode, T>(fd: BorrowedFd<'_>, value: &mut T) -> io::Result<()> {
    loop {
        // SAFETY: the caller vouches that `OP` takes a `T`.
        let arg = unsafe { Updater::<OP, T>::new(value) };
        // SAFETY: the kernel reads and writes one `T`, which is borrowed mutably for the whole call;
        // addresses inside it are the caller's promise.
        match unsafe { ioctl(fd, arg) } {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Name of the kernel driver behind a DRM node.
pub fn driver_name(fd: BorrowedFd<'_>) -> io::Result<String> {
    let mut name = [0u8; 64];
    let name_len = name.len();
    let mut version =
        uapi::Version { name_len, name: name.as_mut_ptr().expose_provenance(), ..Default::default() };
    // SAFETY: VERSION takes a `drm_version`; `name` is writable for `name_len` bytes and outlives the call;
    // the other two texts have length 0, so that the kernel does not write them.
    unsafe { call::<{ uapi::VERSION }, _>(fd, &mut version) }?;
    let len = version.name_len.min(name.len());
    Ok(String::from_utf8_lossy(&name[..len]).into_owned())
}

/// One of the driver's parameters; `EINVAL` means that this kernel does not know it.
pub fn get_param(fd: BorrowedFd<'_>, param: u64) -> io::Result<u64> {
    let mut value = 0u64;
    let mut arg = uapi::GetParam { param, value: (&raw mut value).expose_provenance() as u64 };
    // SAFETY: GETPARAM takes a `drm_virtgpu_getparam` and writes an `int` to the address in it, which is
    // that of an eight-byte local that outlives the call.
    unsafe { call::<{ uapi::GETPARAM }, _>(fd, &mut arg) }?;
    // SAFETY: `value` is initialised and aligned. The read is volatile because the write was the kernel's.
    Ok(unsafe { (&raw const value).read_volatile() })
}

/// The GEM handle of a DMA-BUF in this open of the node; the same buffer gives the same handle.
pub fn prime_import(fd: BorrowedFd<'_>, buffer: BorrowedFd<'_>) -> io::Result<u32> {
    let mut arg = uapi::PrimeHandle { fd: buffer.as_raw_fd(), ..Default::default() };
    // SAFETY: PRIME_FD_TO_HANDLE takes a `drm_prime_handle`; there are no addresses in it.
    unsafe { call::<{ uapi::PRIME_FD_TO_HANDLE }, _>(fd, &mut arg) }?;
    Ok(arg.handle)
}

/// A DMA-BUF for a GEM handle.
pub fn prime_export(fd: BorrowedFd<'_>, handle: u32) -> io::Result<OwnedFd> {
    let flags = rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::RDWR;
    let mut arg = uapi::PrimeHandle { handle, flags: flags.bits(), fd: -1 };
    // SAFETY: PRIME_HANDLE_TO_FD takes a `drm_prime_handle`; there are no addresses in it.
    unsafe { call::<{ uapi::PRIME_HANDLE_TO_FD }, _>(fd, &mut arg) }?;
    // SAFETY: on success the kernel has installed a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(arg.fd) })
}

/// Closes a GEM handle.
pub fn gem_close(fd: BorrowedFd<'_>, handle: u32) -> io::Result<()> {
    let mut arg = uapi::GemClose { handle, pad: 0 };
    // SAFETY: GEM_CLOSE takes a `drm_gem_close`; there are no addresses in it. Mappings made from the
    // handle stay valid: the kernel's object lives until they are gone.
    unsafe { call::<{ uapi::GEM_CLOSE }, _>(fd, &mut arg) }
}

/// Resource ID, size and kind of memory of a GEM handle.
pub fn resource_info(fd: BorrowedFd<'_>, handle: u32) -> io::Result<uapi::ResourceInfo> {
    let mut arg = uapi::ResourceInfo { bo_handle: handle, ..Default::default() };
    // SAFETY: RESOURCE_INFO takes a `drm_virtgpu_resource_info`; there are no addresses in it.
    unsafe { call::<{ uapi::RESOURCE_INFO }, _>(fd, &mut arg) }?;
    Ok(arg)
}

/// Makes a resource; the kernel fills in `bo_handle` and `res_handle`.
pub fn resource_create(
    fd: BorrowedFd<'_>,
    mut arg: uapi::ResourceCreate,
) -> io::Result<uapi::ResourceCreate> {
    // SAFETY: RESOURCE_CREATE takes a `drm_virtgpu_resource_create`; there are no addresses in it.
    unsafe { call::<{ uapi::RESOURCE_CREATE }, _>(fd, &mut arg) }?;
    Ok(arg)
}

/// Where in the node's file the pages of a GEM handle can be mapped.
pub fn map_offset(fd: BorrowedFd<'_>, handle: u32) -> io::Result<u64> {
    let mut arg = uapi::Map { handle, ..Default::default() };
    // SAFETY: MAP takes a `drm_virtgpu_map`; there are no addresses in it, it maps nothing yet.
    unsafe { call::<{ uapi::MAP }, _>(fd, &mut arg) }?;
    Ok(arg.offset)
}

/// Queues a copy from the resource's guest pages to the host.
pub fn transfer_to_host(fd: BorrowedFd<'_>, mut arg: uapi::Transfer) -> io::Result<()> {
    // SAFETY: TRANSFER_TO_HOST takes a `drm_virtgpu_3d_transfer_to_host`; there are no addresses in it.
    unsafe { call::<{ uapi::TRANSFER_TO_HOST }, _>(fd, &mut arg) }
}

/// Queues a copy from the host into the resource's guest pages. Those are mapped as shared memory, which
/// no reference of Rust's may cover meanwhile; [`import`](crate::import) sees to that.
pub fn transfer_from_host(fd: BorrowedFd<'_>, mut arg: uapi::Transfer) -> io::Result<()> {
    // SAFETY: TRANSFER_FROM_HOST takes a `drm_virtgpu_3d_transfer_from_host`; there are no addresses in it.
    unsafe { call::<{ uapi::TRANSFER_FROM_HOST }, _>(fd, &mut arg) }
}

/// Waits until the host is through with all that was queued for a GEM handle; the kernel gives up after
/// 15 s with `EBUSY`.
pub fn wait(fd: BorrowedFd<'_>, handle: u32) -> io::Result<()> {
    let mut arg = uapi::Wait { handle, flags: 0 };
    // SAFETY: WAIT takes a `drm_virtgpu_3d_wait`; there are no addresses in it.
    unsafe { call::<{ uapi::WAIT }, _>(fd, &mut arg) }
}

/// Whether the host still has something queued for a GEM handle.
pub fn is_busy(fd: BorrowedFd<'_>, handle: u32) -> io::Result<bool> {
    let mut arg = uapi::Wait { handle, flags: uapi::WAIT_NOWAIT };
    // SAFETY: as for `wait`.
    match unsafe { call::<{ uapi::WAIT }, _>(fd, &mut arg) } {
        Ok(()) => Ok(false),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => Ok(true),
        Err(error) => Err(error),
    }
}
