//! Validity of a session: it ends with its token, unless its sidecar presents a newer one in time.

use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::auth::Grant;

/// Longest time between two looks at the clock. Timers stop while the host sleeps, and the clock may be set.
const CLOCK_INTERVAL: Duration = Duration::from_secs(10);
/// How much further than timers the clock advances while the host sleeps, at least.
const SLEEP: Duration = Duration::from_secs(30);
/// Time for a newer token after the host woke: its VMs slept too, and their operator issues tokens by their clock.
const GRACE: Duration = Duration::from_mins(10);

/// A renewed token that does not fit the session.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenewError {
    /// It is for another stream.
    #[error(
        "the session is of stream {session}, the renewed token of another; open a session of that stream"
    )]
    OtherStream {
        /// Stream of the session.
        session: String,
    },
    /// It is bound to another key, or to none.
    #[error(
        "the renewed token is bound to another key than the session's; connect with the present token and tls.key"
    )]
    OtherKey,
}

/// The permission of a session.
#[derive(Debug)]
pub struct Lease {
    grant: Mutex<Grant>,
    renewed: Notify,
}

/// The time, Unix seconds.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Lease {
    /// The permission of the token in `Hello`.
    pub fn new(grant: Grant) -> Self {
        Self { grant: Mutex::new(grant), renewed: Notify::new() }
    }

    /// Replaces the permission by that of a verified token. Has no effect without authentication.
    ///
    /// # Errors
    /// The token is not for this session's stream, or not bound to its key. The permission stays as it is.
    pub fn renew(&self, renewed: Grant) -> Result<(), RenewError> {
        let mut grant = self.grant.lock();
        if grant.until.is_none() {
            return Ok(());
        }
        if grant.stream != renewed.stream {
            return Err(RenewError::OtherStream { session: grant.stream.clone().unwrap_or_default() });
        }
        if grant.key != renewed.key {
            return Err(RenewError::OtherKey);
        }
        *grant = renewed;
        drop(grant);
        self.renewed.notify_one();
        Ok(())
    }

    /// Waits until the permission has ended by the clock `now`, Unix seconds. If the host has slept meanwhile, the permission
    /// lasts for [`GRACE`] after it woke. Cancel safe.
    pub async fn ended(&self, now: impl Fn() -> u64) {
        let mut grace = None;
        let mut before = (Instant::now(), now());
        loop {
            let Some(until) = self.grant.lock().until else { return std::future::pending().await };
            let after = (Instant::now(), now());
            let by_clock = Duration::from_secs(after.1.saturating_sub(before.1));
            if by_clock > after.0.duration_since(before.0) + SLEEP && before.1 <= until {
                grace = Some(after.0 + GRACE);
            }
            before = after;
            let left = Duration::from_secs(until.saturating_add(1).saturating_sub(after.1));
            let left = left.max(grace.map_or(Duration::ZERO, |end| end.saturating_duration_since(after.0)));
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = sleep(left.min(CLOCK_INTERVAL)) => {}
                () = self.renewed.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    fn grant(stream: &str, until: u64) -> Grant {
        Grant { stream: Some(stream.to_owned()), key: None, until: Some(until) }
    }

    /// Time by tokio's paused clock until the lease ends; `None` if it lasts for a day. The wall clock shows
    /// `ahead` seconds more.
    async fn lasts(lease: &Lease, ahead: u64) -> Option<u64> {
        let start = Instant::now();
        let now = || start.elapsed().as_secs() + ahead;
        let ended = timeout(Duration::from_secs(86_400), lease.ended(now)).await;
        ended.ok().map(|()| start.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn lease_lasts_for_its_last_second_and_no_longer() {
        assert_eq!(lasts(&Lease::new(grant("a/b", 100)), 0).await, Some(101));
        assert_eq!(lasts(&Lease::new(grant("a/b", 100)), 101).await, Some(0));
        assert_eq!(lasts(&Lease::new(Grant { stream: None, key: None, until: None }), 0).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn renewed_lease_ends_with_the_newer_token() {
        let lease = Lease::new(grant("a/b", 100));
        let start = Instant::now();
        let now = || start.elapsed().as_secs();
        let renew = async {
            sleep(Duration::from_secs(60)).await;
            lease.renew(grant("a/b", 200)).expect("same stream");
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = lease.ended(now) => {}
            () = renew => {}
        }
        assert_eq!(now(), 201);
    }

    #[tokio::test(start_paused = true)]
    async fn shorter_token_shortens_the_lease() {
        let lease = Lease::new(grant("a/b", 1_000));
        lease.renew(grant("a/b", 5)).expect("same stream");
        assert_eq!(lasts(&lease, 0).await, Some(6));
    }

    /// A clock that advances by `slept` seconds while timers do not run, when `before` seconds have passed.
    fn clock(before: u64, slept: u64) -> impl Fn() -> u64 {
        let start = Instant::now();
        move || {
            let passed = start.elapsed().as_secs();
            passed + if passed < before { 0 } else { slept }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lease_that_ended_while_the_host_slept_lasts_for_the_grace_after_it_woke() {
        let lease = Lease::new(grant("a/b", 10_000));
        let start = Instant::now();
        lease.ended(clock(100, 20_000)).await;
        let lasted = start.elapsed();
        assert!(lasted >= GRACE && lasted <= Duration::from_secs(100) + GRACE + CLOCK_INTERVAL, "{lasted:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn lease_renewed_in_its_grace_goes_on() {
        let lease = Lease::new(grant("a/b", 10_000));
        let renew = async {
            sleep(Duration::from_secs(400)).await;
            lease.renew(grant("a/b", 30_000)).expect("same stream");
            std::future::pending::<()>().await;
        };
        let start = Instant::now();
        tokio::select! {
            () = lease.ended(clock(100, 20_000)) => {}
            () = renew => {}
        }
        assert_eq!(start.elapsed(), Duration::from_secs(10_001));
    }

    #[tokio::test(start_paused = true)]
    async fn ended_lease_has_no_grace() {
        let lease = Lease::new(grant("a/b", 50));
        let start = Instant::now();
        lease.ended(clock(60, 20_000)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(51));
    }

    #[test]
    fn token_of_another_stream_does_not_renew() {
        let lease = Lease::new(grant("a/b", 100));
        let error = lease.renew(grant("a/c", 200)).expect_err("another stream");
        assert_eq!(error, RenewError::OtherStream { session: "a/b".to_owned() });
        assert_eq!(*lease.grant.lock(), grant("a/b", 100));
    }

    #[test]
    fn token_of_another_key_or_of_none_does_not_renew() {
        let bound = |key: &str| Grant { key: Some(key.to_owned()), ..grant("a/b", 100) };
        let lease = Lease::new(bound("one"));
        for other in [bound("two"), grant("a/b", 200)] {
            assert_eq!(lease.renew(other), Err(RenewError::OtherKey));
        }
        lease.renew(bound("one")).expect("the same key");
    }

    #[test]
    fn session_without_authentication_ignores_renewed_tokens() {
        let lease = Lease::new(Grant { stream: None, key: None, until: None });
        lease.renew(grant("a/c", 200)).expect("ignored");
        assert_eq!(lease.grant.lock().until, None);
    }
}
