//! Images of the VMs. Their large layers are the lab's disks and are not copied.

use std::path::Path;

use anyhow::Result;
use cluster::product::images::{self, Programs, SIDECAR};
use cluster::{Cluster, Image};
use e2e::Desktop;

/// Image of a tenant that tries to read the pictures of others (tests/fixtures/attacker).
pub const ATTACKER: &str = "docker.io/local/attacker:dev";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Reference of a desktop's image.
pub fn desktop(desktop: Desktop) -> String {
    format!("docker.io/local/{}:dev", desktop.image())
}

/// Adds all images to a VM's payload, which holds the stripped programs for the VM; returns the disks that the VM needs.
pub(crate) fn add(
    payload: &Path,
    cluster: &Cluster,
    desktops: &[Desktop],
    programs: &Programs,
) -> Result<Vec<String>> {
    let program = |name: &str| payload.join(name);
    let (_root, operator) = images::operator(programs)?;
    let sidecar = Image::of_disk(SIDECAR, "sidecar")
        .with_program(&program("sidecar"))
        .env("PATH", PATH)
        .env("GST_REGISTRY", "/usr/share/desktopstream/gstreamer-registry.bin")
        .env("GST_REGISTRY_UPDATE", "no")
        .user(1000);
    let attacker = Image::of_disk(ATTACKER, "sidecar").with_program(&program("attacker")).env("PATH", PATH);
    let mut all = vec![operator, sidecar, attacker];
    let mut disks = vec!["sidecar".to_owned()];
    for &kind in desktops {
        let image = Image::of_disk(&desktop(kind), kind.image());
        let image = match kind {
            Desktop::Pattern => image.with_program(&program("pattern")),
            _ => image.entrypoint(&["/usr/local/bin/desktop"]),
        };
        all.push(image.env("PATH", PATH));
        disks.push(kind.image().to_owned());
    }
    cluster::vm::add_to_payload(payload, cluster.tools(), &all)?;
    Ok(disks)
}
