//! Fixtures that the tests of several crates share.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::gpus::Roots;

/// Makes `/sys` and `/dev` below `root` with one PCI GPU per entry: bus address, driver, card minor, virtio features.
///
/// Device files are links to `/dev/null`, a character device that an unprivileged test can name.
///
/// # Panics
/// If `root` cannot be written.
pub fn machine(root: &Path, gpus: &[(&str, &str, u32, Option<&str>)]) -> Roots {
    let (sys, dev) = (root.join("sys"), root.join("dev"));
    fs::create_dir_all(sys.join("class/drm")).expect("a folder");
    fs::create_dir_all(dev.join("dri")).expect("a folder");
    for (address, driver, minor, features) in gpus {
        let mut device = sys.join("devices/pci0000:00").join(address);
        if let Some(features) = features {
            device = device.join("virtio0");
            fs::create_dir_all(&device).expect("a folder");
            fs::write(device.join("features"), features).expect("writes");
        }
        let drivers = sys.join("bus/drivers").join(driver);
        fs::create_dir_all(&drivers).expect("a folder");
        fs::create_dir_all(&device).expect("a folder");
        symlink(&drivers, device.join("driver")).expect("links");
        for name in [format!("card{minor}"), format!("renderD{}", 128 + minor), format!("card{minor}-DP-1")] {
            let class = sys.join("class/drm").join(&name);
            fs::create_dir_all(&class).expect("a folder");
            symlink(&device, class.join("device")).expect("links");
            if !name.contains('-') {
                symlink("/dev/null", dev.join("dri").join(&name)).expect("links");
            }
        }
    }
    Roots { dev, sys, more_drivers: Vec::new() }
}
