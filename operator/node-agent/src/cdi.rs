//! The node's GPUs as Container Device Interface (CDI) devices. A runtime that supports CDI also adds the render group.

use std::path::Path;

use serde_json::{Value, json};

use operator_discovery::gpus::Found;

/// Vendor and class of the devices.
pub const KIND: &str = "desktopstream.dev/gpu";
/// Name of the specification's file.
const FILE: &str = "desktopstream.dev-gpu.json";

/// Qualified name of a GPU's device, with or without the card node.
pub fn name(gpu: &str, card: bool) -> String {
    format!("{KIND}={gpu}{}", if card { "-card" } else { "" })
}

/// CDI specification of all healthy GPUs.
pub fn spec(found: &[Found]) -> Value {
    let node = |path: &str| json!({"path": in_container(path), "hostPath": path, "permissions": "rw"});
    let mut devices = Vec::new();
    for Found { gpu, .. } in found.iter().filter(|found| found.healthy) {
        let mut nodes = vec![node(&gpu.render)];
        let groups = json!([gpu.render_gid]);
        devices.push(json!({
            "name": gpu.name, "containerEdits": {"deviceNodes": nodes, "additionalGids": groups},
        }));
        if let Some(card) = &gpu.card {
            nodes.push(node(card));
            devices.push(json!({
                "name": format!("{}-card", gpu.name),
                "containerEdits": {"deviceNodes": nodes, "additionalGids": groups},
            }));
        }
    }
    // additionalGids needs version 0.7.0.
    json!({"cdiVersion": "0.7.0", "kind": KIND, "devices": devices})
}

/// Path of a device file in a container: always below `/dev/dri`, where drivers look.
pub fn in_container(path: &str) -> String {
    let name = Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    format!("/dev/dri/{name}")
}

/// Replaces the specification in `folder` atomically.
///
/// # Errors
/// If the folder cannot be written.
pub fn write(folder: &Path, found: &[Found]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let temporary = folder.join(format!(".{FILE}"));
    std::fs::write(&temporary, spec(found).to_string())?;
    std::fs::rename(temporary, folder.join(FILE))
}
