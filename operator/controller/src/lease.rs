//! Leader election with a Lease of `coordination.k8s.io`.
//!
//! The holder renews the Lease at a third of its duration, and stops working when it cannot: an operator that might not be
//! the leader must not write. At exit it releases the Lease, so that another replica does not wait for its expiry.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::PostParams;
use kube::core::ObjectMeta;
use kube::{Api, Client};
use operator_api::names;

use super::error::Error;

/// A candidate for the Lease.
pub struct Candidate {
    api: Api<Lease>,
    /// Name of the pod, with a part that differs after a restart.
    identity: String,
    duration: Duration,
}

impl Candidate {
    /// A candidate in this namespace. The Lease expires `duration` after its last renewal.
    pub fn new(client: &Client, namespace: &str, identity: String, duration: Duration) -> Self {
        Self { api: Api::namespaced(client.clone(), namespace), identity, duration }
    }

    /// Returns once the Lease is acquired.
    pub async fn acquire(&self) {
        loop {
            match self.try_acquire().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "lease not readable; retrying"),
            }
            tokio::time::sleep(self.duration / 6).await;
        }
    }

    /// Renews the Lease; returns when it is lost.
    pub async fn hold(&self) {
        let mut renewed_at = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(self.duration / 3).await;
            match tokio::time::timeout(self.duration / 3, self.try_acquire()).await {
                Ok(Ok(true)) => renewed_at = tokio::time::Instant::now(),
                Ok(Ok(false)) => return,
                // Until the Lease expires, no other replica takes it.
                Ok(Err(error)) => tracing::warn!(%error, "lease not renewed"),
                Err(_) => tracing::warn!("lease not renewed: the apiserver did not answer in time"),
            }
            if renewed_at.elapsed() >= self.duration * 5 / 6 {
                return;
            }
        }
    }

    /// Releases the Lease if it is held.
    pub async fn release(&self) {
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

    /// Acquires or renews the Lease; `false` if another replica holds it.
    async fn try_acquire(&self) -> Result<bool, Error> {
        let now = Timestamp::now();
        let found = self.api.get_opt(names::LEASE).await.map_err(Error::api("read the Lease"))?;
        let written = match found {
            None => {
                let metadata = ObjectMeta {
                    name: Some(names::LEASE.to_owned()),
                    labels: Some([(names::MANAGED_BY.to_owned(), names::MANAGER.to_owned())].into()),
                    ..ObjectMeta::default()
                };
                let lease = Lease { metadata, spec: next(None, &self.identity, self.duration, now) };
                self.api.create(&PostParams::default(), &lease).await
            }
            Some(mut lease) => {
                let Some(spec) = next(lease.spec.as_ref(), &self.identity, self.duration, now) else {
                    return Ok(false);
                };
                lease.spec = Some(spec);
                // Replacing with the version that was read fails for the second of two concurrent candidates.
                self.api.replace(names::LEASE, &PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(Error::api("write the Lease")(error)),
        }
    }
}

/// The Lease as held by `identity`; `None` while another holder's has not expired.
fn next(found: Option<&LeaseSpec>, identity: &str, duration: Duration, now: Timestamp) -> Option<LeaseSpec> {
    let spec = found.cloned().unwrap_or_default();
    let holder = spec.holder_identity.as_deref().filter(|holder| !holder.is_empty());
    let is_ours = holder == Some(identity);
    let valid_for = SignedDuration::from_secs(spec.lease_duration_seconds.unwrap_or(15).into());
    let is_valid = spec.renew_time.as_ref().is_some_and(|time| now.duration_since(time.0) < valid_for);
    if holder.is_some() && !is_ours && is_valid {
        return None;
    }
    Some(LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(duration.as_secs() as i32),
        renew_time: Some(MicroTime(now)),
        acquire_time: if is_ours { spec.acquire_time } else { Some(MicroTime(now)) },
        lease_transitions: Some(spec.lease_transitions.unwrap_or(0) + i32::from(!is_ours)),
        ..LeaseSpec::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURATION: Duration = Duration::from_secs(15);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).expect("a time")
    }

    #[test]
    fn lease_is_taken_over_only_after_it_expires() {
        let a = next(None, "a", DURATION, at(0)).expect("free");
        assert_eq!(next(Some(&a), "b", DURATION, at(14)), None);
        let renewed = next(Some(&a), "a", DURATION, at(10)).expect("its own");
        assert_eq!(
            (renewed.lease_transitions, renewed.acquire_time.as_ref()),
            (a.lease_transitions, a.acquire_time.as_ref())
        );
        assert_eq!(next(Some(&renewed), "b", DURATION, at(24)), None);
        let b = next(Some(&renewed), "b", DURATION, at(25)).expect("expired");
        assert_eq!((b.holder_identity.as_deref(), b.lease_transitions), (Some("b"), Some(2)));
    }

    #[test]
    fn lease_that_was_released_is_free() {
        let held = next(None, "b", DURATION, at(0)).expect("free");
        let released = LeaseSpec { holder_identity: None, renew_time: None, ..held };
        assert!(next(Some(&released), "c", DURATION, at(0)).is_some());
    }
}
