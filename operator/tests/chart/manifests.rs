//! `src/install/manifests.json` is the chart, rendered with placeholders. With UPDATE_MANIFESTS=1 the file is written.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::objects::Rendered;
use super::{chart, must};

/// Values that `src/install.rs` replaces.
const VALUES: [&str; 7] = [
    "image.repository=placeholder.invalid/operator",
    "image.tag=placeholder",
    "image.pullPolicy=",
    "sidecar.image=placeholder.invalid/sidecar:placeholder",
    "node.devDir=/placeholder/dev",
    "node.sysDir=/placeholder/sys",
    "operator.replicas=2",
];

#[test]
#[ignore = "needs helm; run by ./x test cluster"]
fn install_manifests_are_the_rendered_chart() {
    let chart = chart().display().to_string();
    let mut arguments = vec![
        "template",
        "desktopstream",
        &chart,
        "--namespace",
        "placeholder-namespace",
        "--kube-version",
        "1.33",
        "--skip-tests",
    ];
    arguments.extend(VALUES.iter().flat_map(|value| ["--set", value]));
    let objects = Value::Array(Rendered::read(&must(&arguments)).objects);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/install/manifests.json");
    if std::env::var_os("UPDATE_MANIFESTS").is_some() {
        let text = serde_json::to_string_pretty(&objects).expect("JSON");
        fs::write(&file, text + "\n").expect("writes");
    }
    let text = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        serde_json::from_str::<Value>(&text).is_ok_and(|found| found == objects),
        "{} is stale: run UPDATE_MANIFESTS=1 cargo test --release -p operator --test chart -- --ignored install_manifests",
        file.display()
    );
}
