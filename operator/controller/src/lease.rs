//! One operator works, the others wait: a Lease of coordination.k8s.io says which.
//!
//! Who holds it renews it at a third of its life, and stops working when it can't: an operator that isn't sure that it
//! leads must not write. Ending gives the Lease back, so that the next one needn't wait.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::PostParams;
use kube::core::ObjectMeta;
use kube::{Api, Client};

use super::error::Error;
use operator_api::names;

/// Our claim to it.
pub struct Claim {
    api: Api<Lease>,
    /// Who we are: the pod's name, and a part that a restart changes.
    identity: String,
    life: Duration,
}

impl Claim {
    /// In this namespace, as `identity`, lost after `life` without renewal.
    pub fn new(client: &Client, namespace: &str, identity: String, life: Duration) -> Self {
        Self { api: Api::namespaced(client.clone(), namespace), identity, life }
    }

    /// Returns once the Lease is ours.
    pub async fn acquire(&self) {
        loop {
            match self.try_once().await {
                Ok(true) => return,
                Ok(false) => {}
                // Before there is anything to lose, a wait is better than an end.
                Err(error) => tracing::warn!(%error, "can't ask who leads; will try again"),
            }
            tokio::time::sleep(self.life / 6).await;
        }
    }

    /// Renews it; returns when it is lost.
    pub async fn hold(&self) {
        let mut good = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(self.life / 3).await;
            let renewed = tokio::time::timeout(self.life / 3, self.try_once()).await;
            match renewed {
                Ok(Ok(true)) => good = tokio::time::Instant::now(),
                Ok(Ok(false)) => return,
                // While it is ours by the clock, nobody else takes it.
                Ok(Err(error)) => tracing::warn!(%error, "can't renew the Lease"),
                Err(_) => tracing::warn!("the apiserver takes too long to renew the Lease"),
            }
            if good.elapsed() >= self.life * 5 / 6 {
                return;
            }
        }
    }

    /// Gives it back.
    pub async fn release(&self) {
        let Ok(Some(mut lease)) = self.api.get_opt(names::LEASE).await else { return };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() == Some(&self.identity) {
            spec.holder_identity = None;
            spec.renew_time = None;
            if let Err(error) = self.api.replace(names::LEASE, &PostParams::default(), &lease).await {
                tracing::debug!(%error, "the Lease was not given back; it runs out");
            }
        }
    }

    /// Takes or renews it; `false` if it is somebody else's.
    async fn try_once(&self) -> Result<bool, Error> {
        let now = Timestamp::now();
        let found = self.api.get_opt(names::LEASE).await.map_err(Error::api("read the Lease"))?;
        let written = match found {
            None => {
                let metadata = ObjectMeta {
                    name: Some(names::LEASE.to_owned()),
                    labels: Some([(names::MANAGED_BY.to_owned(), names::MANAGER.to_owned())].into()),
                    ..ObjectMeta::default()
                };
                let lease = Lease { metadata, spec: next(None, &self.identity, self.life, now) };
                self.api.create(&PostParams::default(), &lease).await
            }
            Some(mut lease) => {
                let Some(spec) = next(lease.spec.as_ref(), &self.identity, self.life, now) else {
                    return Ok(false);
                };
                lease.spec = Some(spec);
                // With the version that was read: of two that take it at once, one fails.
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

/// The Lease as ours; `None` while it is somebody else's.
fn next(found: Option<&LeaseSpec>, identity: &str, life: Duration, now: Timestamp) -> Option<LeaseSpec> {
    let spec = found.cloned().unwrap_or_default();
    let holder = spec.holder_identity.as_deref().filter(|holder| !holder.is_empty());
    let ours = holder == Some(identity);
    let good_for = SignedDuration::from_secs(spec.lease_duration_seconds.unwrap_or(15).into());
    let runs = spec.renew_time.as_ref().is_some_and(|time| now.duration_since(time.0) < good_for);
    if holder.is_some() && !ours && runs {
        return None;
    }
    Some(LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(life.as_secs() as i32),
        renew_time: Some(MicroTime(now)),
        acquire_time: if ours { spec.acquire_time } else { Some(MicroTime(now)) },
        lease_transitions: Some(spec.lease_transitions.unwrap_or(0) + i32::from(!ours)),
        ..LeaseSpec::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).expect("a time")
    }

    #[test]
    fn one_leads_until_its_time_is_over() {
        let life = Duration::from_secs(15);
        let a = next(None, "a", life, at(0)).expect("free");
        assert_eq!(next(Some(&a), "b", life, at(14)), None);
        let renewed = next(Some(&a), "a", life, at(10)).expect("its own");
        assert_eq!(
            (renewed.lease_transitions, renewed.acquire_time.as_ref()),
            (a.lease_transitions, a.acquire_time.as_ref())
        );
        assert_eq!(next(Some(&renewed), "b", life, at(24)), None);
        let b = next(Some(&renewed), "b", life, at(25)).expect("run out");
        assert_eq!((b.holder_identity.as_deref(), b.lease_transitions), (Some("b"), Some(2)));
        let released = LeaseSpec { holder_identity: None, renew_time: None, ..b };
        assert!(next(Some(&released), "c", life, at(25)).is_some(), "given back");
    }
}
