//! Logging to the VMM's stderr, off unless `DESKTOPSTREAM_TAP_LOG` is set: a preloaded library must not
//! write to its host process's output unasked.

use std::fmt;
use std::io::Write;
use std::sync::OnceLock;

/// Environment variable that turns logging on; any non-empty value.
pub const VARIABLE: &str = "DESKTOPSTREAM_TAP_LOG";

fn enabled() -> bool {
    static ENABLED: OnceLock<bool> = OnceLock::new();
    *ENABLED.get_or_init(|| std::env::var_os(VARIABLE).is_some_and(|value| !value.is_empty()))
}

/// Writes a line if logging is on. Write errors are ignored.
pub fn line(text: fmt::Arguments<'_>) {
    if enabled() {
        let text = format!("desktopstream tap[{}]: {text}\n", std::process::id());
        let _written = std::io::stderr().write_all(text.as_bytes());
    }
}
