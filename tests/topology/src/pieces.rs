//! What is put into a topology, and asked of it.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use cluster::forward::Forward;
use cluster::product::Bed;
use e2e::Desktop;
use serde_json::{Value, json};

/// Says what is being done, on stderr.
pub fn say(what: &str) {
    eprintln!("topology: {what}");
}

static STOP: AtomicBool = AtomicBool::new(false);

/// Somebody wants the end.
pub fn stop() {
    STOP.store(true, Ordering::Relaxed);
}

/// An error if somebody wants the end: between the steps of what takes minutes.
pub fn go_on() -> Result<()> {
    ensure!(!STOP.load(Ordering::Relaxed), "interrupted");
    Ok(())
}

/// A stream of a desktop on a VM's GPU: only resource IDs may leave the VM.
pub fn stream(namespace: &str, name: &str, desktop: Desktop, (width, height): (u32, u32)) -> Value {
    let size = format!("{width}x{height}");
    let args: Vec<&str> = match desktop {
        Desktop::Pattern => vec!["serve", "--size", &size],
        Desktop::Gnome | Desktop::Sway => Vec::new(),
    };
    json!({
        "apiVersion": "desktopstream.dev/v1alpha1", "kind": "DesktopStream",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "desktop": {"image": crate::desktop(desktop), "imagePullPolicy": "Never", "args": args},
            "gpu": {"class": "Virtio"},
            "capture": {"width": width, "height": height, "require": "ZeroCopy"},
            "encode": {"where": "HostAgent", "bitrate": 3000},
            "hostAgent": {"name": "default"},
        },
    })
}

/// The way to a stream's viewers from this computer, and what they must bring.
pub struct Viewers {
    way: Forward,
    /// Their token.
    pub token: String,
}

impl Viewers {
    /// By the stream's Service.
    pub fn of(bed: &Bed, namespace: &str, name: &str) -> Result<Self> {
        let service = bed.get(&["-n", namespace, "service", &format!("{name}-viewers")])?;
        let address = service["spec"]["clusterIP"].as_str().context("no address")?;
        let secret = format!("{name}-viewer");
        let words =
            ["-n", namespace, "get", "secret", &secret, "-o", "go-template={{.data.token | base64decode}}"];
        let token = bed.cluster.kubectl(&words)?;
        Ok(Self { way: bed.cluster.forward(format!("{address}:80").parse()?)?, token })
    }

    /// Where they go.
    pub fn url(&self) -> String {
        format!("http://{}", self.way.address())
    }

    /// The sidecar's own status.
    pub fn status(&self) -> Result<Value> {
        e2e::http::json(&format!("{}/status", self.url()), Some(&self.token))
    }
}
