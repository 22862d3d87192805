//! Reasons why sound is not available, each with a remedy.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Error of the capture.
#[derive(Debug, thiserror::Error)]
pub enum AudioError {
    /// The PipeWire socket cannot be opened.
    #[error(
        "cannot connect to {path}: {source}; run pipewire, wireplumber and pipewire-pulse in the desktop, with the same XDG_RUNTIME_DIR"
    )]
    Connect {
        /// Path of the socket.
        path: PathBuf,
        /// Error of the connection.
        source: io::Error,
    },
    /// A call of libpipewire failed.
    #[error("PipeWire: {0}")]
    PipeWire(String),
    /// The session manager or the daemon ended the stream.
    #[error(
        "the stream from the desktop's sink failed: {0}; check that wireplumber runs, and that the desktop has a sink, such as \
         one of support.null-audio-sink"
    )]
    Stream(String),
    /// The daemon ended the connection, or violated the protocol.
    #[error("the PipeWire daemon was disconnected: {0}")]
    Disconnected(String),
    /// A step did not happen in time.
    #[error("PipeWire did not {operation} within {} s; {remedy}", after.as_secs())]
    Timeout {
        /// Step that did not happen.
        operation: &'static str,
        /// Time limit.
        after: Duration,
        /// Remedy, as an imperative.
        remedy: &'static str,
    },
    /// The daemon delivers more samples per second than the agreed rate.
    #[error("the desktop delivers sound faster than in real time; restart its PipeWire daemon")]
    TooFast,
    /// The daemon chose a format that was not offered.
    #[error("PipeWire chose {0}, which was not offered; restart the desktop's PipeWire daemon")]
    Format(String),
    /// The encoder cannot be made, or failed.
    #[error("Opus encoder: {0}")]
    Encoder(String),
}
