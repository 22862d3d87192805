//! Asks the apiserver whether the author of a stream has the rights that the operator uses for the stream.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use operator_api::DesktopStreamSpec;
use operator_plan::rights::{self, Right};

/// Time limit of all requests of one stream; the apiserver waits 5 s for the webhook.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Number of concurrent requests.
const CONCURRENCY: usize = 8;

/// Why a stream is not admitted, as a message for its author.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The stream or its author's rights.
    Denied(String),
    /// The rights cannot be checked, such as by a replica whose token ended with its pod. Another replica may be able to.
    Unavailable(String),
}

impl From<String> for Refusal {
    fn from(message: String) -> Self {
        Self::Denied(message)
    }
}

/// Checks that `user` has all rights in `namespace` that the objects of `spec` need.
///
/// # Errors
/// Names the missing rights, or why they cannot be checked.
pub async fn authorize(
    client: &Client,
    user: &UserInfo,
    namespace: &str,
    spec: &DesktopStreamSpec,
) -> Result<(), Refusal> {
    let all = rights::rights(spec);
    if all.len() > rights::MAX {
        return Err(Refusal::Denied(format!(
            "the spec names {} Secrets, ConfigMaps and other objects: name at most {}",
            all.len(),
            rights::MAX
        )));
    }
    let checks: Vec<_> = all.iter().map(|right| is_allowed(client, user, namespace, right)).collect();
    let checks = stream::iter(checks).buffered(CONCURRENCY).try_collect::<Vec<bool>>();
    let unavailable =
        |why: &str| Refusal::Unavailable(format!("the author's rights cannot be checked: {why}; try again"));
    let allowed = tokio::time::timeout(TIMEOUT, checks)
        .await
        .map_err(|_| unavailable("the apiserver did not answer in time"))?
        .map_err(|error| unavailable(&error.to_string()))?;
    let missing: Vec<String> =
        all.iter().zip(allowed).filter(|(_, allowed)| !allowed).map(|(right, _)| right.to_string()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let user = user.username.as_deref().unwrap_or("the author");
    Err(Refusal::Denied(format!(
        "{user} lacks rights that this stream uses in namespace {namespace}: {}; grant them by a Role, or remove the fields",
        missing.join(", ")
    )))
}

async fn is_allowed(
    client: &Client,
    user: &UserInfo,
    namespace: &str,
    right: &Right,
) -> Result<bool, kube::Error> {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: user.username.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(namespace.to_owned()),
                verb: Some(right.verb.to_owned()),
                group: text(right.group),
                resource: Some(right.resource.to_owned()),
                name: text(&right.name),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(client.clone());
    let answer = api.create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}
