//! Stage of a stream, and the object that its connection is known by.

/// `PW_ID_CORE` (`pipewire/core.h`): an error on this object means that the connection is lost.
pub const CORE: u32 = 0;

/// Stage of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Waiting for access: the stream's node does not exist yet.
    Connecting,
    /// The stream's node exists, but is not linked or not running.
    Paused,
    /// The stream is running.
    Streaming,
}
