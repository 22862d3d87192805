//! Brings the objects of a stream to the desired state.
//!
//! Objects that a pod needs to start (claim, Secrets) are applied before it, those that lead to it (Service, NetworkPolicy,
//! Ingress) after it. Objects that are no longer wanted are deleted last.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use operator_api::DesktopStream;
use operator_plan::kubernetes::{self, Objects};
use operator_plan::lifecycle::Life;
use operator_plan::observation::Observation;
use operator_plan::status::Obstacle;
use operator_plan::validate::Validated;

use super::build::Built;
use super::dereference::Dereferenced;
use crate::apply::provenance::{Provenance, provenance};
use crate::apply::{self, ApplyError, Owner};
use crate::context::Context;
use crate::error::Error;
use crate::events::{self, News};
use crate::secrets::Secrets;

/// Result of applying the desired state.
pub struct Applied {
    /// The pod that exists now.
    pub pod: Option<Arc<Pod>>,
    /// First obstacle.
    pub obstacle: Option<Obstacle>,
}

impl Applied {
    /// Reads the pod as the planner sees it.
    pub fn observe(&self, context: &Context, built: &Built, owner: &Owner) -> Option<Observation> {
        let pod = self.pod.as_ref()?;
        let home = built.objects.home.as_ref();
        let home = home.and_then(|it| apply::find(&context.stores.claims, &owner.namespace, &it.name_any()));
        Some(kubernetes::observe(pod, home.as_deref()))
    }
}

/// Collects obstacles; other errors end the reconciliation.
#[derive(Default)]
struct Obstacles(Vec<Obstacle>);

impl Obstacles {
    fn collect<T>(&mut self, result: apply::Applied<T>) -> Result<Option<T>, Error> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(ApplyError::Obstacle(obstacle)) => {
                self.0.push(obstacle);
                Ok(None)
            }
            Err(ApplyError::Failed(error)) => Err(error),
        }
    }
}

/// Applies the desired state.
///
/// # Errors
/// If a request fails in a way that can pass by itself.
pub async fn apply(
    context: &Context,
    stream: &DesktopStream,
    valid: &Validated,
    dereferenced: &Dereferenced,
    built: &Built,
    now: Timestamp,
) -> Result<Applied, Error> {
    let (stores, owner) = (&context.stores, &dereferenced.owner);
    let Objects { service, ingress, network_policy, home } = &built.objects;
    let mut obstacles = Obstacles::default();
    if let Some(home) = home {
        obstacles.collect(apply::ensure(context, owner, &stores.claims, home).await)?;
    }
    // A change that the apiserver refuses, such as a larger size, does not keep the pod from using the claim as it is.
    let is_usable = |it: &PersistentVolumeClaim| {
        let found = apply::find(&stores.claims, &owner.namespace, &it.name_any());
        found.is_some_and(|claim| {
            claim.metadata.deletion_timestamp.is_none()
                && matches!(provenance(claim.as_ref(), owner), Provenance::Own | Provenance::Kept)
        })
    };
    let mut is_blocked = !obstacles.0.is_empty() && !home.as_ref().is_some_and(is_usable);
    let secrets = Secrets {
        context,
        stream: valid,
        created: stream.metadata.creation_timestamp.as_ref().map(|time| time.0),
        freshness: dereferenced.freshness(),
        now,
    };
    is_blocked |= obstacles.collect(secrets.ensure_viewer().await)?.is_none();
    let needs_host_agent_secret =
        built.outcome.life == Life::Run && kubernetes::uses_host_agent_secret(&built.workload);
    if needs_host_agent_secret && !built.workload.uses_host_agent {
        is_blocked |= obstacles.collect(secrets.ensure_host_agent(&built.pairing).await)?.is_none();
    }

    let current = dereferenced.pod.clone();
    let pod = match built.outcome.life {
        Life::Run if valid.spec.attach.is_some() || is_blocked => current,
        Life::Run => {
            let pod = ensure_pod(context, stream, owner, built, current).await;
            obstacles.collect(pod)?.flatten()
        }
        Life::Suspended | Life::Idle | Life::Expired => delete_workload(context, valid, current).await?,
    };
    let has_node = pod.as_ref().is_some_and(|pod| pod.spec.as_ref().is_some_and(|it| it.node_name.is_some()));
    if built.workload.uses_host_agent && has_node {
        obstacles.collect(secrets.ensure_host_agent(&built.pairing).await)?;
    }

    obstacles.collect(apply::ensure(context, owner, &stores.services, service).await)?;
    if let Some(policy) = network_policy {
        obstacles.collect(apply::ensure(context, owner, &stores.policies, policy).await)?;
    }
    if let Some(ingress) = ingress {
        obstacles.collect(apply::ensure(context, owner, &stores.ingresses, ingress).await)?;
    }
    let policy = network_policy.as_ref().and_then(|it| it.metadata.name.as_deref());
    let ingress = ingress.as_ref().and_then(|it| it.metadata.name.as_deref());
    apply::sweep(context, owner, &stores.policies, policy).await?;
    apply::sweep(context, owner, &stores.ingresses, ingress).await?;
    Ok(Applied { pod, obstacle: obstacles.0.into_iter().next() })
}

/// Creates the pod. An existing pod that must be replaced is deleted first; the watch reports when it is gone.
async fn ensure_pod(
    context: &Context,
    stream: &DesktopStream,
    owner: &Owner,
    built: &Built,
    current: Option<Arc<Pod>>,
) -> apply::Applied<Option<Arc<Pod>>> {
    let Some(pod) = current else {
        let Some(desired) = &built.pod else { return Ok(None) };
        return apply::create_pod(context, owner, desired).await.map(|pod| Some(Arc::new(pod)));
    };
    let Some(why) = built.replacement.as_ref().filter(|_| pod.metadata.deletion_timestamp.is_none()) else {
        return Ok(Some(pod));
    };
    events::publish(context, stream, News::normal("PodReplaced", why)).await;
    apply::delete(context, pod.as_ref()).await?;
    let mut terminating = (*pod).clone();
    terminating.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
    Ok(Some(Arc::new(terminating)))
}

/// Deletes the pod of a stream that does not run. Pods of an attached workload stay.
async fn delete_workload(
    context: &Context,
    valid: &Validated,
    current: Option<Arc<Pod>>,
) -> Result<Option<Arc<Pod>>, Error> {
    let Some(pod) = current else { return Ok(None) };
    if valid.spec.attach.is_some() {
        return Ok(Some(pod));
    }
    if pod.metadata.deletion_timestamp.is_none() {
        apply::delete(context, pod.as_ref()).await?;
    }
    Ok(None)
}
