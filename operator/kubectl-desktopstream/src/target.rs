//! Finds a stream by name, with its pod and its viewer token.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use contract::names::TOKEN_FILE;
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
        let spec = self.pod.spec.iter();
        let mut containers =
            spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
        let sidecar = containers.find(|container| container.name == names::SIDECAR_CONTAINER);
        let args = sidecar.and_then(|sidecar| sidecar.args.clone()).unwrap_or_default();
        operator_sidecar_client::doctor_options(args)
    }

    /// The viewer token; `None` if the stream does not authenticate viewers.
    pub(crate) fn viewer_token(&self, kubectl: &Kubectl) -> Result<Option<String>> {
        let auth = &self.stream.spec.viewers.auth;
        if auth.kind == AuthKind::None {
            return Ok(None);
        }
        let own = names::Names::new(self.stream.metadata.name.as_deref().unwrap_or_default()).viewer_secret();
        let name = auth.secret_name.clone().unwrap_or(own);
        let secret: Secret = kubectl.get(&["get", "secret", &name]).with_context(|| {
            format!(
                "cannot read the viewer token in Secret {name}; ask an administrator for the right to get it"
            )
        })?;
        let token = secret.data.get(TOKEN_FILE).and_then(|token| BASE64_STANDARD.decode(token).ok());
        let token = token.and_then(|token| String::from_utf8(token).ok());
        let token =
            token.with_context(|| format!("Secret {name} has no text under the key {TOKEN_FILE:?}"))?;
        Ok(Some(token.trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
