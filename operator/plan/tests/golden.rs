//! The Kubernetes objects of every sample are those in `tests/golden`. UPDATE_GOLDEN=1 writes the files.

use std::path::Path;

use operator_api::DesktopStream;
use operator_plan::kubernetes::{
    HostAgentSecret, SidecarImage, ViewerTokens, host_agent_secret, objects, pod, uses_host_agent_secret,
    viewer_secret,
};
use operator_plan::pair::Pairing;
use operator_plan::testing;
use operator_plan::validate::validate;
use operator_plan::workload::workload;
use serde::Serialize;

fn document<T: Serialize>(object: &T) -> String {
    format!("---\n{}", serde_yaml_ng::to_string(object).expect("YAML"))
}

fn rendered(mut stream: DesktopStream) -> String {
    stream.metadata.namespace = Some("team".to_owned());
    stream.metadata.uid = Some("0-1-2".to_owned());
    let stream = validate(&stream).expect("a valid sample");
    let pairing = Pairing::Paired {
        host_agent: "default".to_owned(),
        endpoint: Some("vsock://2:15937".parse().expect("an endpoint")),
    };
    let workload = workload(&stream, Some(105));
    let objects = objects(&stream);
    let secret = HostAgentSecret {
        host_agent: "default".to_owned(),
        endpoint: "vsock://2:15937".parse().expect("an endpoint"),
        token: "header.claims.signature".to_owned(),
        key: Some("private key".to_owned()),
        issued: 1000,
        expires: 4600,
    };
    let mut text = String::new();
    text += &document(&objects.service);
    text += &objects.ingress.iter().map(document).collect::<String>();
    text += &objects.network_policy.iter().map(document).collect::<String>();
    text += &objects.home.iter().map(document).collect::<String>();
    if uses_host_agent_secret(&workload) {
        let content = workload.uses_host_agent.then_some(&secret);
        text += &document(&host_agent_secret(&stream, content, "PUBLIC KEYS"));
    }
    if workload.uses_viewer_token && stream.spec.viewers.auth.secret_name.is_none() {
        let tokens =
            ViewerTokens { control: "control token".to_owned(), view_only: "view-only token".to_owned() };
        text += &document(&viewer_secret(&stream, tokens));
    }
    text +=
        &pod(&stream, &workload, &pairing, &SidecarImage::default()).iter().map(document).collect::<String>();
    text
}

#[test]
fn sample_objects_match_the_golden_files() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    testing::assert_golden(&golden, "operator-plan", rendered);
}
