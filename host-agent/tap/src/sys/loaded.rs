//! Exported entry points: the originals are looked up in the virglrenderer that the VMM loaded.

use std::ffi::{CStr, c_void};

/// Name of virglrenderer's library: the soname that VMMs link against, or the original beside the drop-in
/// library.
const LIBRARY: &CStr = if cfg!(feature = "drop-in") {
    c"@loader_path/libvirglrenderer.original.dylib"
} else {
    c"libvirglrenderer.so.1"
};

/// Handle of virglrenderer; null if it is not loaded under its usual name.
#[derive(Debug)]
pub(crate) struct Originals(*mut c_void);

impl Originals {
    /// Finds the loaded library. Loads nothing, and never closes the handle.
    pub(crate) fn find() -> Self {
        // SAFETY: the name is a C string; with RTLD_NOLOAD no constructors run.
        Self(unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) })
    }

    /// A function's address; null if it does not exist. Without a handle the next definition in the
    /// linker's search order is used.
    pub(crate) fn symbol(&self, name: &CStr) -> *mut c_void {
        let handle = if self.0.is_null() { libc::RTLD_NEXT } else { self.0 };
        // SAFETY: the handle is open or RTLD_NEXT, and the name is a C string.
        unsafe { libc::dlsym(handle, name.as_ptr()) }
    }
}
