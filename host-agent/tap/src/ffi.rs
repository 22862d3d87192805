//! The interposed virglrenderer functions, called by the VMM.
//!
//! Each one calls the original and records the event. An event that takes memory or a context away is
//! recorded before the call, so that no reference outlives its object. If this virglrenderer lacks a
//! function, its interposed twin returns `-ENOSYS` or does nothing.
//!
//! build.rs decides whether the functions are exported (Linux, drop-in library) or listed in an interpose
//! table (macOS).
//!
//! Signatures: `virglrenderer.h` of virglrenderer 0.10.4, the same in 1.1.0.
//!
//! # Safety
//! Every function here has the preconditions of the original of the same name. The VMM upholds them,
//! because it calls them in place of the originals.

use std::ffi::{c_char, c_int, c_void};

use crate::abi::{Callbacks, CreateArgs, CreateBlobArgs, VirglBox, iovec};
use crate::hook::Entry;
use crate::memory::{Page, context_name};
use crate::original;
use crate::vmm::Vmm;

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_init(
    cookie: *mut c_void,
    flags: c_int,
    callbacks: *mut Callbacks,
) -> c_int {
    let entry = Entry::enter();
    let Some(init) = original::get().init else { return -libc::ENOSYS };
    // SAFETY: the original's preconditions are ours, and the arguments are passed on unchanged.
    let status = unsafe { init(cookie, flags, callbacks) };
    if status == 0 && !callbacks.is_null() {
        // SAFETY: not null (checked); the original succeeded, so it read this field of the same structure.
        let version = unsafe { (*callbacks).version };
        entry.take_ownership(version.try_into().unwrap_or(0));
    }
    status
}

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_cleanup(cookie: *mut c_void) {
    let entry = Entry::enter();
    entry.record(Vmm::reset);
    if let Some(cleanup) = original::get().cleanup {
        // SAFETY: the original's preconditions are ours, and the arguments are passed on unchanged.
        unsafe { cleanup(cookie) };
    }
}

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_reset() {
    let entry = Entry::enter();
    entry.record(Vmm::reset);
    if let Some(reset) = original::get().reset {
        // SAFETY: the original's preconditions are ours; there are no arguments.
        unsafe { reset() };
    }
}

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_resource_create(
    args: *mut CreateArgs,
    iov: *mut iovec,
    count: u32,
) -> c_int {
    let entry = Entry::enter();
    let Some(create) = original::get().resource_create else { return -libc::ENOSYS };
    // SAFETY: the original's preconditions are ours, and the arguments are passed on unchanged.
    let status = unsafe { create(args, iov, count) };
    if status == 0 && !args.is_null() {
        // SAFETY: not null (checked); the original succeeded, so it read the same structure.
        let made = unsafe { *args };
        // SAFETY: null or `count` entries, by the original's preconditions. The VMM keeps the guest memory
        // mapped until it calls resource_detach_iov, resource_unref, reset or cleanup, each of which
        // drops the page before it calls the original.
        let page = unsafe { Page::from_iov(iov, count as usize) };
        entry.record(|vmm| vmm.resource_create(made, page));
    }
    status
}

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_resource_create_blob(args: *const CreateBlobArgs) -> c_int {
    let entry = Entry::enter();
    let Some(create) = original::get().resource_create_blob else { return -libc::ENOSYS };
    // SAFETY: the original's preconditions are ours, and the arguments are passed on unchanged.
    let status = unsafe { create(args) };
    if status == 0 && !args.is_null() {
        // SAFETY: not null (checked); the original succeeded, so it read the same structure.
        let id = unsafe { (*args).res_handle };
        entry.record(|vmm| vmm.blob_create(id));
    }
    status
}

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_resource_unref(resource: u32) {
    let entry = Entry::enter();
    entry.record(|vmm| vmm.resource_unref(resource));
    if let Some(unref) = original::get().resource_unref {
        // SAFETY: the original's preconditions are ours, and the arguments are passed on unchanged.
        unsafe { unref(resource) };
    }
}

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_resource_attach_iov(
    resource: c_int,
    iov: *mut iovec,
    count: c_int,
) -> c_int {
    let entry = Entry::enter();
    let Some(attach) = original::get().resource_attach_iov else { return -libc::ENOSYS };
    // SAFETY: the original's preconditions are ours, and the arguments are passed on unchanged.
    let status = unsafe { attach(resource, iov, count) };
    if status == 0 {
        // SAFETY: as in resource_create.
        let page = unsafe { Page::from_iov(iov, usize::try_from(count).unwrap_or(0)) };
        entry.record(|vmm| vmm.attach_memory(resource.cast_unsigned(), page));
    }
    status
}

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_resource_detach_iov(
    resource: c_int,
    iov: *mut *mut iovec,
    count: *mut c_int,
) {
    let entry = Entry::enter();
    entry.record(|vmm| vmm.detach_memory(resource.cast_unsigned()));
    if let Some(detach) = original::get().resource_detach_iov {
        // SAFETY: the original's preconditions are ours, and the arguments are passed on unchanged.
        unsafe { detach(resource, iov, count) };
    }
}

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_context_create(
    context: u32,
    name_len: u32,
    name: *const c_char,
) -> c_int {
    let entry = Entry::enter();
    let Some(create) = original::get().context_create else { return -libc::ENOSYS };
    // SAFETY: the original's preconditions are ours, and the arguments are passed on unchanged.
    let status = unsafe { create(context, name_len, name) };
    if status == 0 {
        // SAFETY: null, a C string, or `virtio_gpu_ctx_create.debug_name` of 64 bytes, which QEMU passes on.
        let name = unsafe { context_name(name, name_len) };
        entry.record(|vmm| vmm.context_create(context, name));
    }
    status
}

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_context_create_with_flags(
    context: u32,
    flags: u32,
    name_len: u32,
    name: *const c_char,
) -> c_int {
    let entry = Entry::enter();
    let Some(create) = original::get().context_create_with_flags else { return -libc::ENOSYS };
    // SAFETY: the original's preconditions are ours, and the arguments are passed on unchanged.
    let status = unsafe { create(context, flags, name_len, name) };
    if status == 0 {
        // SAFETY: as in context_create.
        let name = unsafe { context_name(name, name_len) };
        entry.record(|vmm| vmm.context_create(context, name));
    }
    status
}

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_context_destroy(context: u32) {
    let entry = Entry::enter();
    entry.record(|vmm| vmm.context_destroy(context));
    if let Some(destroy) = original::get().context_destroy {
        // SAFETY: the original's preconditions are ours, and the arguments are passed on unchanged.
        unsafe { destroy(context) };
    }
}

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_ctx_attach_resource(context: c_int, resource: c_int) {
    let entry = Entry::enter();
    if let Some(attach) = original::get().ctx_attach_resource {
        // SAFETY: the original's preconditions are ours, and the arguments are passed on unchanged.
        unsafe { attach(context, resource) };
    }
    entry.record(|vmm| vmm.attach(context.cast_unsigned(), resource.cast_unsigned()));
}

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_ctx_detach_resource(context: c_int, resource: c_int) {
    let entry = Entry::enter();
    entry.record(|vmm| vmm.detach(context.cast_unsigned(), resource.cast_unsigned()));
    if let Some(detach) = original::get().ctx_detach_resource {
        // SAFETY: the original's preconditions are ours, and the arguments are passed on unchanged.
        unsafe { detach(context, resource) };
    }
}

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_transfer_write_iov(
    resource: u32,
    context: u32,
    level: c_int,
    stride: u32,
    layer_stride: u32,
    part: *mut VirglBox,
    offset: u64,
    iov: *mut iovec,
    count: u32,
) -> c_int {
    let entry = Entry::enter();
    let Some(write) = original::get().transfer_write_iov else { return -libc::ENOSYS };
    // SAFETY: the original's preconditions are ours, and the arguments are passed on unchanged.
    let status = unsafe { write(resource, context, level, stride, layer_stride, part, offset, iov, count) };
    // Recorded even if the transfer failed: the request is in guest memory, not in the resource.
    entry.record(|vmm| vmm.transfer_write(resource, context, offset));
    status
}
