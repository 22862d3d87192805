//! Capture errors. Each message names what failed and the remedy.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::negotiated::ShmReason;

/// Error that ends one attempt to capture.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// [`Source::Auto`](crate::Source::Auto) found neither a Wayland compositor nor Mutter.
    #[error("no desktop found: {wayland}; {mutter}")]
    NoDesktop {
        /// Result of the attempt with wlr-screencopy.
        wayland: Box<CaptureError>,
        /// Result of the attempt with Mutter.
        mutter: Box<CaptureError>,
    },
    /// The runtime directory contains no Wayland socket.
    #[error(
        "no Wayland socket in {}; start the compositor, and mount its XDG_RUNTIME_DIR into the sidecar",
        .0.display()
    )]
    NoWaylandSocket(PathBuf),
    /// Connecting to a socket failed.
    #[error("cannot connect to {}: {source}{}", path.display(), connect_remedy(source))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The compositor lacks a required Wayland protocol.
    #[error("the compositor at {} lacks {missing}; for GNOME use the PipeWire source", path.display())]
    NoProtocol {
        /// The compositor's socket.
        path: PathBuf,
        /// The missing Wayland interface.
        missing: &'static str,
    },
    /// The requested output does not exist.
    #[error(
        "the compositor has no output{}; available: {available}",
        name.as_ref().map(|name| format!(" {name}")).unwrap_or_default()
    )]
    NoOutput {
        /// The requested output; `None` if any would do.
        name: Option<String>,
        /// Comma-separated names of the existing outputs.
        available: String,
    },
    /// The peer closed the connection, or ended the object being captured.
    #[error("connection to the {peer} lost: {reason}")]
    Disconnected {
        /// The peer, e.g. `compositor`.
        peer: &'static str,
        /// How the loss was detected.
        reason: String,
    },
    /// The peer did not complete an operation in time.
    #[error("the {peer} did not {operation} within {after:?}; {remedy}")]
    Timeout {
        /// The peer, e.g. `compositor`.
        peer: &'static str,
        /// The operation, as an infinitive.
        operation: &'static str,
        /// Time waited.
        after: Duration,
        /// Remedy for the user, an imperative sentence.
        remedy: &'static str,
    },
    /// Too many consecutive captures failed.
    #[error("the compositor failed {failures} consecutive captures; check that the output is enabled")]
    CaptureFailed {
        /// Number of consecutive failures.
        failures: u32,
    },
    /// The source produces an unsupported pixel format.
    #[error("unsupported pixel format {format} from the {peer}; use a 32-bit RGB format")]
    Format {
        /// The peer, e.g. `compositor`.
        peer: &'static str,
        /// The format's name in the peer's protocol.
        format: String,
    },
    /// The picture's size is out of range.
    #[error(
        "unsupported size {width}x{height}; width and height must be between 1 and {limit} pixels",
        limit = protocol::pixel::MAX_SIDE
    )]
    Size {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// [`Memory::DmaBuf`](crate::Memory::DmaBuf) was requested and only shared memory is available.
    #[error(
        "DMA-BUF is required but not available: {0}; set the capture memory to auto to allow shared memory"
    )]
    NoDmaBuf(ShmReason),
    /// Mutter's screen cast service is not available on the session bus.
    #[error(
        "org.gnome.Mutter.ScreenCast is not available on the bus {address}: {reason}; start gnome-shell, \
         as the user that the sidecar runs as"
    )]
    NoMutter {
        /// D-Bus address of the session bus.
        address: String,
        /// Underlying error.
        reason: String,
    },
    /// A D-Bus call to Mutter failed.
    #[error("Mutter's {call} failed: {reason}")]
    Mutter {
        /// D-Bus method or signal.
        call: &'static str,
        /// Underlying error.
        reason: String,
    },
    /// A PipeWire call failed, or the stream entered its error state.
    #[error("PipeWire: {0}")]
    PipeWire(String),
    /// A buffer could not be created, imported or mapped.
    #[error("buffer error: {operation}: {source}")]
    Buffer {
        /// The failed operation, as a gerund.
        operation: &'static str,
        /// The operating system's error.
        source: io::Error,
    },
    /// A system call failed that capture cannot work without.
    #[error("capture cannot run: {0}")]
    System(io::Error),
}

fn connect_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run the sidecar with the desktop's uid",
        io::ErrorKind::ConnectionRefused => "; the socket is stale: restart the desktop",
        io::ErrorKind::NotFound => "; start the desktop, and mount its runtime directory into the sidecar",
        _ => "",
    }
}
