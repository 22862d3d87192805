//! Streams of a topology, and their viewers.

use anyhow::{Context as _, Result};
use cluster::forward::Forward;
use cluster::product::Testbed;
use contract::SidecarStatus;
use e2e::Desktop;
use serde_json::{Value, json};

/// A stream of a desktop on a VM's GPU that permits the frame path `ResourceId` only.
pub fn stream(namespace: &str, name: &str, desktop: Desktop, (width, height): (u32, u32)) -> Value {
    let size = format!("{width}x{height}");
    let args: Vec<&str> = match desktop {
        Desktop::Pattern => vec!["serve", "--size", &size],
        _ => Vec::new(),
    };
    json!({
        "apiVersion": "desktopstream.dev/v1alpha1", "kind": "DesktopStream",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "desktop": {"image": crate::desktop(desktop), "imagePullPolicy": "Never", "args": args},
            "gpu": {"class": "Virtio"},
            "capture": {"width": width, "height": height, "require": "ZeroCopy"},
            "encode": {"placement": "HostAgent", "bitrateKbps": 3000},
            "hostAgent": {"name": "default"},
        },
    })
}

/// A forward from the host to a stream's viewers' Service.
pub struct Viewers {
    forward: Forward,
    /// The viewers' token.
    pub token: String,
}

impl Viewers {
    /// Forwards to a stream's Service.
    pub fn of(bed: &Testbed, namespace: &str, name: &str) -> Result<Self> {
        let service = bed.get(&["-n", namespace, "service", &format!("{name}-viewers")])?;
        let address = service["spec"]["clusterIP"].as_str().context("the Service has no address")?;
        let secret = format!("{name}-viewer");
        let template = "go-template={{.data.token | base64decode}}";
        let token = bed.cluster.kubectl(&["-n", namespace, "get", "secret", &secret, "-o", template])?;
        Ok(Self { forward: bed.cluster.forward(format!("{address}:80").parse()?)?, token })
    }

    /// URL on the host.
    pub fn url(&self) -> String {
        format!("http://{}", self.forward.address())
    }

    /// The sidecar's `/status`.
    pub fn status(&self) -> Result<SidecarStatus> {
        e2e::http::json(&format!("{}/status", self.url()), Some(&self.token))
    }
}
