//! Fixtures that the tests of several crates share.

use operator_api::{DesktopStream, GpuClass};
use serde_json::{Value, json};

use crate::facts::{Gpu, Node, NodeFacts};
use crate::validate::{Validated, validate};

/// The smallest valid stream, `team/desk`, with the JSON merge patch `changes` applied.
///
/// # Panics
/// If the result is not a `DesktopStream`.
pub fn stream(changes: &Value) -> DesktopStream {
    let mut whole = json!({
        "apiVersion": "desktopstream.dev/v1alpha1", "kind": "DesktopStream",
        "metadata": {"name": "desk", "namespace": "team", "uid": "u-1", "generation": 3},
        "spec": {"desktop": {"image": "registry/desktop:1"}},
    });
    json_patch::merge(&mut whole, changes);
    serde_json::from_value(whole).expect("a stream")
}

/// [`stream`], validated.
///
/// # Panics
/// If the result is not a valid `DesktopStream`.
pub fn validated(changes: &Value) -> Validated {
    validate(&stream(changes)).expect("valid")
}

/// A ready node with one virtio GPU of render group `gid`, which reaches `host_agents` (name, endpoint).
///
/// # Panics
/// If an endpoint cannot be parsed.
pub fn node(name: &str, gid: u32, host_agents: &[(&str, &str)]) -> Node {
    let gpu = Gpu {
        name: "pci-0000:00:02.0".to_owned(),
        driver: "virtio_gpu".to_owned(),
        class: GpuClass::Virtio,
        render: "/dev/dri/renderD128".to_owned(),
        card: None,
        render_gid: gid,
        three_d: Some(true),
    };
    Node {
        name: name.to_owned(),
        ready: true,
        facts: NodeFacts {
            gpus: vec![gpu],
            host_agents: host_agents
                .iter()
                .map(|(agent, endpoint)| ((*agent).to_owned(), vec![endpoint.parse().expect("an endpoint")]))
                .collect(),
            ..NodeFacts::default()
        },
        devices: [("desktopstream.dev/dri".to_owned(), 16)].into(),
        ..Node::default()
    }
}

/// Every `DesktopStream` of `docs/samples`, by file name, in that order.
///
/// # Panics
/// If a sample cannot be read.
pub fn samples() -> Vec<(String, DesktopStream)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(repository().join("docs/samples")).expect("docs/samples") {
        let entry = entry.expect("an entry");
        let text = std::fs::read_to_string(entry.path()).expect("reads");
        if text.contains("kind: DesktopStream") {
            let stream: DesktopStream = serde_yaml_ng::from_str(&text).expect("a stream");
            found.push((entry.file_name().to_string_lossy().into_owned(), stream));
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    found
}

/// Compares what `render` makes of each sample with the file of the same name in `golden`, or writes the file if the
/// environment has `UPDATE_GOLDEN`. `package` and its test `golden` are named in the message.
///
/// # Panics
/// If a file differs.
pub fn assert_golden(golden: &std::path::Path, package: &str, render: impl Fn(DesktopStream) -> String) {
    let mut stale = Vec::new();
    for (file, stream) in samples() {
        let path = golden.join(file);
        let text = render(stream);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).expect("writes");
        }
        if std::fs::read_to_string(&path).unwrap_or_default() != text {
            stale.push(path);
        }
    }
    assert!(
        stale.is_empty(),
        "run UPDATE_GOLDEN=1 cargo test --release -p {package} --test golden and read the diff: {stale:?}"
    );
}

/// The repository's root folder.
pub fn repository() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
