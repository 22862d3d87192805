//! Finds the GPUs of a node, by what sysfs says of their drivers. Opens no device.
//!
//! Device files and sysfs are looked for under two roots that flags can move, so that tests can make their own.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use operator_api::GpuClass;
use operator_plan::facts::Gpu;

/// Where things are.
#[derive(Debug, Clone)]
pub struct Roots {
    /// `/dev`.
    pub dev: PathBuf,
    /// `/sys`.
    pub sys: PathBuf,
    /// Drivers that count as GPUs besides those that we know, e.g. `vgem`.
    pub more_drivers: Vec<String>,
}

/// A GPU, and whether it can be handed out now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub gpu: Gpu,
    /// Its device file is there.
    pub healthy: bool,
}

/// All GPUs with a render node and a driver that we know, sorted by name.
pub fn find(roots: &Roots) -> std::io::Result<Vec<Found>> {
    let class = roots.sys.join("class/drm");
    let entries = match fs::read_dir(&class) {
        Ok(entries) => entries,
        // A kernel without DRM.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut minors: Vec<(String, PathBuf)> = Vec::new();
    for entry in entries {
        let entry = entry?;
        // A device that goes away while we look is no error.
        if let (Ok(name), Ok(device)) =
            (entry.file_name().into_string(), fs::canonicalize(entry.path().join("device")))
        {
            minors.push((name, device));
        }
    }
    minors.sort();
    let renders = minors.iter().filter(|(name, _)| is_minor(name, "renderD"));
    let mut found: Vec<Found> =
        renders.filter_map(|(name, device)| examine(roots, name, device, &minors)).collect();
    found.sort_by(|a, b| a.gpu.name.cmp(&b.gpu.name));
    Ok(found)
}

/// `card0` and `renderD128` are minors, `card0-DP-1` is a connector.
fn is_minor(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

fn examine(roots: &Roots, render: &str, device: &Path, minors: &[(String, PathBuf)]) -> Option<Found> {
    let driver = fs::canonicalize(device.join("driver")).ok()?.file_name()?.to_str()?.to_owned();
    let class = match GpuClass::of_driver(&driver) {
        Some(class) => class,
        None if roots.more_drivers.contains(&driver) => GpuClass::Any,
        None => {
            tracing::debug!(driver, render, "no GPU that we know; --driver takes it in");
            return None;
        }
    };
    let file = roots.dev.join("dri").join(render);
    let metadata = fs::metadata(&file).ok().filter(|it| it.file_type().is_char_device());
    let of_same_device = |(name, of): &&(String, PathBuf)| is_minor(name, "card") && of == device;
    let card = minors.iter().find(of_same_device).map(|(name, _)| roots.dev.join("dri").join(name));
    Some(Found {
        healthy: metadata.is_some(),
        gpu: Gpu {
            name: stable_name(device),
            three_d: (class == GpuClass::Virtio).then(|| has_virgl(device)).flatten(),
            driver,
            class,
            render: file.display().to_string(),
            card: card.filter(|card| card.exists()).map(|card| card.display().to_string()),
            render_gid: metadata.map_or(0, |metadata| metadata.gid()),
        },
    })
}

/// By the bus address, which a reboot doesn't change, where minors may.
fn stable_name(device: &Path) -> String {
    let parts: Vec<&str> = device.iter().filter_map(|part| part.to_str()).collect();
    let pci = |part: &&&str| part.len() == 12 && part.as_bytes()[4] == b':' && part.as_bytes()[7] == b':';
    let name = match parts.iter().rev().find(pci) {
        Some(address) => format!("pci-{address}"),
        None => parts.last().map_or_else(|| "gpu".to_owned(), ToString::to_string),
    };
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
}

/// Whether the VMM offers 3D: VIRTIO_GPU_F_VIRGL, the first feature bit, as sysfs prints them.
fn has_virgl(device: &Path) -> Option<bool> {
    let features = fs::read_to_string(device.join("features")).ok()?;
    Some(features.starts_with('1'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::machine;

    #[test]
    fn gpus_are_told_by_their_drivers_and_named_by_their_place() {
        let root = tempfile::tempdir().expect("a folder");
        let mut roots = machine(
            root.path(),
            &[
                ("0000:00:03.0", "virtio_gpu", 1, Some("1010000000")),
                ("0000:00:02.0", "i915", 0, None),
                ("0000:00:04.0", "vgem", 2, None),
                ("0000:00:05.0", "virtio_gpu", 3, Some("0010000000")),
            ],
        );
        let found = find(&roots).expect("looks");
        let told: Vec<_> =
            found.iter().map(|it| (it.gpu.name.as_str(), it.gpu.class, it.gpu.three_d)).collect();
        assert_eq!(
            told,
            [
                ("pci-0000-00-02.0", GpuClass::Intel, None),
                ("pci-0000-00-03.0", GpuClass::Virtio, Some(true)),
                ("pci-0000-00-05.0", GpuClass::Virtio, Some(false)),
            ]
        );
        assert!(found[0].healthy && found[0].gpu.render.ends_with("/dev/dri/renderD128"));
        assert!(found[0].gpu.card.as_ref().is_some_and(|card| card.ends_with("/dev/dri/card0")));
        roots.more_drivers.push("vgem".to_owned());
        assert_eq!(find(&roots).expect("looks").len(), 4);
        fs::remove_file(roots.dev.join("dri/renderD128")).expect("removes");
        assert!(!find(&roots).expect("looks")[0].healthy);
    }

    #[test]
    fn no_drm_is_no_gpu() {
        let root = tempfile::tempdir().expect("a folder");
        let roots = Roots { dev: root.path().into(), sys: root.path().into(), more_drivers: Vec::new() };
        assert_eq!(find(&roots).expect("looks"), []);
    }
}
