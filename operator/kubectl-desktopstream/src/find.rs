//! A stream by its name: the object, its pod, its viewers' token.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;

use super::cli::Stream;
use super::kubectl::Kubectl;
use super::list;
use operator_api::{AuthKind, DesktopStream, names};
use operator_plan::workload::TOKEN_FILE;

/// The kind, as kubectl can't mistake it.
pub const KIND: &str = "desktopstreams.desktopstream.dev";

/// Options of the sidecar's `run` that its `doctor` has, too.
const DOCTORS: [&str; 11] = [
    "source",
    "memory",
    "render-node",
    "runtime-dir",
    "wayland-display",
    "pipewire-node",
    "hide-cursor",
    "pattern-size",
    "upstream",
    "upstream-file",
    "token-file",
];

/// A stream that has a pod.
#[derive(Debug)]
pub struct Target {
    stream: DesktopStream,
    pod: Pod,
}

/// Finds it.
pub fn target(kubectl: &Kubectl, Stream { name, pod }: &Stream) -> Result<Target> {
    let stream: DesktopStream = kubectl.ask(&["get", KIND, name])?;
    let pod = match (pod, stream.status.as_ref().and_then(|status| status.pod.clone())) {
        (Some(pod), _) => pod.clone(),
        (None, Some(pod)) => pod,
        (None, None) => {
            let row = list::row(&stream);
            let problem =
                if row.problem.is_empty() { "the operator hasn't seen it yet" } else { &row.problem };
            bail!("{name} has no pod ({}): {problem}", if row.phase.is_empty() { "New" } else { &row.phase });
        }
    };
    let found: Pod = kubectl.ask(&["get", "pod", &pod]).with_context(|| format!("the pod of {name}"))?;
    let of = found.metadata.labels.as_ref().and_then(|labels| labels.get(names::STREAM));
    if of != Some(name) {
        bail!("pod {pod} is none of {name}'s: kubectl get pods -l {}={name}", names::STREAM);
    }
    Ok(Target { stream, pod: found })
}

/// Of a sidecar's arguments, those that its doctor has, too.
pub(crate) fn doctors(args: Vec<String>) -> Vec<String> {
    let knows = |arg: &String| {
        let name = arg.trim_start_matches("--").split('=').next().unwrap_or_default();
        arg.starts_with("--") && DOCTORS.contains(&name)
    };
    args.into_iter().filter(knows).collect()
}

#[derive(Deserialize)]
struct Secret {
    #[serde(default)]
    data: BTreeMap<String, String>,
}

impl Target {
    /// The pod's name.
    pub fn pod(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    /// A command of kubectl's on the pod.
    pub fn in_pod(&self, verb: &str) -> Vec<String> {
        vec![verb.to_owned(), self.pod().to_owned()]
    }

    /// The container that the desktop is in.
    pub fn desktop_container(&self) -> String {
        let attached = self.stream.spec.attach.as_ref();
        let named = attached.and_then(|attach| attach.container.clone());
        // The first one, unless the stream says which.
        let first = attached.and_then(|_| Some(self.pod.spec.as_ref()?.containers.first()?.name.clone()));
        named.or(first).unwrap_or_else(|| names::DESKTOP_CONTAINER.to_owned())
    }

    /// What the sidecar runs with, as far as its doctor takes it.
    pub fn doctor_options(&self) -> Vec<String> {
        let spec = self.pod.spec.iter();
        let mut containers =
            spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
        let sidecar = containers.find(|container| container.name == names::SIDECAR_CONTAINER);
        let args = sidecar.and_then(|sidecar| sidecar.args.clone()).unwrap_or_default();
        doctors(args)
    }

    /// What a viewer must show; `None` where nothing is asked for.
    pub fn token(&self, kubectl: &Kubectl) -> Result<Option<String>> {
        let auth = &self.stream.spec.viewers.auth;
        if auth.kind == AuthKind::None {
            return Ok(None);
        }
        let own = names::Names::new(self.stream.metadata.name.as_deref().unwrap_or_default()).viewer_secret();
        let name = auth.secret_name.clone().unwrap_or(own);
        let secret: Secret = kubectl.ask(&["get", "secret", &name]).with_context(|| {
            format!("the viewers' token is in Secret {name}; ask for the right to get it")
        })?;
        let token = secret.data.get(TOKEN_FILE).and_then(|token| BASE64_STANDARD.decode(token).ok());
        let token = token.and_then(|token| String::from_utf8(token).ok());
        let token = token.with_context(|| format!("Secret {name} has no token under {TOKEN_FILE:?}"))?;
        Ok(Some(token.trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_doctor_hears_what_the_sidecar_was_told() {
        let args =
            ["run", "--name=ns/desk", "--source=test-pattern", "--runtime-dir=/run/desktop", "--hide-cursor"];
        let target = Target {
            stream: serde_json::from_value(json!({"metadata": {"name": "desk"}, "spec": {"attach": {
                "kind": "Deployment", "name": "d", "container": "shell"}}}))
            .expect("a stream"),
            pod: serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
                "containers": [{"name": "other"}],
                "initContainers": [{"name": names::SIDECAR_CONTAINER, "args": args}]}}))
            .expect("a pod"),
        };
        assert_eq!(
            target.doctor_options(),
            ["--source=test-pattern", "--runtime-dir=/run/desktop", "--hide-cursor"]
        );
        assert_eq!(target.desktop_container(), "shell");
        assert_eq!(target.in_pod("exec"), ["exec", "p"]);
    }
}
