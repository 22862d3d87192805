//! The node's GPUs as Container Device Interface devices, for runtimes that know CDI: then the runtime adds the
//! render group by itself, too.

use std::path::Path;

use serde_json::{Value, json};

use operator_discovery::gpus::Found;

/// Vendor and class of our devices.
pub const KIND: &str = "desktopstream.dev/gpu";
const FILE: &str = "desktopstream.dev-gpu.json";

/// The qualified name of a GPU, with or without its card node.
pub fn name(gpu: &str, card: bool) -> String {
    format!("{KIND}={gpu}{}", if card { "-card" } else { "" })
}

/// The CDI file.
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
    // additionalGids came with 0.7.0.
    json!({"cdiVersion": "0.7.0", "kind": KIND, "devices": devices})
}

/// Where a container sees a device file: drivers look under /dev/dri, wherever the node has it.
pub fn in_container(path: &str) -> String {
    let name = Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    format!("/dev/dri/{name}")
}

/// Writes the file, whole or not at all.
pub fn write(folder: &Path, found: &[Found]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let temporary = folder.join(format!(".{FILE}"));
    std::fs::write(&temporary, spec(found).to_string())?;
    std::fs::rename(temporary, folder.join(FILE))
}
