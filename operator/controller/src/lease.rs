//! Leader election with a Lease of `coordination.k8s.io`.
//!
//! The holder renews the Lease at a third of its duration, and stops working before it expires: an operator that might not
//! be the leader must not write. A candidate takes the Lease of another holder only after it has not seen it change for the
//! Lease's duration by its own clock, because clocks of machines differ. At exit the holder releases the Lease, so that
//! another replica does not wait for its expiry.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::core::ObjectMeta;
use kube::{Api, Client};
use operator_api::names;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::error::Error;

/// A candidate for the Lease.
pub struct Candidate {
    api: Api<Lease>,
    /// Name of the pod, with a part that differs after a restart.
    identity: String,
    duration: Duration,
    observed: Mutex<Observed>,
}

/// Result of an attempt to acquire or renew the Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// The Lease is held.
    Held,
    /// Another replica holds it.
    Foreign,
    /// The Lease was written between the read and the write.
    Conflict,
}

impl Candidate {
    /// A candidate in this namespace. The Lease expires `duration` after its last renewal.
    pub fn new(client: &Client, namespace: &str, identity: String, duration: Duration) -> Self {
        let api = Api::namespaced(client.clone(), namespace);
        Self { api, identity, duration, observed: Mutex::default() }
    }

    /// Returns once the Lease is acquired, with the time of the request.
    pub async fn acquire(&self) -> Instant {
        loop {
            let begin = Instant::now();
            match timeout(self.duration / 3, self.attempt()).await {
                Ok(Ok(Attempt::Held)) => return begin,
                Ok(Ok(Attempt::Foreign | Attempt::Conflict)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "lease not readable; retrying"),
                Err(_) => {
                    tracing::warn!("lease not readable: the apiserver did not answer in time; retrying");
                }
            }
            sleep(self.duration / 6).await;
        }
    }

    /// Renews the Lease that was acquired at `acquired`; returns when another replica holds it, and at the latest at five
    /// sixths of its duration after the last renewal, whatever the apiserver does.
    pub async fn hold(&self, acquired: Instant) {
        let mut renewed = acquired;
        loop {
            match timeout_at(renewed + self.duration * 5 / 6, self.renew(renewed)).await {
                Ok(Some(begin)) => renewed = begin,
                Ok(None) => return,
                Err(_) => {
                    tracing::warn!("lease not renewed in time");
                    return;
                }
            }
        }
    }

    /// Renews the Lease a third of its duration after the last renewal. Returns the time of the request; `None` if another
    /// replica holds the Lease.
    async fn renew(&self, last: Instant) -> Option<Instant> {
        sleep_until(last + self.duration / 3).await;
        loop {
            let begin = Instant::now();
            match timeout(self.duration / 3, self.attempt()).await {
                Ok(Ok(Attempt::Held)) => return Some(begin),
                Ok(Ok(Attempt::Foreign)) => return None,
                Ok(Ok(Attempt::Conflict)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "lease not renewed; retrying"),
                Err(_) => tracing::warn!("lease not renewed: the apiserver did not answer in time; retrying"),
            }
            sleep(self.duration / 12).await;
        }
    }

    /// Releases the Lease if it is held.
    pub async fn release(&self) {
        if timeout(self.duration / 3, self.try_release()).await.is_err() {
            tracing::debug!("lease not released: the apiserver did not answer in time; it expires");
        }
    }

    async fn try_release(&self) {
        let Ok(Some(mut lease)) = self.api.get_opt(names::LEASE).await else { return };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() == Some(&self.identity) {
            spec.holder_identity = None;
            spec.renew_time = None;
            if let Err(error) = self.api.replace(names::LEASE, &PostParams::default(), &lease).await {
                tracing::debug!(%error, "lease not released; it expires");
            }
        }
    }

    async fn attempt(&self) -> Result<Attempt, Error> {
        let now = Timestamp::now();
        let found = self.api.get_opt(names::LEASE).await.map_err(Error::api("read the Lease"))?;
        let written = match found {
            None => {
                let metadata = ObjectMeta {
                    name: Some(names::LEASE.to_owned()),
                    labels: Some([(names::MANAGED_BY.to_owned(), names::MANAGER.to_owned())].into()),
                    ..ObjectMeta::default()
                };
                let lease = Lease { metadata, spec: Some(held(None, &self.identity, self.duration, now)) };
                self.api.create(&PostParams::default(), &lease).await
            }
            Some(mut lease) => {
                let spec = lease.spec.take().unwrap_or_default();
                if !self.observed.lock().may_take(&spec, &self.identity, Instant::now()) {
                    return Ok(Attempt::Foreign);
                }
                lease.spec = Some(held(Some(spec), &self.identity, self.duration, now));
                // Replacing with the version that was read fails for the second of two concurrent candidates.
                self.api.replace(names::LEASE, &PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(_) => Ok(Attempt::Held),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Attempt::Conflict),
            Err(error) => Err(Error::api("write the Lease")(error)),
        }
    }
}

/// The Lease of another holder, and the time at which it was first seen in this state.
#[derive(Debug, Default)]
struct Observed(Option<(LeaseSpec, Instant)>);

impl Observed {
    /// True if the Lease is free or `identity`'s own, or if its holder has not changed it for its duration.
    fn may_take(&mut self, found: &LeaseSpec, identity: &str, now: Instant) -> bool {
        let holder = found.holder_identity.as_deref().filter(|holder| !holder.is_empty());
        if holder.is_none_or(|holder| holder == identity) {
            return true;
        }
        let valid_for =
            found.lease_duration_seconds.and_then(|seconds| seconds.try_into().ok()).unwrap_or(15);
        match &self.0 {
            Some((seen, at)) if seen == found => now.duration_since(*at) >= Duration::from_secs(valid_for),
            _ => {
                self.0 = Some((found.clone(), now));
                false
            }
        }
    }
}

/// The Lease as held by `identity`.
fn held(found: Option<LeaseSpec>, identity: &str, duration: Duration, now: Timestamp) -> LeaseSpec {
    let spec = found.unwrap_or_default();
    let is_ours = spec.holder_identity.as_deref() == Some(identity);
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(duration.as_secs() as i32),
        renew_time: Some(MicroTime(now)),
        acquire_time: if is_ours { spec.acquire_time } else { Some(MicroTime(now)) },
        lease_transitions: Some(spec.lease_transitions.unwrap_or(0) + i32::from(!is_ours)),
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Apiserver;

    const DURATION: Duration = Duration::from_secs(15);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).expect("a time")
    }

    fn candidate(apiserver: &Apiserver, identity: &str) -> Candidate {
        Candidate::new(&apiserver.client(), "system", identity.to_owned(), DURATION)
    }

    #[test]
    fn lease_is_taken_after_it_has_not_changed_for_its_duration_whatever_its_times_say() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut observed = Observed::default();
        // The holder's clock is a day behind, or a day ahead.
        for (begin, clock) in [(0, -86_400), (100, 86_400)] {
            let lease = held(None, "a", DURATION, at(clock));
            assert!(!observed.may_take(&lease, "b", after(begin)), "first seen");
            assert!(!observed.may_take(&lease, "b", after(begin + 14)));
            let renewed = held(Some(lease), "a", DURATION, at(clock + 10));
            assert!(!observed.may_take(&renewed, "b", after(begin + 16)), "it changed");
            assert!(!observed.may_take(&renewed, "b", after(begin + 30)));
            assert!(observed.may_take(&renewed, "b", after(begin + 31)));
            assert!(observed.may_take(&renewed, "a", after(begin + 16)), "its own");
        }
    }

    #[test]
    fn renewed_lease_keeps_its_acquisition_and_a_taken_one_counts_the_transition() {
        let a = held(None, "a", DURATION, at(0));
        let renewed = held(Some(a.clone()), "a", DURATION, at(10));
        assert_eq!(
            (renewed.lease_transitions, &renewed.acquire_time),
            (a.lease_transitions, &a.acquire_time)
        );
        let b = held(Some(renewed), "b", DURATION, at(25));
        assert_eq!((b.holder_identity.as_deref(), b.lease_transitions), (Some("b"), Some(2)));
    }

    #[test]
    fn lease_that_was_released_is_free() {
        let released =
            LeaseSpec { holder_identity: None, renew_time: None, ..held(None, "b", DURATION, at(0)) };
        assert!(Observed::default().may_take(&released, "c", Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn holder_stops_before_its_lease_expires_while_the_apiserver_hangs() {
        let apiserver = Apiserver::default();
        let candidate = candidate(&apiserver, "a");
        let acquired = candidate.acquire().await;
        apiserver.hang(true);
        candidate.hold(acquired).await;
        let worked = acquired.elapsed();
        assert!(worked < DURATION, "worked for {worked:?} with a Lease of {DURATION:?}");
        assert!(worked > DURATION / 2, "gave up after {worked:?}");
        candidate.release().await;
        assert!(acquired.elapsed() < DURATION * 3 / 2, "the release is bounded, too");
    }

    #[tokio::test(start_paused = true)]
    async fn holder_survives_an_outage_that_is_shorter_than_its_lease() {
        let apiserver = Apiserver::default();
        let candidate = candidate(&apiserver, "a");
        let acquired = candidate.acquire().await;
        apiserver.hang(true);
        let outage = async {
            tokio::time::sleep(DURATION * 2 / 3).await;
            apiserver.hang(false);
            tokio::time::sleep(DURATION * 4).await;
        };
        tokio::select! {
            () = candidate.hold(acquired) => panic!("lost after {:?}", acquired.elapsed()),
            () = outage => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn acquisition_goes_on_after_the_apiserver_hung() {
        let apiserver = Apiserver::default();
        apiserver.hang(true);
        let candidate = candidate(&apiserver, "a");
        let begin = Instant::now();
        let outage = async {
            tokio::time::sleep(DURATION * 4).await;
            apiserver.hang(false);
        };
        let (acquired, ()) = tokio::join!(candidate.acquire(), outage);
        assert!(acquired.duration_since(begin) >= DURATION * 4);
    }

    #[tokio::test(start_paused = true)]
    async fn second_candidate_leads_after_the_first_one_stopped_renewing() {
        let apiserver = Apiserver::default();
        let (first, second) = (candidate(&apiserver, "a"), candidate(&apiserver, "b"));
        let acquired = first.acquire().await;
        let taken = second.acquire().await;
        assert!(taken.duration_since(acquired) >= DURATION);
        first.hold(acquired).await;
    }
}
