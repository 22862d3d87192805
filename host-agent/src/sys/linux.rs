//! Linux: `AF_VSOCK`; a folder in the temporary directory.

use std::io;
use std::path::PathBuf;

use tokio_vsock::VsockAddr;

use crate::listen::{Channel, Connection, Writer};
use crate::sys::System;

/// Whether the host has `AF_VSOCK`.
pub const HAS_VSOCK: bool = true;

/// Limit of open descriptors to ask for; container engines set hard limits of 10^9, and some libraries iterate
/// over all descriptors.
pub const MAX_DESCRIPTORS: u64 = 1 << 16;

/// Folder of the link's socket if XDG_RUNTIME_DIR is not set: in the user's runtime folder, where the tap looks
/// too, or in the temporary directory.
pub fn default_folder() -> PathBuf {
    let user = rustix::process::getuid().as_raw();
    let runtime = PathBuf::from(format!("/run/user/{user}"));
    if runtime.is_dir() {
        runtime.join("desktopstream")
    } else {
        std::env::temp_dir().join(format!("desktopstream-{user}"))
    }
}

/// Describes this machine from `/etc/os-release`, `/proc` and the DMI tables.
pub fn describe() -> System {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let value = |text: &str, key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.map(|value| value.trim_matches([':', '=', '"', ' ', '\t']).to_owned()).unwrap_or_default()
    };
    let kernel = read("/proc/sys/kernel/osrelease");
    let cpus = read("/proc/cpuinfo");
    let model_name = value(&cpus, "model name");
    System {
        os: format!("{}, Linux {}", value(&read("/etc/os-release"), "PRETTY_NAME"), kernel.trim()),
        model: read("/sys/class/dmi/id/product_name").trim().to_owned(),
        // On ARM /proc/cpuinfo has a part number and no model name.
        processor: if model_name.is_empty() {
            format!("{} {}", std::env::consts::ARCH, value(&cpus, "CPU part"))
        } else {
            model_name
        },
    }
}

/// A listening vsock.
#[derive(Debug)]
pub struct VsockListener {
    listener: tokio_vsock::VsockListener,
}

impl VsockListener {
    /// Listens on `port` of one context ID of this machine, or of all with `VMADDR_CID_ANY`.
    pub fn bind(cid: u32, port: u32) -> io::Result<Self> {
        let address = VsockAddr::new(cid, port);
        Ok(Self { listener: tokio_vsock::VsockListener::bind(address)? })
    }

    /// Accepts the next connection.
    pub async fn accept(&self) -> io::Result<Connection> {
        let (stream, address) = self.listener.accept().await?;
        let peer = format!("vsock:{}", address.cid());
        let (reader, writer) = stream.into_split();
        let port = format!("{peer}:{}", address.port());
        Ok(Connection::new(reader, Writer::other(writer), Channel::Local, peer, port))
    }
}
