//! Handlers of admission reviews.

use std::sync::Arc;

use anyhow::Context as _;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, RETRY_AFTER};
use axum::response::{IntoResponse as _, Response};
use k8s_openapi::api::core::v1::Pod;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use kube::{Client, ResourceExt};
use operator_api::names;
use operator_plan::kubernetes::SidecarImage;
use operator_plan::validate::security::Policy;

use super::cache::Cache;
use super::inject::{self, Request};
use super::validate;

/// Pause before the apiserver asks again, seconds. It waits 5 s in all.
const RETRY_SECONDS: &str = "1";

type Review = Json<AdmissionReview<DynamicObject>>;

/// Validates streams.
pub struct Validator {
    /// Client of the apiserver, for the rights of authors.
    pub client: Client,
    /// The administrator's limits.
    pub policy: Policy,
}

/// Injects the sidecar into pods.
pub struct Injector {
    /// Streams and nodes.
    pub cache: Cache,
    /// The operator's namespace, whose pods are never injected.
    pub namespace: String,
    /// Sidecar to inject.
    pub sidecar: SidecarImage,
    /// The administrator's limits.
    pub policy: Policy,
}

/// Handles `/validate`. A review that this replica cannot answer fails with status 503 and `Retry-After`, by which the
/// apiserver's client (client-go, `rest/with_retry.go`) asks again; the connection is closed, so that the Service can
/// choose another replica.
pub async fn validate(State(validator): State<Arc<Validator>>, Json(review): Review) -> Response {
    let request: Result<AdmissionRequest<DynamicObject>, _> = review.try_into();
    let response = match request {
        Ok(request) => validate::review(&validator, &request).await,
        Err(error) => Ok(AdmissionResponse::invalid(error)),
    };
    match response {
        Ok(response) => Json(response.into_review()).into_response(),
        Err(why) => {
            tracing::warn!(why, "stream not reviewed");
            let headers = [(RETRY_AFTER, RETRY_SECONDS), (CONNECTION, "close")];
            (StatusCode::SERVICE_UNAVAILABLE, headers, why).into_response()
        }
    }
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
        let stream = match (self.cache.stream(&namespace, &wanted).await?, &wanted) {
            (Some(stream), _) => stream,
            (None, Request::Named(name)) => anyhow::bail!(
                "label {} names {name:?}, but this namespace has no DesktopStream of that name with spec.attach",
                names::INJECT
            ),
            (None, _) => return Ok(None),
        };
        let nodes = self.cache.nodes();
        let injected = inject::injected(&pod, &stream, &nodes, &self.sidecar, &self.policy)
            .map_err(anyhow::Error::msg)?;
        tracing::info!(namespace, stream = stream.name_any(), pod = pod.name_any(), "injected sidecar");
        // The difference between two readings of the pod leaves out fields that only newer apiservers have.
        let (before, after) = (serde_json::to_value(&pod)?, serde_json::to_value(&injected)?);
        Ok(Some(json_patch::diff(&before, &after)))
    }
}
