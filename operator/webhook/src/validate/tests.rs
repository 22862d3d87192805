use std::sync::{Arc, Mutex};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body as KubeBody;
use kube::core::admission::AdmissionReview;
use operator_plan::validate::security::Policy;
use serde_json::{Value, json};
use tower::service_fn;

use super::*;
use crate::admission;

/// An apiserver that grants the listed rights (`VERB RESOURCE` or `VERB RESOURCE/NAME`), and records the reviews.
#[derive(Clone, Default)]
struct Apiserver {
    granted: Vec<String>,
    is_broken: bool,
    reviews: Arc<Mutex<Vec<Value>>>,
}

impl Apiserver {
    fn granting(granted: &[&str]) -> Self {
        Self { granted: granted.iter().map(|it| (*it).to_owned()).collect(), ..Self::default() }
    }

    fn asked(&self) -> Vec<Value> {
        self.reviews.lock().expect("no panic").clone()
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = service_fn(move |request: Request<KubeBody>| {
            let server = server.clone();
            async move { Ok::<_, std::convert::Infallible>(server.answer(request).await) }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, request: Request<KubeBody>) -> Response<Body> {
        assert_eq!(request.uri().path(), "/apis/authorization.k8s.io/v1/subjectaccessreviews");
        let bytes = request.into_body().collect().await.expect("a body").to_bytes();
        let mut review: Value = serde_json::from_slice(&bytes).expect("JSON");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let asked = &review["spec"]["resourceAttributes"];
        let any = format!("{} {}", text(&asked["verb"]), text(&asked["resource"]));
        let one = format!("{any}/{}", text(&asked["name"]));
        let allowed = self.granted.contains(&any) || self.granted.contains(&one);
        self.reviews.lock().expect("no panic").push(review["spec"].clone());
        review["status"] = json!({"allowed": allowed});
        let status = if self.is_broken { 503 } else { 201 };
        Response::builder().status(status).body(Body::from(review.to_string())).expect("a response")
    }
}

/// An apiserver whose users have all rights that the tests use.
fn permissive() -> Apiserver {
    Apiserver::granting(&["create pods", "create persistentvolumeclaims"])
}

async fn ask(server: &Apiserver, operation: &str, object: &Value, old: Option<&Value>) -> AdmissionResponse {
    review(&validator(server), &request(operation, object, old)).await.expect("rights can be checked")
}

fn validator(server: &Apiserver) -> Validator {
    Validator { client: server.client(), policy: Policy::default() }
}

fn request(operation: &str, object: &Value, old: Option<&Value>) -> AdmissionRequest<DynamicObject> {
    let request = json!({
        "uid": "u", "operation": operation, "namespace": "team",
        "userInfo": {"username": "ann", "groups": ["designers"], "extra": {"scopes": ["a"]}},
        "kind": {"group": "desktopstream.dev", "version": "v1alpha1", "kind": "DesktopStream"},
        "resource": {"group": "desktopstream.dev", "version": "v1alpha1", "resource": "desktopstreams"},
        "object": object, "oldObject": old,
    });
    serde_json::from_value(request).expect("a request")
}

fn stream(spec: &Value) -> Value {
    json!({"apiVersion": "desktopstream.dev/v1alpha1", "kind": "DesktopStream", "metadata": {"name": "x"}, "spec": spec})
}

#[tokio::test]
async fn stream_that_the_controller_cannot_reconcile_is_refused() {
    let server = permissive();
    let good = stream(&json!({"desktop": {"image": "a", "home": {"size": "2Gi"}}}));
    assert!(ask(&server, "CREATE", &good, None).await.allowed);
    let bad = stream(&json!({"desktop": {"image": "a b"}}));
    let refused = ask(&server, "CREATE", &bad, None).await;
    assert!(!refused.allowed && refused.result.message.contains("spec.desktop.image"));
    let unreadable = stream(&json!({"desktop": {"image": "a", "volumes": [{"name": "v", "emptyDir": 3}]}}));
    assert!(ask(&server, "CREATE", &unreadable, None).await.result.message.contains("not readable"));
    let smaller = stream(&json!({"desktop": {"image": "a", "home": {"size": "1Gi"}}}));
    assert!(ask(&server, "UPDATE", &smaller, Some(&good)).await.result.message.contains("cannot shrink"));
    assert!(ask(&server, "UPDATE", &bad, Some(&bad)).await.allowed, "an unchanged spec from before a rule");
}

#[tokio::test]
async fn author_without_a_right_that_the_stream_uses_is_refused() {
    let spec = json!({"desktop": {"image": "a"}, "viewers": {"auth": {"secretName": "admin"}}});
    let refused = ask(&Apiserver::granting(&["create pods"]), "CREATE", &stream(&spec), None).await;
    assert!(!refused.allowed);
    let message = &refused.result.message;
    assert!(message.contains("ann lacks rights") && message.contains("get secrets/admin"), "{message}");
    assert!(!message.contains("create pods"), "{message}");

    let server = Apiserver::granting(&["create pods", "get secrets/admin"]);
    assert!(ask(&server, "CREATE", &stream(&spec), None).await.allowed);
    let asked = server.asked();
    assert_eq!(asked.len(), 2);
    for review in asked {
        assert_eq!((&review["user"], &review["groups"]), (&json!("ann"), &json!(["designers"])));
        assert_eq!(review["extra"], json!({"scopes": ["a"]}));
        assert_eq!(review["resourceAttributes"]["namespace"], "team");
    }
}

#[tokio::test]
async fn rights_are_asked_for_when_the_author_changes_more_than_the_operating_mode() {
    let spec = |mode: &str, image: &str| stream(&json!({"desktop": {"image": image}, "operatingMode": mode}));
    let (running, suspended) = (spec("Running", "a"), spec("Suspended", "a"));
    let server = Apiserver::default();
    assert!(ask(&server, "UPDATE", &suspended, Some(&running)).await.allowed);
    let mut finalized = running.clone();
    finalized["metadata"]["finalizers"] = json!(["example.com/x"]);
    assert!(ask(&server, "UPDATE", &finalized, Some(&running)).await.allowed);
    assert!(server.asked().is_empty(), "metadata and operatingMode need no rights");
    assert!(!ask(&server, "UPDATE", &spec("Running", "other"), Some(&running)).await.allowed);
}

#[tokio::test]
async fn stream_is_refused_while_rights_cannot_be_checked() {
    let validator = Arc::new(validator(&Apiserver { is_broken: true, ..permissive() }));
    let created = request("CREATE", &stream(&json!({"desktop": {"image": "a"}})), None);
    let why = review(&validator, &created).await.expect_err("rights cannot be checked");
    assert!(why.contains("cannot be checked"), "{why}");
    let asked: AdmissionReview<DynamicObject> = serde_json::from_value(json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": created,
    }))
    .expect("a review");
    let response = admission::validate(State(validator), Json(asked)).await;
    assert_eq!(response.status(), 503, "no verdict, so that the apiserver asks another replica");
    let header = |name| response.headers().get(name).map(|value| value.to_str().expect("text").to_owned());
    assert_eq!((header("retry-after"), header("connection")), (Some("1".into()), Some("close".into())));
    let volumes: Vec<Value> = (0..100)
        .map(|at| json!({"name": format!("v{at}"), "secret": {"secretName": format!("s{at}")}}))
        .collect();
    let many = stream(&json!({"desktop": {"image": "a", "volumes": volumes}}));
    let server = permissive();
    assert!(ask(&server, "CREATE", &many, None).await.result.message.contains("at most 64"));
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn privileged_stream_is_refused_for_authors_with_all_rights() {
    let spec = json!({"desktop": {"image": "a", "securityContext": {"privileged": true}}});
    let refused = ask(&permissive(), "CREATE", &stream(&spec), None).await;
    assert!(!refused.allowed && refused.result.message.contains("privileged"), "{}", refused.result.message);
}
