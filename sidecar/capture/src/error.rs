//! Why there are no frames, in words that name the remedy.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why capture has no frames.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Nothing that could be captured is there yet.
    #[error("no desktop yet: {tried}")]
    NoDesktop {
        /// What was tried, and why each failed.
        tried: String,
    },
    /// No Wayland socket.
    #[error(
        "no Wayland socket in {}; is the compositor up, and do desktop and sidecar share this folder as \
         XDG_RUNTIME_DIR?", .0.display()
    )]
    NoWaylandSocket(PathBuf),
    /// A socket that can't be connected to.
    #[error("cannot connect to {}: {source}{}", path.display(), connect_hint(source))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The compositor can't be captured this way.
    #[error("the compositor at {} offers no {missing}; for GNOME use the PipeWire source", path.display())]
    NoProtocol {
        /// The socket.
        path: PathBuf,
        /// The Wayland interface that is missing.
        missing: &'static str,
    },
    /// The output to capture is not there.
    #[error("the compositor has no output{}; it has: {available}", name.as_ref().map(|name| format!(" {name}")).unwrap_or_default())]
    NoOutput {
        /// The output asked for, or any.
        name: Option<String>,
        /// Those there are.
        available: String,
    },
    /// The other side closed the connection.
    #[error("the {who} went away: {why}")]
    Gone {
        /// Who.
        who: &'static str,
        /// How that was seen.
        why: String,
    },
    /// The other side did not answer.
    #[error("the {who} did not {what} within {after:?}; {remedy}")]
    Timeout {
        /// Who.
        who: &'static str,
        /// What it was to do.
        what: &'static str,
        /// How long was waited.
        after: Duration,
        /// What to look at.
        remedy: &'static str,
    },
    /// Capture failed again and again.
    #[error("the compositor refused {times} captures in a row; is the output enabled?")]
    Refused {
        /// How often.
        times: u32,
    },
    /// A pixel format that we don't carry.
    #[error("the {who} gives pixel format {format}, which can't be streamed; 32-bit RGB formats can")]
    Format {
        /// Who.
        who: &'static str,
        /// The format, as that side names it.
        format: String,
    },
    /// A size beyond what we carry.
    #[error("the picture is {width}x{height}; the limit is {limit} pixels a side, and 1 at least", limit = protocol::pixel::MAX_SIDE)]
    Size {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// DMA-BUF was demanded and can't be had.
    #[error("no DMA-BUF: {0}; capture.memory Auto would take shared memory")]
    NoDmaBuf(String),
    /// No Mutter on the session bus.
    #[error(
        "no org.gnome.Mutter.ScreenCast on the bus {address}: {why}; is gnome-shell up, as the same user?"
    )]
    NoMutter {
        /// The bus.
        address: String,
        /// What went wrong.
        why: String,
    },
    /// Mutter refused.
    #[error("Mutter's {call} failed: {why}")]
    Mutter {
        /// The D-Bus call.
        call: &'static str,
        /// Its error.
        why: String,
    },
    /// PipeWire says no.
    #[error("PipeWire: {0}")]
    PipeWire(String),
    /// A buffer could not be made, imported or mapped.
    #[error("no buffer: {what}: {source}")]
    Buffer {
        /// What was tried.
        what: &'static str,
        /// The system's word.
        source: io::Error,
    },
    /// The system refused something basic.
    #[error("capture cannot run: {0}")]
    Thread(io::Error),
}

fn connect_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run the sidecar with the desktop's uid",
        io::ErrorKind::ConnectionRefused => "; the socket is stale: nobody listens on it",
        io::ErrorKind::NotFound => "; is the desktop up, and do both share this folder?",
        _ => "",
    }
}
