//! Validity of a session: it ends with its token, unless its sidecar presents a newer one in time.

use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::auth::Grant;

/// Longest time between two looks at the clock. Timers stop while the host sleeps, and the clock may be set.
const CLOCK_INTERVAL: Duration = Duration::from_secs(10);

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

    /// Waits until the permission has ended by the clock `now`, Unix seconds. Cancel safe.
    pub async fn ended(&self, now: impl Fn() -> u64) {
        loop {
            let Some(until) = self.grant.lock().until else { return std::future::pending().await };
            let Some(left) = until.checked_sub(now()) else { return };
            let wait = Duration::from_secs(left.saturating_add(1)).min(CLOCK_INTERVAL);
            tokio::select! {
                () = sleep(wait) => {}
                () = self.renewed.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::{Instant, timeout};

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

    /// Timers do not run while the host sleeps; the clock does.
    #[tokio::test(start_paused = true)]
    async fn lease_ends_soon_after_the_host_woke() {
        let lease = Lease::new(grant("a/b", 10_000));
        let looks = Cell::new(0);
        let now = || {
            looks.set(looks.get() + 1);
            if looks.get() == 1 { 0 } else { 20_000 }
        };
        timeout(2 * CLOCK_INTERVAL, lease.ended(now)).await.expect("ended");
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
