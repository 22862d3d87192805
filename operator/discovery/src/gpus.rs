//! Finds the GPUs of a machine by the drivers that sysfs names. Does not open devices.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use operator_api::GpuClass;
use operator_plan::facts::Gpu;

/// Directories and drivers to search.
#[derive(Debug, Clone)]
pub struct Roots {
    /// The machine's `/dev`.
    pub dev: PathBuf,
    /// The machine's `/sys`.
    pub sys: PathBuf,
    /// Drivers that count as GPUs besides those of [`GpuClass::of_driver`], for example `vgem`.
    pub more_drivers: Vec<String>,
}

/// A GPU and its health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The GPU.
    pub gpu: Gpu,
    /// True if its render node is a character device in `/dev`.
    pub healthy: bool,
}

/// Finds all GPUs with a render node and a known driver, sorted by name.
///
/// # Errors
/// If sysfs cannot be read. A kernel without DRM has no GPUs.
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
        // A device that was removed meanwhile is skipped.
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

/// True for a minor such as `card0` or `renderD128`; false for a connector such as `card0-DP-1`.
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
            tracing::debug!(driver, render, "unknown driver; pass --driver to use it");
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

/// Name from the bus address, which stays the same over reboots; minors do not.
fn stable_name(device: &Path) -> String {
    let parts: Vec<&str> = device.iter().filter_map(|part| part.to_str()).collect();
    let pci = |part: &&&str| part.len() == 12 && part.as_bytes()[4] == b':' && part.as_bytes()[7] == b':';
    let name = match parts.iter().rev().find(pci) {
        Some(address) => format!("pci-{address}"),
        None => parts.last().map_or_else(|| "gpu".to_owned(), ToString::to_string),
    };
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
}

/// True if the VMM offers 3D: `VIRTIO_GPU_F_VIRGL` is feature bit 0, the first character in sysfs.
fn has_virgl(device: &Path) -> Option<bool> {
    let features = fs::read_to_string(device.join("features")).ok()?;
    Some(features.starts_with('1'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::machine;

    #[test]
    fn find_classifies_gpus_by_driver_and_names_them_by_bus_address() {
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
        let found = find(&roots).expect("finds");
        let classes: Vec<_> =
            found.iter().map(|it| (it.gpu.name.as_str(), it.gpu.class, it.gpu.three_d)).collect();
        assert_eq!(
            classes,
            [
                ("pci-0000-00-02.0", GpuClass::Intel, None),
                ("pci-0000-00-03.0", GpuClass::Virtio, Some(true)),
                ("pci-0000-00-05.0", GpuClass::Virtio, Some(false)),
            ]
        );
        assert!(found[0].healthy && found[0].gpu.render.ends_with("/dev/dri/renderD128"));
        assert!(found[0].gpu.card.as_ref().is_some_and(|card| card.ends_with("/dev/dri/card0")));
        roots.more_drivers.push("vgem".to_owned());
        assert_eq!(find(&roots).expect("finds").len(), 4);
        fs::remove_file(roots.dev.join("dri/renderD128")).expect("removes");
        assert!(!find(&roots).expect("finds")[0].healthy);
    }

    #[test]
    fn find_without_drm_finds_no_gpus() {
        let root = tempfile::tempdir().expect("a folder");
        let roots = Roots { dev: root.path().into(), sys: root.path().into(), more_drivers: Vec::new() };
        assert_eq!(find(&roots).expect("finds"), []);
    }
}
