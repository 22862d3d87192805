//! vsock by `AF_VSOCK`; no place of a user's own without a session.

use std::io;
use std::path::PathBuf;

use tokio_vsock::VsockAddr;

use crate::listen::{Connection, Writer};
use host_agent_setup::service::Manager;
use crate::sys::System;

/// The variable that has the dynamic linker insert libraries.
pub const INSERT: &str = "LD_PRELOAD";
/// What the tap is called.
pub const TAP_FILE: &str = "libtap.so";

/// What this system is called.
pub const SYSTEM: &str = "Linux";
/// What starts a user's services.
pub const MANAGER: Manager = Manager::Systemd;
/// The variable by which a user adds folders of libraries.
pub const LIBRARIES_VARIABLE: &str = "LD_LIBRARY_PATH";

/// Where distributions have libraries.
pub fn libraries() -> Vec<PathBuf> {
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    [multiarch.as_str(), "/usr/local/lib", "/usr/lib64", "/usr/lib"].map(PathBuf::from).to_vec()
}

/// The folder of the link's socket without XDG_RUNTIME_DIR.
pub fn default_folder() -> PathBuf {
    std::env::temp_dir().join(format!("desktopstream-{}", rustix::process::getuid().as_raw()))
}

/// From the files that say so.
pub fn describe() -> System {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.map(|value| value.trim_matches([':', '=', '"', ' ', '\t']).to_owned()).unwrap_or_default()
    };
    let kernel = read("/proc/sys/kernel/osrelease");
    let cpus = read("/proc/cpuinfo");
    let named = after(&cpus, "model name");
    System {
        os: format!("{}, Linux {}", after(&read("/etc/os-release"), "PRETTY_NAME"), kernel.trim()),
        model: read("/sys/class/dmi/id/product_name").trim().to_owned(),
        // ARM kernels give numbers only.
        processor: if named.is_empty() {
            format!("{} {}", std::env::consts::ARCH, after(&cpus, "CPU part"))
        } else {
            named
        },
    }
}

/// A listening vsock.
#[derive(Debug)]
pub struct VsockListener {
    listener: tokio_vsock::VsockListener,
}

impl VsockListener {
    /// Listens on a port of one or all context IDs of this machine.
    pub fn bind(cid: u32, port: u32) -> io::Result<Self> {
        let address = VsockAddr::new(cid, port);
        Ok(Self { listener: tokio_vsock::VsockListener::bind(address)? })
    }

    /// The next connection.
    pub async fn accept(&self) -> io::Result<Connection> {
        let (stream, address) = self.listener.accept().await?;
        let peer = format!("vsock:{}", address.cid());
        let (reader, writer) = stream.into_split();
        Ok(Connection::new(reader, Writer::other(writer), peer.clone(), format!("{peer}:{}", address.port())))
    }
}
