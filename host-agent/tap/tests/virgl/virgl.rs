//! virglrenderer as a VMM calls it: loaded like by QEMU's GPU module, and called through the names that the
//! tap interposes.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use tap::abi::{CreateArgs, VirglBox, iovec};

use crate::egl;

#[repr(C)]
struct Callbacks {
    version: c_int,
    write_fence: extern "C" fn(*mut c_void, u32),
    create: extern "C" fn(*mut c_void, c_int, *const egl::ContextParameters) -> *mut c_void,
    destroy: extern "C" fn(*mut c_void, *mut c_void),
    make_current: extern "C" fn(*mut c_void, c_int, *mut c_void) -> c_int,
}

/// virglrenderer refuses a null cookie and does not dereference others.
const COOKIE: *mut c_void = std::ptr::dangling_mut();

extern "C" fn write_fence(_: *mut c_void, _: u32) {}

/// As in QEMU 7.2: version 1 ends with `make_current`.
static mut CALLBACKS: Callbacks = Callbacks {
    version: 1,
    write_fence,
    create: egl::create,
    destroy: egl::destroy,
    make_current: egl::make_current,
};

fn library() -> *mut c_void {
    static LIBRARY: OnceLock<usize> = OnceLock::new();
    *LIBRARY.get_or_init(|| {
        // SAFETY: the name is a C string; the library's constructors have no preconditions.
        let library =
            unsafe { libc::dlopen(c"libvirglrenderer.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!library.is_null(), "libvirglrenderer.so.1: install libvirglrenderer1");
        library as usize
    }) as *mut c_void
}

/// The symbol that a program linked against virglrenderer gets: the tap's, as it is preloaded.
fn linked(name: &CStr) -> *mut c_void {
    library();
    // SAFETY: the name is a C string.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    assert!(!symbol.is_null(), "the tap is not preloaded: no {name:?}");
    symbol
}

/// virglrenderer's own symbol.
fn bare(name: &CStr) -> *mut c_void {
    // SAFETY: the library is open and the name is a C string.
    let symbol = unsafe { libc::dlsym(library(), name.as_ptr()) };
    assert!(!symbol.is_null(), "no {name:?}");
    symbol
}

macro_rules! call {
    ($from:ident $name:literal ($($arg:expr => $ty:ty),*) $(-> $ret:ty)?) => {{
        let symbol = $from($name);
        // SAFETY: the symbol is the function of that name, which has this signature (virglrenderer.h 0.10.4).
        let function = unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($ty),*) $(-> $ret)?>(symbol) };
        // SAFETY: all pointer arguments in this file are to memory that outlives the call and has the size that the
        // other arguments give.
        unsafe { function($($arg),*) }
    }};
}

pub fn init() -> c_int {
    let callbacks = &raw mut CALLBACKS;
    call!(linked c"virgl_renderer_init" (COOKIE => *mut c_void, 0 => c_int, callbacks.cast() => *mut c_void) -> c_int)
}

pub fn cleanup() {
    call!(linked c"virgl_renderer_cleanup" (COOKIE => *mut c_void));
}

pub fn reset() {
    call!(linked c"virgl_renderer_reset" ());
}

pub fn context_create(id: u32, name: &str) -> c_int {
    call!(linked c"virgl_renderer_context_create"
        (id => u32, name.len() as u32 => u32, name.as_ptr().cast() => *const c_char) -> c_int)
}

pub fn context_destroy(id: u32) {
    call!(linked c"virgl_renderer_context_destroy" (id => u32));
}

pub fn resource_create(mut args: CreateArgs) -> c_int {
    call!(linked c"virgl_renderer_resource_create"
        (&raw mut args => *mut CreateArgs, std::ptr::null_mut() => *mut iovec, 0 => u32) -> c_int)
}

pub fn resource_unref(id: u32) {
    call!(linked c"virgl_renderer_resource_unref" (id => u32));
}

/// Attaches memory, which must never be freed, to a resource.
pub fn resource_attach(id: u32, memory: *mut c_void, len: usize) -> c_int {
    let iov: *mut iovec = Box::leak(Box::new(iovec { iov_base: memory, iov_len: len }));
    call!(linked c"virgl_renderer_resource_attach_iov" (id as c_int => c_int, iov => *mut iovec, 1 => c_int) -> c_int)
}

pub fn resource_detach(id: u32) {
    let (mut iov, mut count) = (std::ptr::null_mut::<iovec>(), 0);
    call!(linked c"virgl_renderer_resource_detach_iov"
        (id as c_int => c_int, &raw mut iov => *mut *mut iovec, &raw mut count => *mut c_int));
}

pub fn ctx_attach(context: u32, resource: u32) {
    call!(linked c"virgl_renderer_ctx_attach_resource" (context as c_int => c_int, resource as c_int => c_int));
}

pub fn ctx_detach(context: u32, resource: u32) {
    call!(linked c"virgl_renderer_ctx_detach_resource" (context as c_int => c_int, resource as c_int => c_int));
}

/// Transfers a resource's guest memory to the host (TRANSFER_TO_HOST), as QEMU does.
pub fn transfer(resource: u32, context: u32, mut part: VirglBox, stride: u32, offset: u64) -> c_int {
    call!(linked c"virgl_renderer_transfer_write_iov" (
        resource => u32, context => u32, 0 => c_int, stride => u32, 0 => u32, &raw mut part => *mut VirglBox,
        offset => u64, std::ptr::null_mut() => *mut iovec, 0 => u32
    ) -> c_int)
}

/// Reads a resource without the tap.
pub fn bare_read(resource: u32, width: u32, height: u32, out: &mut [u8]) -> c_int {
    assert!(out.len() >= (4 * width * height) as usize);
    let mut iov = iovec { iov_base: out.as_mut_ptr().cast(), iov_len: out.len() };
    let mut part = VirglBox { x: 0, y: 0, z: 0, w: width, h: height, d: 1 };
    call!(bare c"virgl_renderer_force_ctx_0" ());
    call!(bare c"virgl_renderer_transfer_read_iov" (
        resource => u32, 0 => u32, 0 => u32, 4 * width => u32, 0 => u32, &raw mut part => *mut VirglBox,
        0 => u64, &raw mut iov => *mut iovec, 1 => c_int
    ) -> c_int)
}
