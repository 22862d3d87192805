//! A PipeWire context without a configuration file.
//!
//! By default `libpipewire` reads the modules to load from `client.conf`. Debian ships that file with the daemon's
//! programs, not with the library, so in an image with only the library `pw_context_new` fails with "Creation
//! failed". This module loads the modules that a capturing client needs by name. The `pipewire` crate has no
//! wrapper for that call.

#![expect(unsafe_code, reason = "pw_context_add_spa_lib and pw_context_load_module have no safe wrapper")]

use std::ffi::CStr;
use std::ptr;

use pipewire::context::ContextRc;
use pipewire::main_loop::MainLoopRc;
use pipewire::properties::properties;
use pipewire::sys;

/// Patterns of factory names, each with the SPA library that has the factories.
const LIBRARIES: [(&CStr, &CStr); 2] = [
    // Loop and logger.
    (c"support.*", c"support/libspa-support"),
    // Conversion between the daemon's audio format and a stream's.
    (c"audio.convert.*", c"audioconvert/libspa-audioconvert"),
];
/// Modules to load; true if the client cannot work without the module.
const MODULES: [(&CStr, bool); 5] = [
    // The socket protocol.
    (c"libpipewire-module-protocol-native", true),
    // Nodes implemented by a client; a stream is one.
    (c"libpipewire-module-client-node", true),
    (c"libpipewire-module-adapter", false),
    // Interfaces of the session manager.
    (c"libpipewire-module-metadata", false),
    (c"libpipewire-module-session-manager", false),
];

/// Error of [`context`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// `pw_context_new` failed.
    #[error("cannot make a PipeWire context: {0}; install package libspa-0.2-modules")]
    Create(String),
    /// A required module failed to load.
    #[error("cannot load PipeWire module {0}; install package libpipewire-0.3-modules")]
    Module(&'static str),
}

/// Makes a context on `main`'s loop, with the modules of a capturing client.
///
/// # Errors
/// [`ContextError`] if the context, or a required module, is missing.
pub fn context(main: &MainLoopRc) -> Result<ContextRc, ContextError> {
    // libpipewire reads no file if config.name is "null".
    let context = ContextRc::new(main, Some(properties! { "config.name" => "null" }))
        .map_err(|error| ContextError::Create(error.to_string()))?;
    for (factories, library) in LIBRARIES {
        // SAFETY: pw_context_add_spa_lib requires a live context, used from its loop's thread: `context` is borrowed
        // for the call and is not Send. It requires NUL-terminated strings: both are C literals, which it copies.
        // An error leaves the context unchanged and is ignored: streams then fail for want of the library.
        unsafe { sys::pw_context_add_spa_lib(context.as_raw_ptr(), factories.as_ptr(), library.as_ptr()) };
    }
    for (name, required) in MODULES {
        // SAFETY: pw_context_load_module requires a live context, used from its loop's thread: as above. It requires
        // a NUL-terminated name, which it copies: `name` is a C literal. Its arguments and properties may be null.
        // The context owns the returned module and unloads it, so the pointer is only compared with null.
        let module = unsafe {
            sys::pw_context_load_module(context.as_raw_ptr(), name.as_ptr(), ptr::null(), ptr::null_mut())
        };
        if module.is_null() && required {
            return Err(ContextError::Module(name.to_str().unwrap_or("with a name that is not UTF-8")));
        }
    }
    Ok(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_without_configuration_file_speaks_the_native_protocol() {
        pipewire::init();
        let main = MainLoopRc::new(None).expect("a loop");
        let context = context(&main).expect("a context");
        // connect_fd_rc needs the protocol module, and any descriptor: it sends nothing before the loop runs.
        let null = || std::fs::File::open("/dev/null").expect("/dev/null opens").into();
        assert!(context.connect_fd_rc(null(), None).is_ok());
        let bare = ContextRc::new(&main, Some(properties! { "config.name" => "null" })).expect("a context");
        assert!(bare.connect_fd_rc(null(), None).is_err(), "a context without modules has no protocol");
    }
}
