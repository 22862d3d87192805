//! GPUs for nodes that have none: a made-up /sys, and device files with the numbers of other devices that exist, and that
//! containers may not open by default.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::Cluster;

/// The nodes' own /dev, for node-agents. Nodes have their own /var/lib.
pub const DEV: &str = "/var/lib/gpus/dev";
/// Their /sys.
pub const SYS: &str = "/var/lib/gpus/sys";
/// The group of their render nodes.
pub const GROUP: u32 = 4109;

/// Address, driver, minor, the device number it borrows.
pub const ALL: [(&str, &str, u32, (u32, u32)); 2] =
    [("0000:00:03.0", "virtio_gpu", 0, FUSE), ("0000:00:04.0", "i915", 1, TUN)];
/// Opens for anybody.
pub const FUSE: (u32, u32) = (10, 229);
/// Opens for anybody, too; runtimes allow it by default, so it can't prove a refusal.
pub const TUN: (u32, u32) = (10, 200);
/// The card nodes': no container may open it that doesn't have it.
pub const LOOP: (u32, u32) = (10, 237);

/// Makes them on a node: `renderD128` is a virtio GPU's, `renderD129` an Intel one's.
pub fn make(cluster: &Cluster, node: u8) -> Result<()> {
    let (dev, sys) = (cluster.in_node(node, DEV)?, cluster.in_node(node, SYS)?);
    fs::create_dir_all(dev.join("dri"))?;
    fs::create_dir_all(sys.join("class/drm"))?;
    for (address, driver, minor, number) in ALL {
        let device = sys.join("devices/pci0000:00").join(address);
        fs::create_dir_all(&device)?;
        fs::create_dir_all(sys.join("bus/drivers").join(driver))?;
        // Relative, as they are read where /sys is elsewhere.
        symlink(format!("../../../bus/drivers/{driver}"), device.join("driver"))?;
        for (name, number) in [(format!("renderD{}", 128 + minor), number), (format!("card{minor}"), LOOP)] {
            let class = sys.join("class/drm").join(&name);
            fs::create_dir_all(&class)?;
            symlink(format!("../../../devices/pci0000:00/{address}"), class.join("device"))?;
            device_file(&dev.join("dri").join(&name), number)?;
        }
    }
    Ok(())
}

/// A character device that its group may read and write.
pub fn device_file(path: &Path, (major, minor): (u32, u32)) -> Result<()> {
    mknodat(CWD, path, FileType::CharacterDevice, Mode::RUSR, makedev(major, minor))
        .with_context(|| format!("making {}", path.display()))?;
    chown(path, Some(0), Some(GROUP))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o660))?)
}
