//! Handlers of admission reviews.

use std::sync::Arc;

use anyhow::Context as _;
use axum::Json;
use axum::extract::State;
use k8s_openapi::api::core::v1::{Node as KubeNode, Pod};
use kube::api::ListParams;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use kube::{Api, Client, ResourceExt};
use operator_api::{DesktopStream, names};
use operator_plan::kubernetes::{self, SidecarImage};

use super::inject::{self, Request};
use super::validate;

type Review = Json<AdmissionReview<DynamicObject>>;

/// Injects the sidecar into pods.
pub struct Injector {
    /// Client of the apiserver.
    pub client: Client,
    /// The operator's namespace, whose pods are never injected.
    pub namespace: String,
    /// Sidecar to inject.
    pub sidecar: SidecarImage,
}

/// Handles `/validate`.
pub async fn validate(Json(review): Review) -> Review {
    let request: Result<AdmissionRequest<DynamicObject>, _> = review.try_into();
    let response = match request {
        Ok(request) => validate::review(&request),
        Err(error) => AdmissionResponse::invalid(error),
    };
    Json(response.into_review())
}

/// Handles `/inject`.
pub async fn inject(State(injector): State<Arc<Injector>>, Json(review): Review) -> Review {
    let request: Result<AdmissionRequest<DynamicObject>, _> = review.try_into();
    let response = match request {
        Ok(request) => injector.review(&request).await,
        Err(error) => AdmissionResponse::invalid(error),
    };
    Json(response.into_review())
}

impl Injector {
    /// Admits every pod: with the sidecar if it requests one, unchanged and with a warning if that fails.
    async fn review(&self, request: &AdmissionRequest<DynamicObject>) -> AdmissionResponse {
        let mut response = AdmissionResponse::from(request);
        match self.patch(request).await {
            Ok(None) => response,
            Ok(Some(patch)) => response.clone().with_patch(patch).unwrap_or(response),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(namespace = request.namespace, error, "sidecar not injected");
                response.warnings = Some(vec![format!("desktopstream: sidecar not injected: {error}")]);
                response
            }
        }
    }

    async fn patch(
        &self,
        request: &AdmissionRequest<DynamicObject>,
    ) -> anyhow::Result<Option<json_patch::Patch>> {
        let namespace = request.namespace.clone().unwrap_or_default();
        let Some(object) = &request.object else { return Ok(None) };
        if namespace == self.namespace || namespace == "kube-system" {
            return Ok(None);
        }
        let pod: Pod =
            serde_json::from_value(serde_json::to_value(object)?).context("the pod is not readable")?;
        let wanted = inject::request(&pod);
        if wanted == Request::Nothing {
            return Ok(None);
        }
        let streams: Api<DesktopStream> = Api::namespaced(self.client.clone(), &namespace);
        let streams = streams.list(&ListParams::default()).await.context("cannot list DesktopStreams")?.items;
        let stream = match (inject::choose(&wanted, &streams), &wanted) {
            (Some(stream), _) => stream,
            (None, Request::Named(name)) => anyhow::bail!(
                "label {} names {name:?}, but this namespace has no DesktopStream of that name with spec.attach",
                names::INJECT
            ),
            (None, _) => return Ok(None),
        };
        let with_gpu = ListParams::default().labels(names::NODE_RENDER_GID);
        let nodes: Api<KubeNode> = Api::all(self.client.clone());
        let nodes = nodes.list(&with_gpu).await.context("cannot list Nodes")?;
        let nodes: Vec<_> = nodes.iter().map(kubernetes::node).collect();
        let injected = inject::injected(&pod, stream, &nodes, &self.sidecar).map_err(anyhow::Error::msg)?;
        tracing::info!(namespace, stream = stream.name_any(), pod = pod.name_any(), "injected sidecar");
        // The difference between two readings of the pod leaves out fields that only newer apiservers have.
        let (before, after) = (serde_json::to_value(&pod)?, serde_json::to_value(&injected)?);
        Ok(Some(json_patch::diff(&before, &after)))
    }
}
