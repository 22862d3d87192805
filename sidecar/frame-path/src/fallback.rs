//! Selection of the frame path, without IO or clock.
//!
//! [`pump`](crate::pump) reports state changes to a [`Fallback`] and asks it before each frame.
//!
//! ```text
//!            connected                  bind request, Bound
//!  Local  ───────────────▶  Pixels  ───────────────────────▶  ResourceId
//!    ▲                        │ ▲                                 │
//!    └──── disconnected ──────┘ └── Unbound, refused frame ───────┘
//! ```
//!
//! After start and after a loss, frames are held back for up to [`GRACE`] before a worse path is used, so that short
//! interruptions do not switch encoders twice.

mod reason;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use contract::FramePath;

pub use reason::{NoResourceId, Reason, explain};

/// Time to wait for a connection or binding before a worse path is used.
pub const GRACE: Duration = Duration::from_millis(1500);
/// Interval between binding attempts, and time for which a refusal of the tap keeps frames off `ResourceId`.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(3);

/// State of the stream connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// No host-agent is configured.
    Absent,
    /// No session exists.
    Down {
        /// Time of the loss, or of the start.
        since: Instant,
        /// Last error.
        error: String,
    },
    /// A session exists.
    Up {
        /// Maximum number of pixels per picture that the host-agent accepts.
        max_pixels: u32,
    },
}

/// State of the binding between session and virgl context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding {
    /// The mailbox could not be created, with the error.
    Unavailable(String),
    /// Not attempted in this session.
    Untried,
    /// The tap accepted the nonce at this time; the host-agent has not confirmed.
    Requested(Instant),
    /// Confirmed: frames may be requested by resource ID.
    Bound,
    /// Failed or lost.
    Failed {
        /// Time of the failure.
        at: Instant,
        /// Error of tap or host-agent.
        error: String,
    },
}

/// Properties of a frame that the decision depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// `Ok` if the frame's buffer can be read by resource ID.
    pub by_resource_id: Result<(), NoResourceId>,
    /// Width times height.
    pub pixels: u64,
}

/// Decision for a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Send it by this path. The reason names why no better one is used; `None` on the best.
    Use(FramePath, Option<Reason>),
    /// Hold it and decide again soon.
    Wait(WaitFor),
}

/// Event that a frame is held back for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFor {
    /// A session with the host-agent.
    Connection,
    /// The first bind request.
    BindRequest,
    /// Confirmation of the binding.
    Binding,
    /// The only frame path that `--frame-path` allows.
    RequiredPath,
}

/// State from which the frame path is chosen.
#[derive(Debug)]
pub struct Fallback {
    /// The only path to use, if set.
    pub only: Option<FramePath>,
    /// Stream connection.
    pub connection: Connection,
    /// Binding of session and virgl context.
    pub binding: Binding,
    /// Last refusal of a frame by the bound tap, with its time.
    pub refused: Option<(Instant, Reason)>,
    /// The host-agent's error if it cannot encode the stream.
    pub no_encoder: Option<String>,
}

impl Fallback {
    /// Creates the state at program start, `now`.
    pub fn new(only: Option<FramePath>, has_upstream: bool, binding: Binding, now: Instant) -> Self {
        let connection = if has_upstream {
            Connection::Down { since: now, error: "not connected yet".into() }
        } else {
            Connection::Absent
        };
        Self { only, connection, binding, refused: None, no_encoder: None }
    }

    /// Chooses the path of a frame.
    pub fn choose(&self, frame: Candidate, now: Instant) -> Decision {
        let best = self.best(frame, now);
        let Some(only) = self.only else { return best };
        match best {
            Decision::Use(path, _) if path == only => best,
            _ if only == FramePath::Local => Decision::Use(only, Some(Reason::Requested)),
            _ if only == FramePath::Pixels && self.accepts(frame).is_ok() => {
                Decision::Use(only, Some(Reason::Requested))
            }
            Decision::Wait(_) => best,
            Decision::Use(..) => Decision::Wait(WaitFor::RequiredPath),
        }
    }

    /// `Ok` if the host-agent can be sent pixels of this frame.
    fn accepts(&self, frame: Candidate) -> Result<(), Reason> {
        match &self.connection {
            Connection::Absent => Err(Reason::NoHostAgent),
            Connection::Down { error, .. } => Err(Reason::Disconnected(error.clone())),
            Connection::Up { max_pixels } if frame.pixels > u64::from(*max_pixels) => {
                Err(Reason::PictureTooLarge { pixels: frame.pixels, limit: *max_pixels })
            }
            Connection::Up { .. } => Ok(()),
        }
    }

    fn best(&self, frame: Candidate, now: Instant) -> Decision {
        match &self.connection {
            Connection::Down { since, .. } if now.duration_since(*since) < GRACE => {
                return Decision::Wait(WaitFor::Connection);
            }
            _ => {}
        }
        if let Err(reason) = self.accepts(frame) {
            return Decision::Use(FramePath::Local, Some(reason));
        }
        if let Some(error) = &self.no_encoder {
            return Decision::Use(FramePath::Local, Some(Reason::NoEncoder(error.clone())));
        }
        let pixels = |reason| Decision::Use(FramePath::Pixels, Some(reason));
        match (&self.binding, frame.by_resource_id) {
            // Before the frame's own reason: without a render node capture falls back to shared memory.
            (Binding::Unavailable(error), _) => pixels(Reason::NoMailbox(error.clone())),
            (_, Err(reason)) => pixels(Reason::NoResourceId(reason)),
            (Binding::Failed { error, .. }, _) => pixels(Reason::NotBound(error.clone())),
            (Binding::Untried, _) => Decision::Wait(WaitFor::BindRequest),
            (Binding::Requested(since), _) if now.duration_since(*since) < GRACE => {
                Decision::Wait(WaitFor::Binding)
            }
            (Binding::Requested(_), _) => pixels(Reason::Unconfirmed),
            (Binding::Bound, _) => match &self.refused {
                Some((since, reason)) if now.duration_since(*since) < RETRY_INTERVAL => {
                    pixels(reason.clone())
                }
                _ => Decision::Use(FramePath::ResourceId, None),
            },
        }
    }

    /// True if a bind request should be sent now.
    pub fn should_bind(&self, now: Instant) -> bool {
        matches!(self.connection, Connection::Up { .. })
            && matches!(self.only, None | Some(FramePath::ResourceId))
            && match &self.binding {
                Binding::Untried => true,
                Binding::Failed { at, .. } | Binding::Requested(at) => {
                    now.duration_since(*at) >= RETRY_INTERVAL
                }
                Binding::Unavailable(_) | Binding::Bound => false,
            }
    }
}
