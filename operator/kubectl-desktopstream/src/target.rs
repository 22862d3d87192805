//! Finds a stream by name, with its pod and the tokens of its viewers.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use contract::names::{TOKEN_FILE, VIEW_ONLY_TOKEN_FILE, flags};
use k8s_openapi::api::core::v1::Pod;
use operator_api::summary::Summary;
use operator_api::{AuthKind, DesktopStream, names};
use serde::Deserialize;

use crate::cli::Stream;
use crate::kubectl::Kubectl;

/// Resource with its group, which no other CRD can shadow.
pub(crate) const RESOURCE: &str = "desktopstreams.desktopstream.dev";

/// A stream and the pod that a command works on.
#[derive(Debug)]
pub(crate) struct Target {
    stream: DesktopStream,
    pod: Pod,
}

/// Finds the stream and its pod: the one of `--pod`, else that of `status.podName`.
pub(crate) fn find(kubectl: &Kubectl, Stream { name, pod }: &Stream) -> Result<Target> {
    let stream: DesktopStream = kubectl.get(&["get", RESOURCE, name])?;
    let current = || stream.status.as_ref().and_then(|status| status.pod_name.clone());
    let Some(pod) = pod.clone().or_else(current) else {
        let Summary { phase, problem, .. } = Summary::of(&stream);
        let phase = if phase.is_empty() { "New".to_owned() } else { phase };
        let problem =
            if problem.is_empty() { "the operator has not reconciled it yet".to_owned() } else { problem };
        bail!("{name} has no pod ({phase}): {problem}");
    };
    let found: Pod = kubectl.get(&["get", "pod", &pod]).with_context(|| format!("the pod of {name}"))?;
    let owner = found.metadata.labels.as_ref().and_then(|labels| labels.get(names::STREAM));
    if owner != Some(name) {
        bail!(
            "pod {pod} does not belong to {name}; list its pods with `kubectl get pods -l {}={name}`",
            names::STREAM
        );
    }
    Ok(Target { stream, pod: found })
}

#[derive(Deserialize)]
struct Secret {
    #[serde(default)]
    data: BTreeMap<String, String>,
}

impl Secret {
    /// The text under a key; `None` if there is no text.
    fn text(&self, key: &str) -> Option<String> {
        let text = String::from_utf8(BASE64_STANDARD.decode(self.data.get(key)?).ok()?).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }
}

impl Target {
    /// Pod name.
    pub(crate) fn pod(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    /// Arguments of a kubectl verb on the pod.
    pub(crate) fn pod_args(&self, verb: &str) -> Vec<String> {
        vec![verb.to_owned(), self.pod().to_owned()]
    }

    /// Name of the desktop's container: of an attached pod, the one in `spec.attach.container` or the first.
    pub(crate) fn desktop_container(&self) -> String {
        let attached = self.stream.spec.attach.as_ref();
        let named = attached.and_then(|attach| attach.container.clone());
        let first = attached.and_then(|_| Some(self.pod.spec.as_ref()?.containers.first()?.name.clone()));
        named.or(first).unwrap_or_else(|| names::DESKTOP_CONTAINER.to_owned())
    }

    /// The running sidecar's options that its doctor takes, too.
    pub(crate) fn doctor_options(&self) -> Vec<String> {
        operator_sidecar_client::doctor_options(self.sidecar_args().unwrap_or_default().to_vec())
    }

    fn sidecar_args(&self) -> Option<&[String]> {
        let spec = self.pod.spec.as_ref()?;
        let mut containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        let sidecar = containers.find(|container| container.name == names::SIDECAR_CONTAINER);
        sidecar?.args.as_deref()
    }

    /// The viewer token; `None` if the stream does not authenticate viewers.
    pub(crate) fn viewer_token(&self, kubectl: &Kubectl) -> Result<Option<String>> {
        if self.stream.spec.viewers.auth.kind == AuthKind::None {
            return Ok(None);
        }
        let secret = self.viewer_secret(kubectl)?;
        let name = self.viewer_secret_name();
        let token = secret.text(TOKEN_FILE);
        token.with_context(|| format!("Secret {name} has no text under the key {TOKEN_FILE:?}")).map(Some)
    }

    /// The token of viewers that may not control the desktop.
    pub(crate) fn view_only_token(&self, kubectl: &Kubectl) -> Result<String> {
        let name = self.stream.metadata.name.as_deref().unwrap_or_default();
        if self.stream.spec.viewers.auth.kind == AuthKind::None {
            bail!(
                "{name} does not authenticate viewers, so all of them may control the desktop; set \
                 spec.viewers.auth.type to Token, or spec.viewers.control to None"
            );
        }
        self.view_only_token_in(&self.viewer_secret(kubectl)?)
    }

    fn view_only_token_in(&self, secret: &Secret) -> Result<String> {
        let name = self.viewer_secret_name();
        let token = secret.text(VIEW_ONLY_TOKEN_FILE).with_context(|| {
            format!(
                "Secret {name} has no text under the key {VIEW_ONLY_TOKEN_FILE:?}; add one: kubectl patch secret {name} \
                 -p '{{\"stringData\": {{\"{VIEW_ONLY_TOKEN_FILE}\": \"'$(openssl rand -hex 32)'\"}}}}'"
            )
        })?;
        let flag = format!("--{}=", flags::VIEW_ONLY_TOKEN_FILE);
        let accepts = |args: &[String]| args.iter().any(|arg| arg.starts_with(&flag));
        if !self.sidecar_args().is_some_and(accepts) {
            let pod = self.pod();
            bail!(
                "the sidecar of pod {pod} accepts no view-only token, because an earlier version of the operator created the \
                 pod; delete it to have it created again"
            );
        }
        Ok(token)
    }

    /// Name of the Secret with the viewers' tokens.
    fn viewer_secret_name(&self) -> String {
        let stream = self.stream.metadata.name.as_deref().unwrap_or_default();
        let own = || names::Names::new(stream).viewer_secret();
        self.stream.spec.viewers.auth.secret_name.clone().unwrap_or_else(own)
    }

    fn viewer_secret(&self, kubectl: &Kubectl) -> Result<Secret> {
        let name = self.viewer_secret_name();
        kubectl.get(&["get", "secret", &name]).with_context(|| {
            format!(
                "cannot read the viewer token in Secret {name}; ask an administrator for the right to get it"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn target(auth: &serde_json::Value, sidecar_args: &[&str]) -> Target {
        Target {
            stream: serde_json::from_value(
                json!({"metadata": {"name": "desk"}, "spec": {"viewers": {"auth": auth}}}),
            )
            .expect("a stream"),
            pod: serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [],
                "initContainers": [{"name": names::SIDECAR_CONTAINER, "args": sidecar_args}]}}))
            .expect("a pod"),
        }
    }

    fn secret(data: &[(&str, &str)]) -> Secret {
        let data = data.iter().map(|(key, text)| ((*key).to_owned(), BASE64_STANDARD.encode(text)));
        Secret { data: data.collect() }
    }

    #[test]
    fn view_only_token_is_that_of_its_key() {
        let target = target(&json!({}), &["run", "--view-only-token-file=/v"]);
        let both = secret(&[("token", "control"), ("view-only-token", "view\n")]);
        assert_eq!(target.view_only_token_in(&both).expect("a token"), "view");
    }

    #[test]
    fn missing_view_only_token_is_reported_with_a_remedy() {
        let current = ["run", "--view-only-token-file=/v"];
        for (auth, name) in [(json!({}), "desk-viewer"), (json!({"secretName": "mine"}), "mine")] {
            for data in [&[("token", "control")][..], &[("token", "control"), ("view-only-token", " ")]] {
                let target = target(&auth, &current);
                let error = target.view_only_token_in(&secret(data)).expect_err("none").to_string();
                let remedy =
                    format!("kubectl patch secret {name} -p '{{\"stringData\": {{\"view-only-token\"");
                assert!(error.contains(&remedy), "{error}");
            }
        }
        let both = secret(&[("token", "control"), ("view-only-token", "view")]);
        let earlier = target(&json!({}), &["run", "--viewer-token-file=/t"]);
        let error = earlier.view_only_token_in(&both).expect_err("an earlier version").to_string();
        assert!(error.contains("pod p") && error.contains("delete it"), "{error}");
        let kubectl = Kubectl::default();
        let open = target(&json!({"type": "None"}), &current);
        let error = open.view_only_token(&kubectl).expect_err("no token").to_string();
        assert!(error.contains("spec.viewers.auth.type"), "{error}");
    }

    #[test]
    fn doctor_options_come_from_the_sidecar_container() {
        let args = ["run", "--name=ns/desk", "--source=test-pattern", "--runtime-dir=/run/desktop"];
        let target = Target {
            stream: serde_json::from_value(json!({"metadata": {"name": "desk"}, "spec": {"attach": {
                "kind": "Deployment", "name": "d", "container": "shell"}}}))
            .expect("a stream"),
            pod: serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
                "containers": [{"name": "other"}],
                "initContainers": [{"name": names::SIDECAR_CONTAINER, "args": args}]}}))
            .expect("a pod"),
        };
        assert_eq!(target.doctor_options(), ["--source=test-pattern", "--runtime-dir=/run/desktop"]);
        assert_eq!(target.desktop_container(), "shell");
        assert_eq!(target.pod_args("exec"), ["exec", "p"]);
    }
}
