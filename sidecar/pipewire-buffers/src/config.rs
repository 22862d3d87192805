//! A PipeWire context that needs no configuration file.
//!
//! `libpipewire` loads its protocol and all else from `client.conf`, which Debian ships with the daemon's
//! programs, not with the library: in an image that has only the library, making a context fails with no more
//! than "Creation failed". What a client that captures needs is short, so it is loaded here by name. The crate
//! has no call for that, which makes this module a fence. It does not know the daemon's configuration, which
//! is the desktop's.

#![expect(unsafe_code, reason = "pw_context_add_spa_lib and pw_context_load_module have no safe wrapper")]

use std::ffi::CStr;
use std::ptr;

use pipewire::context::ContextRc;
use pipewire::main_loop::MainLoopRc;
use pipewire::properties::properties;
use pipewire::sys;

/// The SPA library that has the loop's and the logger's parts.
const SUPPORT: (&CStr, &CStr) = (c"support.*", c"support/libspa-support");
/// The modules to load, and whether nothing works without.
const MODULES: [(&CStr, bool); 5] = [
    // The wire.
    (c"libpipewire-module-protocol-native", true),
    // Nodes of a client's, which streams are.
    (c"libpipewire-module-client-node", true),
    (c"libpipewire-module-adapter", false),
    // What the session manager tells.
    (c"libpipewire-module-metadata", false),
    (c"libpipewire-module-session-manager", false),
];

/// Why there is no context.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The library refused.
    #[error("cannot make a context: {0}; is package libspa-0.2-modules installed?")]
    Context(String),
    /// A module is not there.
    #[error("cannot load {0}; install package libpipewire-0.3-modules")]
    Module(&'static str),
}

/// A context on `main`'s loop.
pub fn context(main: &MainLoopRc) -> Result<ContextRc, ConfigError> {
    // "null" is the library's own name for no configuration.
    let context = ContextRc::new(main, Some(properties! { "config.name" => "null" }))
        .map_err(|error| ConfigError::Context(error.to_string()))?;
    // SAFETY: `context` is alive, both texts end with NUL and are copied. A failure leaves all as it was; the
    // library looks in this place by default.
    unsafe { sys::pw_context_add_spa_lib(context.as_raw_ptr(), SUPPORT.0.as_ptr(), SUPPORT.1.as_ptr()) };
    for (name, required) in MODULES {
        // SAFETY: `context` is alive and this is its thread; the name ends with NUL; arguments and properties may
        // be null. The module belongs to the context, which ends it.
        let module = unsafe {
            sys::pw_context_load_module(context.as_raw_ptr(), name.as_ptr(), ptr::null(), ptr::null_mut())
        };
        if module.is_null() && required {
            return Err(ConfigError::Module(name.to_str().unwrap_or("a module")));
        }
    }
    Ok(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_without_a_file_speaks_the_protocol() {
        pipewire::init();
        let main = MainLoopRc::new(None).expect("a loop");
        let context = context(&main).expect("a context");
        let null = || std::fs::File::open("/dev/null").expect("opens").into();
        // Anything that is a descriptor will do before the first message.
        assert!(context.connect_fd_rc(null(), None).is_ok());
        let bare = ContextRc::new(&main, Some(properties! { "config.name" => "null" })).expect("a context");
        assert!(bare.connect_fd_rc(null(), None).is_err(), "the modules make the difference");
    }
}
