//! macOS: the interpose table, which also holds the originals' addresses.
//!
//! dyld reads `__DATA,__interpose` of a library named in DYLD_INSERT_LIBRARIES and redirects the calls of
//! all other images to the replacements. virglrenderer is linked weakly: a function that a version lacks
//! is null, and a VMM without virglrenderer is not affected. The originals' addresses come from this
//! library's imports and not from dlsym, which may return a replacement.

use std::ffi::{CStr, c_void};

use crate::ffi;

/// A table row: two functions with the same C signature.
#[repr(C)]
struct Pair {
    replacement: *const c_void,
    original: *const c_void,
}

// SAFETY: the fields are function addresses that dyld writes before any code of this library runs; they
// are only read afterwards, so sharing them between threads is sound.
unsafe impl Sync for Pair {}

macro_rules! table {
    (interposed: $($taken:ident)*; called: $($called:ident)*) => {
        /// Declared for their addresses only; `original.rs` has the signatures.
        mod original {
            unsafe extern "C" {
                $(pub(super) fn $taken();)*
                $(pub(super) fn $called();)*
            }
        }

        const ROWS: usize = [$(stringify!($taken)),*].len();

        #[used]
        #[unsafe(link_section = "__DATA,__interpose")]
        static TABLE: [Pair; ROWS] = [
            $(Pair {
                replacement: ffi::$taken as *const c_void,
                original: original::$taken as *const c_void,
            }),*
        ];

        fn address(name: &CStr) -> *const c_void {
            let Ok(name) = name.to_str() else { return std::ptr::null() };
            let taken = [$(stringify!($taken)),*];
            if let Some(at) = taken.iter().position(|taken| *taken == name) {
                return TABLE.get(at).map_or(std::ptr::null(), |pair| pair.original);
            }
            match name {
                $(stringify!($called) => original::$called as *const c_void,)*
                _ => std::ptr::null(),
            }
        }
    };
}

table! {
    interposed:
        virgl_renderer_init
        virgl_renderer_cleanup
        virgl_renderer_reset
        virgl_renderer_resource_create
        virgl_renderer_resource_create_blob
        virgl_renderer_resource_unref
        virgl_renderer_resource_attach_iov
        virgl_renderer_resource_detach_iov
        virgl_renderer_context_create
        virgl_renderer_context_create_with_flags
        virgl_renderer_context_destroy
        virgl_renderer_ctx_attach_resource
        virgl_renderer_ctx_detach_resource
        virgl_renderer_transfer_write_iov;
    called:
        virgl_renderer_force_ctx_0
        virgl_renderer_transfer_read_iov
}

/// The functions that dyld bound.
#[derive(Debug)]
pub(crate) struct Originals;

impl Originals {
    /// Does nothing: dyld has bound the functions.
    pub(crate) fn find() -> Self {
        Self
    }

    /// A function's address; null if this virglrenderer lacks it.
    #[expect(clippy::unused_self, reason = "has the signature of the variant that looks up a library")]
    pub(crate) fn symbol(&self, name: &CStr) -> *mut c_void {
        address(name).cast_mut()
    }
}
