//! Reasons for a frame path other than the best one.

use protocol::mailbox::Status;

/// Why a frame's buffer cannot be read by resource ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoResourceId {
    /// The buffer is a blob resource.
    #[error("the compositor's buffers are blobs, which the tap cannot read")]
    Blob,
    /// The buffer is shared memory.
    #[error("capture delivers shared memory, not DMA-BUF (see capture.shm_reason)")]
    SharedMemory,
}

/// Why a better frame path is not in use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// `--frame-path` allows only this path.
    #[error("requested by --frame-path")]
    Requested,
    /// No host-agent is configured.
    #[error("no host-agent is configured; set --upstream")]
    NoHostAgent,
    /// No session with the host-agent exists.
    #[error("{0}")]
    Disconnected(String),
    /// The host-agent cannot encode the stream.
    #[error("{0}")]
    NoEncoder(String),
    /// The picture exceeds the limit that the host-agent sent in `HelloAck`.
    #[error(
        "the picture has {pixels} pixels, the host-agent accepts {limit}; raise host-agent serve --max-pixels"
    )]
    PictureTooLarge {
        /// Pixels of the picture.
        pixels: u64,
        /// The host-agent's limit.
        limit: u32,
    },
    /// The mailbox could not be created.
    #[error("{0}")]
    NoMailbox(String),
    /// The frame's buffer has no usable resource ID.
    #[error(transparent)]
    NoResourceId(#[from] NoResourceId),
    /// The session could not be bound to the virgl context.
    #[error("{0}")]
    NotBound(String),
    /// The host-agent did not confirm the nonce that the tap accepted.
    #[error(
        "the tap accepted the nonce but the host-agent did not confirm it; connect this VM's tap to that host-agent \
         (same --link socket)"
    )]
    Unconfirmed,
    /// The bound tap refused a frame.
    #[error("{}", explain(*.0))]
    Refused(Status),
}

/// Meaning of a tap's answer, with the remedy.
pub fn explain(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::BadRequest => {
            "the tap cannot decode the request; install tap and sidecar of the same version"
        }
        Status::UnknownResource => "the tap does not find the buffer's resource",
        Status::NotAttached => "the buffer is not attached to this sidecar's GPU context",
        Status::NotBound => "no session is bound to this sidecar's GPU context",
        Status::BadFormat => "the tap cannot read the buffer's pixel format",
        Status::BadBox => "the frame's size differs from the buffer's",
        Status::RateLimited => "the tap's limit on requests or on the VMM's time is exceeded",
        Status::ReadFailed => "virglrenderer could not read the buffer",
        Status::Disabled => "the tap disabled itself after faults; restart the VM and report the tap's log",
        Status::NoHostAgent => "no host-agent is connected to the tap; start one with the same --link socket",
        Status::TooLarge => "the picture exceeds the host-agent's limit; raise host-agent serve --max-pixels",
    }
}
