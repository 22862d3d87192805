//! macOS: the interpose table, and the originals, whose addresses stand in it.
//!
//! dyld reads `__DATA,__interpose` of a library named in DYLD_INSERT_LIBRARIES and has everybody but this library
//! call the replacements. virglrenderer is linked weakly: what a version lacks is null here, and a VMM without it
//! gets nothing from us. The originals are taken from our own imports, never by dlsym, which may answer with a
//! replacement.

use std::ffi::{CStr, c_void};

use crate::ffi;

/// A row: two functions of one C signature.
#[repr(C)]
struct Pair {
    replacement: *const c_void,
    original: *const c_void,
}

// SAFETY: addresses of functions, written by dyld before any of our code runs and read-only from then on.
unsafe impl Sync for Pair {}

macro_rules! table {
    (interposed: $($taken:ident)*; called: $($called:ident)*) => {
        /// Declared for their addresses only; what they take is in `real.rs`.
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

/// What dyld bound.
#[derive(Debug)]
pub(crate) struct Originals;

impl Originals {
    /// Nothing to find.
    pub(crate) fn find() -> Self {
        Self
    }

    /// A function's address; null if this virglrenderer lacks it.
    #[expect(clippy::unused_self, reason = "the same signature as where a library is looked up")]
    pub(crate) fn symbol(&self, name: &CStr) -> *mut c_void {
        address(name).cast_mut()
    }
}
