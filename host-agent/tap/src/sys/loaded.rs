//! The originals of functions that we export ourselves: looked up in the library that somebody else loaded.

use std::ffi::{CStr, c_void};

/// virglrenderer for the dynamic linker: as every VMM names it, or as our drop-in calls the one that it re-exports.
const LIBRARY: &CStr = if cfg!(feature = "drop-in") {
    c"@loader_path/libvirglrenderer.original.dylib"
} else {
    c"libvirglrenderer.so.1"
};

/// virglrenderer, if it is there.
#[derive(Debug)]
pub(crate) struct Originals(*mut c_void);

impl Originals {
    /// Finds a loaded library; loads nothing. The handle stays open for ever.
    pub(crate) fn find() -> Self {
        // SAFETY: a C string; with RTLD_NOLOAD no code of the library runs.
        Self(unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) })
    }

    /// A symbol; null if there is none. Without the library under its usual name: whatever comes after
    /// us in the search order.
    pub(crate) fn symbol(&self, name: &CStr) -> *mut c_void {
        let handle = if self.0.is_null() { libc::RTLD_NEXT } else { self.0 };
        // SAFETY: an open handle or RTLD_NEXT, and a C string.
        unsafe { libc::dlsym(handle, name.as_ptr()) }
    }
}
