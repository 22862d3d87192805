//! The tap's few words, on the VMM's stderr and only if `DESKTOPSTREAM_TAP_LOG` is set. A preloaded
//! library owns nothing of its host process, its output least of all.

use std::fmt;
use std::io::Write;
use std::sync::OnceLock;

/// The variable that turns logging on.
pub const VARIABLE: &str = "DESKTOPSTREAM_TAP_LOG";

fn enabled() -> bool {
    static ENABLED: OnceLock<bool> = OnceLock::new();
    *ENABLED.get_or_init(|| std::env::var_os(VARIABLE).is_some_and(|value| !value.is_empty()))
}

/// Writes a line if logging is on. Failing to write is no reason to do anything.
pub fn line(text: fmt::Arguments<'_>) {
    if enabled() {
        let text = format!("desktopstream tap[{}]: {text}\n", std::process::id());
        let _written = std::io::stderr().write_all(text.as_bytes());
    }
}
