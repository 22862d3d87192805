//! One installation per cluster: two of them would both reconcile every stream and both register with every kubelet.
//!
//! An annotation of the ClusterRole `desktopstream-view`, whose name does not depend on the release, names the cluster's
//! installation. Helm and `kubectl apply` write it; programs of another installation end.

use std::time::Duration;

use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::{Api, Client, ResourceExt as _};
use operator_api::names;

/// Interval between checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(15);

/// Returns when the cluster has another installation than `own`, with the reason. Never returns if `own` is `None`.
pub async fn replaced(client: &Client, own: Option<&str>) -> anyhow::Error {
    let Some(own) = own else { return std::future::pending().await };
    let roles: Api<ClusterRole> = Api::all(client.clone());
    loop {
        match roles.get_opt(names::VIEW_ROLE).await {
            Ok(role) => {
                if let Some(other) = role.as_ref().and_then(|role| other(role, own)) {
                    return anyhow::anyhow!(
                        "this cluster has another installation of desktopstream, {other}, and this one is {own}: \
                         uninstall one of them; {other} then needs helm upgrade, or its manifests applied again"
                    );
                }
            }
            Err(error) => tracing::debug!(%error, "installation not checked; retrying"),
        }
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}

/// Installation that the role names, if it is not `own`.
fn other<'r>(role: &'r ClusterRole, own: &str) -> Option<&'r str> {
    role.annotations().get(names::INSTALLATION).map(String::as_str).filter(|named| *named != own)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hyper::{Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn program_ends_once_the_role_names_another_installation() {
        let failure = |code: u16| json!({"kind": "Status", "status": "Failure", "code": code, "reason": "r", "message": "m"});
        let role = |named: &str| json!({"kind": "ClusterRole", "metadata": {"name": names::VIEW_ROLE, "annotations": {names::INSTALLATION: named}}});
        let answers = [(503_u16, failure(503)), (404, failure(404)), (200, role("a/x")), (200, role("b/y"))];
        let asked = Arc::new(AtomicUsize::new(0));
        let server = tower::service_fn({
            let asked = Arc::clone(&asked);
            move |request: Request<Body>| {
                let path = request.uri().path();
                assert_eq!(path, "/apis/rbac.authorization.k8s.io/v1/clusterroles/desktopstream-view");
                let (code, body) = &answers[asked.fetch_add(1, Ordering::SeqCst)];
                let body = Body::from(body.to_string().into_bytes());
                let answer = Response::builder().status(*code).body(body).expect("a response");
                async move { Ok::<_, Infallible>(answer) }
            }
        });
        let error = replaced(&Client::new(server, "default"), Some("a/x")).await.to_string();
        assert!(error.contains("b/y") && error.contains("a/x") && error.contains("uninstall"), "{error}");
        assert_eq!(asked.load(Ordering::SeqCst), 4, "errors and its own name do not end it");
    }

    #[test]
    fn role_of_another_installation_ends_this_one() {
        let mut role = ClusterRole::default();
        assert_eq!(other(&role, "a/x"), None, "installed without the annotation");
        role.annotations_mut().insert(names::INSTALLATION.to_owned(), "a/x".to_owned());
        assert_eq!(other(&role, "a/x"), None);
        assert_eq!(other(&role, "b/x"), Some("a/x"));
        assert_eq!(other(&role, "a/y"), Some("a/x"));
    }
}
