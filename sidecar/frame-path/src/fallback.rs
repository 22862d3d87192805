//! The ladder: which rung carries the next frame, and why not a better one. Pure: no IO, no clock of its
//! own. The [`pump`](crate::pump) feeds it what happens and asks it before every frame.
//!
//! ```text
//!            Connected                 bind rung, Bound
//!  Local  ───────────────▶  Pixels  ───────────────────▶  ResourceId
//!    ▲                        │ ▲                             │
//!    └──── Disconnected ──────┘ └── Unbound, refused frame ───┘
//! ```
//! A short grace after start and after a loss keeps the picture where it is while the better rung comes
//! (back): changing down and up again within a second helps nobody.

use std::time::{Duration, Instant};

/// How long a lost or not yet made connection or binding is waited for before the next lower rung is taken.
pub const GRACE: Duration = Duration::from_millis(1500);
/// Pause before a failed binding is tried again.
pub const RETRY: Duration = Duration::from_secs(3);

/// How a frame travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
pub enum Rung {
    /// Its resource ID goes through the mailbox.
    ResourceId,
    /// Its pixels go to the host-agent.
    Pixels,
    /// It is encoded in the sidecar.
    Local,
}

/// Text that names no frame path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a frame path; use resource-id, pixels or local")]
pub struct UnknownFramePath(String);

impl std::str::FromStr for Rung {
    type Err = UnknownFramePath;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "resource-id" => Ok(Self::ResourceId),
            "pixels" => Ok(Self::Pixels),
            "local" => Ok(Self::Local),
            other => Err(UnknownFramePath(other.to_owned())),
        }
    }
}

/// The stream connection as the ladder sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// No host-agent was configured.
    Absent,
    /// None now, since then, for that reason.
    Down(Instant, String),
    /// A session stands.
    Up,
}

/// The mailbox binding as the ladder sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding {
    /// No mailbox can be had, for that reason.
    Impossible(String),
    /// Not tried in this session.
    Untried,
    /// The nonce was rung, then; the host-agent has not confirmed.
    Asked(Instant),
    /// Frames may be rung.
    Bound,
    /// It failed or was lost, then.
    Failed(Instant, String),
}

/// What to do with a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Carry it so; the text says why by no better rung, and is empty on the best.
    Take(Rung, String),
    /// Keep it: a rung is being reached; look again soon.
    Wait(&'static str),
}

/// What the ladder decides from.
#[derive(Debug)]
pub struct Ladder {
    /// Only this rung may be used.
    pub forced: Option<Rung>,
    /// The stream connection.
    pub link: Link,
    /// The mailbox.
    pub binding: Binding,
    /// Why the tap does not read this desktop's frames though it is bound.
    pub refused: Option<(Instant, String)>,
    /// Why the host-agent does not encode.
    pub no_encoder: Option<String>,
}

impl Ladder {
    /// A ladder at its start, at time `now`.
    pub fn new(forced: Option<Rung>, has_upstream: bool, binding: Binding, now: Instant) -> Self {
        let link = if has_upstream { Link::Down(now, "not connected yet".into()) } else { Link::Absent };
        Self { forced, link, binding, refused: None, no_encoder: None }
    }

    /// The rung for a frame; `by_id` says whether its buffer can go by resource ID, else why not.
    pub fn choose(&self, by_id: Result<(), &str>, now: Instant) -> Choice {
        let choice = self.best(by_id, now);
        match (self.forced, choice) {
            (None, choice) => choice,
            (Some(forced), Choice::Take(rung, reason)) if forced == rung => Choice::Take(rung, reason),
            (Some(Rung::Local), _) => Choice::Take(Rung::Local, "asked for".into()),
            (Some(Rung::Pixels), choice) => match self.link {
                Link::Up => Choice::Take(Rung::Pixels, "asked for".into()),
                _ => stay(choice),
            },
            (Some(Rung::ResourceId), choice) => stay(choice),
        }
    }

    fn best(&self, by_id: Result<(), &str>, now: Instant) -> Choice {
        let local = |reason: &str| Choice::Take(Rung::Local, reason.to_owned());
        match &self.link {
            Link::Absent => return local("no host-agent is configured (--upstream)"),
            Link::Down(since, _) if now.duration_since(*since) < GRACE => {
                return Choice::Wait("for the host-agent");
            }
            Link::Down(_, reason) => return local(reason),
            Link::Up => {}
        }
        if let Some(reason) = &self.no_encoder {
            return local(reason);
        }
        let pixels = |reason: &str| Choice::Take(Rung::Pixels, reason.to_owned());
        match (&self.binding, by_id) {
            // Without a render node capture gives shared memory, too: the node is the cause.
            (Binding::Impossible(reason), _) => pixels(reason),
            (_, Err(reason)) => pixels(reason),
            (Binding::Failed(_, reason), _) => pixels(reason),
            (Binding::Untried, _) => Choice::Wait("for the mailbox"),
            (Binding::Asked(since), _) if now.duration_since(*since) < GRACE => {
                Choice::Wait("for the binding")
            }
            (Binding::Asked(_), _) => pixels(
                "the tap took the nonce but the host-agent did not confirm: does this VM's tap talk to that host-agent?",
            ),
            (Binding::Bound, _) => match &self.refused {
                Some((since, reason)) if now.duration_since(*since) < RETRY => pixels(reason),
                _ => Choice::Take(Rung::ResourceId, String::new()),
            },
        }
    }

    /// Whether the nonce should be rung (again) now.
    pub fn should_bind(&self, now: Instant) -> bool {
        self.link == Link::Up
            && !matches!(self.forced, Some(Rung::Pixels | Rung::Local))
            && match &self.binding {
                Binding::Untried => true,
                Binding::Failed(at, _) | Binding::Asked(at) => now.duration_since(*at) >= RETRY,
                Binding::Impossible(_) | Binding::Bound => false,
            }
    }
}

/// A rung was forced that can't be had: nothing else is taken.
fn stay(choice: Choice) -> Choice {
    match choice {
        wait @ Choice::Wait(_) => wait,
        Choice::Take(..) => Choice::Wait("for the rung that was asked for"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ladder(link: Link, binding: Binding) -> Ladder {
        Ladder { forced: None, link, binding, refused: None, no_encoder: None }
    }

    fn rung(choice: &Choice) -> Option<Rung> {
        match choice {
            Choice::Take(rung, _) => Some(*rung),
            Choice::Wait(_) => None,
        }
    }

    #[test]
    fn the_best_rung_that_can_be_had_is_taken() {
        let start = Instant::now();
        let late = start + 2 * GRACE;
        let cases = [
            (ladder(Link::Absent, Binding::Untried), Ok(()), Some(Rung::Local)),
            (ladder(Link::Down(start, "x".into()), Binding::Bound), Ok(()), Some(Rung::Local)),
            (ladder(Link::Down(late, "x".into()), Binding::Bound), Ok(()), None),
            (ladder(Link::Up, Binding::Untried), Ok(()), None),
            (ladder(Link::Up, Binding::Untried), Err("shm"), Some(Rung::Pixels)),
            (ladder(Link::Up, Binding::Asked(start)), Ok(()), Some(Rung::Pixels)),
            (ladder(Link::Up, Binding::Asked(late)), Ok(()), None),
            (ladder(Link::Up, Binding::Failed(start, "x".into())), Ok(()), Some(Rung::Pixels)),
            (ladder(Link::Up, Binding::Impossible("x".into())), Ok(()), Some(Rung::Pixels)),
            (ladder(Link::Up, Binding::Bound), Err("shm"), Some(Rung::Pixels)),
            (ladder(Link::Up, Binding::Bound), Ok(()), Some(Rung::ResourceId)),
        ];
        for (ladder, by_id, expected) in cases {
            let choice = ladder.choose(by_id, late);
            assert_eq!(rung(&choice), expected, "{ladder:?}");
            if let Choice::Take(rung, reason) = choice {
                assert_eq!(reason.is_empty(), rung == Rung::ResourceId, "{ladder:?}: {reason}");
            }
        }
    }

    #[test]
    fn a_forced_rung_is_the_only_one() {
        let now = Instant::now();
        let mut it = ladder(Link::Up, Binding::Impossible("no virgl".into()));
        it.forced = Some(Rung::ResourceId);
        assert_eq!(rung(&it.choose(Ok(()), now)), None);
        it.forced = Some(Rung::Local);
        assert_eq!(rung(&it.choose(Ok(()), now)), Some(Rung::Local));
        it.binding = Binding::Bound;
        it.forced = Some(Rung::Pixels);
        assert_eq!(rung(&it.choose(Ok(()), now)), Some(Rung::Pixels));
        it.link = Link::Absent;
        assert_eq!(rung(&it.choose(Ok(()), now)), None);
    }

    #[test]
    fn a_refused_frame_goes_down_one_rung_for_a_while() {
        let now = Instant::now();
        let mut it = ladder(Link::Up, Binding::Bound);
        it.refused = Some((now, "bad format".into()));
        assert_eq!(rung(&it.choose(Ok(()), now)), Some(Rung::Pixels));
        assert_eq!(rung(&it.choose(Ok(()), now + RETRY)), Some(Rung::ResourceId));
    }

    #[test]
    fn binding_is_tried_at_once_and_again_after_a_pause() {
        let now = Instant::now();
        assert!(ladder(Link::Up, Binding::Untried).should_bind(now));
        assert!(!ladder(Link::Absent, Binding::Untried).should_bind(now));
        let failed = ladder(Link::Up, Binding::Failed(now, String::new()));
        assert!(!failed.should_bind(now));
        assert!(failed.should_bind(now + RETRY));
        assert!(!ladder(Link::Up, Binding::Bound).should_bind(now + RETRY));
    }
}
