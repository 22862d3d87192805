//! The virglrenderer functions that the VMM calls, with the tap in front of them.
//!
//! Each calls the real one and books what happened; what takes something away is booked first, so that
//! nothing of it is held when it is gone. A function that this virglrenderer lacks answers ENOSYS.
//!
//! On macOS they may be in an interpose table instead of being exported: build.rs says when.
//!
//! Signatures: `virglrenderer.h` of virglrenderer 0.10.4, the same in 1.1.0. Each function here has the
//! preconditions of its namesake there; the VMM keeps them, as it does not know that we are between.

use std::ffi::{c_char, c_int, c_void};

use crate::abi::{Box3, Callbacks, CreateArgs, CreateBlobArgs, IoVec};
use crate::hook::Entry;
use crate::memory::{Page, context_name};
use crate::real;
use crate::vmm::Vmm;

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_init(
    cookie: *mut c_void,
    flags: c_int,
    callbacks: *mut Callbacks,
) -> c_int {
    let entry = Entry::enter();
    let Some(init) = real::get().init else { return -libc::ENOSYS };
    // SAFETY: the caller's arguments, unchanged.
    let failed = unsafe { init(cookie, flags, callbacks) };
    if failed == 0 && !callbacks.is_null() {
        // SAFETY: not null, and virglrenderer has just read the same field.
        let version = unsafe { (*callbacks).version };
        entry.own(version.try_into().unwrap_or(0));
    }
    failed
}

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_cleanup(cookie: *mut c_void) {
    let entry = Entry::enter();
    entry.book(Vmm::reset);
    if let Some(cleanup) = real::get().cleanup {
        // SAFETY: the caller's arguments, unchanged.
        unsafe { cleanup(cookie) };
    }
}

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_reset() {
    let entry = Entry::enter();
    entry.book(Vmm::reset);
    if let Some(reset) = real::get().reset {
        // SAFETY: takes nothing; called when the caller called it.
        unsafe { reset() };
    }
}

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_resource_create(
    args: *mut CreateArgs,
    iov: *mut IoVec,
    count: u32,
) -> c_int {
    let entry = Entry::enter();
    let Some(create) = real::get().resource_create else { return -libc::ENOSYS };
    // SAFETY: the caller's arguments, unchanged.
    let failed = unsafe { create(args, iov, count) };
    if failed == 0 && !args.is_null() {
        // SAFETY: not null, and virglrenderer has just read it.
        let made = unsafe { *args };
        // SAFETY: `count` parts of guest memory, which stay until resource_detach_iov, resource_unref,
        // reset or cleanup, all of which drop the page first.
        let page = unsafe { Page::from_iov(iov, count as usize) };
        entry.book(|vmm| vmm.resource_create(made, page));
    }
    failed
}

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_resource_create_blob(args: *const CreateBlobArgs) -> c_int {
    let entry = Entry::enter();
    let Some(create) = real::get().resource_create_blob else { return -libc::ENOSYS };
    // SAFETY: the caller's arguments, unchanged.
    let failed = unsafe { create(args) };
    if failed == 0 && !args.is_null() {
        // SAFETY: not null, and virglrenderer has just read it.
        let id = unsafe { (*args).res_handle };
        entry.book(|vmm| vmm.blob_create(id));
    }
    failed
}

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_resource_unref(resource: u32) {
    let entry = Entry::enter();
    entry.book(|vmm| vmm.resource_unref(resource));
    if let Some(unref) = real::get().resource_unref {
        // SAFETY: the caller's arguments, unchanged.
        unsafe { unref(resource) };
    }
}

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_resource_attach_iov(
    resource: c_int,
    iov: *mut IoVec,
    count: c_int,
) -> c_int {
    let entry = Entry::enter();
    let Some(attach) = real::get().resource_attach_iov else { return -libc::ENOSYS };
    // SAFETY: the caller's arguments, unchanged.
    let failed = unsafe { attach(resource, iov, count) };
    if failed == 0 {
        // SAFETY: as in resource_create.
        let page = unsafe { Page::from_iov(iov, usize::try_from(count).unwrap_or(0)) };
        entry.book(|vmm| vmm.attach_memory(resource.cast_unsigned(), page));
    }
    failed
}

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_resource_detach_iov(
    resource: c_int,
    iov: *mut *mut IoVec,
    count: *mut c_int,
) {
    let entry = Entry::enter();
    entry.book(|vmm| vmm.detach_memory(resource.cast_unsigned()));
    if let Some(detach) = real::get().resource_detach_iov {
        // SAFETY: the caller's arguments, unchanged.
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
    let Some(create) = real::get().context_create else { return -libc::ENOSYS };
    // SAFETY: the caller's arguments, unchanged.
    let failed = unsafe { create(context, name_len, name) };
    if failed == 0 {
        // SAFETY: QEMU hands on `virtio_gpu_ctx_create.debug_name`, which has 64 bytes.
        let name = unsafe { context_name(name, name_len) };
        entry.book(|vmm| vmm.context_create(context, name));
    }
    failed
}

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_context_create_with_flags(
    context: u32,
    flags: u32,
    name_len: u32,
    name: *const c_char,
) -> c_int {
    let entry = Entry::enter();
    let Some(create) = real::get().context_create_with_flags else { return -libc::ENOSYS };
    // SAFETY: the caller's arguments, unchanged.
    let failed = unsafe { create(context, flags, name_len, name) };
    if failed == 0 {
        // SAFETY: as in context_create.
        let name = unsafe { context_name(name, name_len) };
        entry.book(|vmm| vmm.context_create(context, name));
    }
    failed
}

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_context_destroy(context: u32) {
    let entry = Entry::enter();
    entry.book(|vmm| vmm.context_destroy(context));
    if let Some(destroy) = real::get().context_destroy {
        // SAFETY: the caller's arguments, unchanged.
        unsafe { destroy(context) };
    }
}

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_ctx_attach_resource(context: c_int, resource: c_int) {
    let entry = Entry::enter();
    if let Some(attach) = real::get().ctx_attach_resource {
        // SAFETY: the caller's arguments, unchanged.
        unsafe { attach(context, resource) };
    }
    entry.book(|vmm| vmm.attach(context.cast_unsigned(), resource.cast_unsigned()));
}

#[cfg_attr(exported, unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn virgl_renderer_ctx_detach_resource(context: c_int, resource: c_int) {
    let entry = Entry::enter();
    entry.book(|vmm| vmm.detach(context.cast_unsigned(), resource.cast_unsigned()));
    if let Some(detach) = real::get().ctx_detach_resource {
        // SAFETY: the caller's arguments, unchanged.
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
    part: *mut Box3,
    offset: u64,
    iov: *mut IoVec,
    count: u32,
) -> c_int {
    let entry = Entry::enter();
    let Some(write) = real::get().transfer_write_iov else { return -libc::ENOSYS };
    // SAFETY: the caller's arguments, unchanged.
    let failed = unsafe { write(resource, context, level, stride, layer_stride, part, offset, iov, count) };
    // Whatever virglrenderer thinks of the transfer: the request lies in the guest's memory.
    entry.book(|vmm| vmm.transfer_write(resource, context, offset));
    failed
}
