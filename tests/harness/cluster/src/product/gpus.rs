//! Simulated GPUs: a /sys tree, and device files with the numbers of devices that exist on the host and that containers may not
//! open by default.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::Cluster;

/// The simulated /dev on each node.
pub const DEV: &str = "/var/lib/gpus/dev";
/// The simulated /sys on each node.
pub const SYS: &str = "/var/lib/gpus/sys";
/// Group ID of the render nodes.
pub const GROUP: u32 = 4109;

/// PCI address, driver, minor number, and the number of the device that stands in.
pub const ALL: [(&str, &str, u32, (u32, u32)); 2] =
    [("0000:00:03.0", "virtio_gpu", 0, FUSE), ("0000:00:04.0", "i915", 1, TUN)];
/// `/dev/fuse`: opens without hardware.
pub const FUSE: (u32, u32) = (10, 229);
/// `/dev/net/tun`: opens without hardware. Runtimes allow it by default, so it cannot prove that access is denied.
pub const TUN: (u32, u32) = (10, 200);
/// `/dev/loop-control`, for card nodes: denied to containers that do not have the device.
pub const LOOP: (u32, u32) = (10, 237);

/// Creates the GPUs on a node: `renderD128` belongs to a virtio GPU, `renderD129` to an Intel one.
pub fn make(cluster: &Cluster, node: u8) -> Result<()> {
    let (dev, sys) = (cluster.in_node(node, DEV)?, cluster.in_node(node, SYS)?);
    fs::create_dir_all(dev.join("dri"))?;
    fs::create_dir_all(sys.join("class/drm"))?;
    for (address, driver, minor, number) in ALL {
        let device = sys.join("devices/pci0000:00").join(address);
        fs::create_dir_all(&device)?;
        fs::create_dir_all(sys.join("bus/drivers").join(driver))?;
        // Relative links, as the tree is mounted elsewhere in containers.
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

/// Creates a character device with read and write permission for [`GROUP`].
pub fn device_file(path: &Path, (major, minor): (u32, u32)) -> Result<()> {
    mknodat(CWD, path, FileType::CharacterDevice, Mode::RUSR, makedev(major, minor))
        .with_context(|| format!("creating {}", path.display()))?;
    chown(path, Some(0), Some(GROUP))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o660))?)
}
