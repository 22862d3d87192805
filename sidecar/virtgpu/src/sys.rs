//! The virtio-gpu driver's ioctls, one function each: borrowed descriptor in, `io::Result` out, no state.
//!
//! Ownership of GEM handles is [`gem`](crate::gem)'s.

use std::io;
use std::os::fd::BorrowedFd;

use drm::buffer;
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl};

use crate::uapi;

/// Issues ioctl `OP` with `value` as its argument; repeats it on `EINTR` and `EAGAIN`, as libdrm does.
///
/// # Safety
///
/// - `T` must be the structure that ioctl `OP` reads and writes.
/// - Memory at addresses inside `value` must be valid for the kernel's accesses until the ioctl returns.
unsafe fn call<const OP: Opcode, T>(fd: BorrowedFd<'_>, value: &mut T) -> io::Result<()> {
    retry(|| {
        // SAFETY: `Updater::new` requires that `OP` takes a `T`: the caller's first obligation.
        let arg = unsafe { Updater::<OP, T>::new(value) };
        // SAFETY: `ioctl` requires that the kernel's accesses stay within the argument, which is a `T` borrowed
        // mutably for the call; those at addresses inside it are the caller's second obligation.
        Ok(unsafe { ioctl(fd, arg) }?)
    })
}

/// Repeats a DRM ioctl while it fails with `EINTR` or `EAGAIN`.
pub fn retry<T>(mut ioctl: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match ioctl() {
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::INTR | Errno::AGAIN)) => {}
            result => return result,
        }
    }
}

/// Reads a driver parameter of [`uapi::param`].
///
/// # Errors
///
/// `EINVAL` if this kernel does not have the parameter.
pub fn get_param(fd: BorrowedFd<'_>, param: u64) -> io::Result<u64> {
    let mut value = 0u64;
    let mut arg = uapi::GetParam { param, value: (&raw mut value).expose_provenance() as u64 };
    // SAFETY: GETPARAM takes a `drm_virtgpu_getparam`. The kernel writes an `int` (4 bytes) to the address in it,
    // which is that of `value`: 8 bytes, writable, alive until the call returns.
    unsafe { call::<{ uapi::GETPARAM }, _>(fd, &mut arg) }?;
    // SAFETY: `value` is initialised and aligned. The read is volatile because the compiler does not see the
    // kernel's write.
    Ok(unsafe { (&raw const value).read_volatile() })
}

/// Resource ID, size in bytes and memory kind of a GEM handle.
pub fn resource_info(fd: BorrowedFd<'_>, handle: buffer::Handle) -> io::Result<uapi::ResourceInfo> {
    let mut arg = uapi::ResourceInfo { bo_handle: handle.into(), ..Default::default() };
    // SAFETY: RESOURCE_INFO takes a `drm_virtgpu_resource_info`, which contains no addresses.
    unsafe { call::<{ uapi::RESOURCE_INFO }, _>(fd, &mut arg) }?;
    Ok(arg)
}

/// Creates a resource; the kernel fills in `bo_handle` and `res_handle`.
pub fn resource_create(
    fd: BorrowedFd<'_>,
    mut arg: uapi::ResourceCreate,
) -> io::Result<uapi::ResourceCreate> {
    // SAFETY: RESOURCE_CREATE takes a `drm_virtgpu_resource_create`, which contains no addresses.
    unsafe { call::<{ uapi::RESOURCE_CREATE }, _>(fd, &mut arg) }?;
    Ok(arg)
}

/// Offset in the node's file at which the pages of a GEM handle can be mapped.
pub fn map_offset(fd: BorrowedFd<'_>, handle: buffer::Handle) -> io::Result<u64> {
    let mut arg = uapi::Map { handle: handle.into(), ..Default::default() };
    // SAFETY: MAP takes a `drm_virtgpu_map`, which contains no addresses; it only reserves an offset for mmap.
    unsafe { call::<{ uapi::MAP }, _>(fd, &mut arg) }?;
    Ok(arg.offset)
}

/// Queues a copy from the resource's guest pages to the host.
pub fn transfer_to_host(fd: BorrowedFd<'_>, mut arg: uapi::Transfer) -> io::Result<()> {
    // SAFETY: TRANSFER_TO_HOST takes a `drm_virtgpu_3d_transfer_to_host`, which contains no addresses. The device
    // only reads the guest pages.
    unsafe { call::<{ uapi::TRANSFER_TO_HOST }, _>(fd, &mut arg) }
}

/// Queues a copy from the host into the resource's guest pages. The pages may be mapped here: callers must not hold
/// a slice of them until the copy has completed, which [`import`](crate::import) ensures.
pub fn transfer_from_host(fd: BorrowedFd<'_>, mut arg: uapi::Transfer) -> io::Result<()> {
    // SAFETY: TRANSFER_FROM_HOST takes a `drm_virtgpu_3d_transfer_from_host`, which contains no addresses.
    unsafe { call::<{ uapi::TRANSFER_FROM_HOST }, _>(fd, &mut arg) }
}

/// Waits until the host has completed all commands queued for a GEM handle.
///
/// # Errors
///
/// `EBUSY` after 15 s, the kernel's limit.
pub fn wait(fd: BorrowedFd<'_>, handle: buffer::Handle) -> io::Result<()> {
    let mut arg = uapi::Wait { handle: handle.into(), flags: 0 };
    // SAFETY: WAIT takes a `drm_virtgpu_3d_wait`, which contains no addresses.
    unsafe { call::<{ uapi::WAIT }, _>(fd, &mut arg) }
}

/// True while commands for a GEM handle are queued.
pub fn is_busy(fd: BorrowedFd<'_>, handle: buffer::Handle) -> io::Result<bool> {
    let mut arg = uapi::Wait { handle: handle.into(), flags: uapi::WAIT_NOWAIT };
    // SAFETY: WAIT takes a `drm_virtgpu_3d_wait`, which contains no addresses.
    match unsafe { call::<{ uapi::WAIT }, _>(fd, &mut arg) } {
        Ok(()) => Ok(false),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => Ok(true),
        Err(error) => Err(error),
    }
}
