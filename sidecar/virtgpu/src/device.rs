//! Opening a render node, and saying what is wrong with it in words that name the remedy.
//!
//! Most streams that "do not work" fail here: a group that differs between host and image, a node of
//! another GPU, a VM without 3D. It does not know which node a desktop uses: the caller names it, or takes
//! the first that fits.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::gem::Node;
use crate::uapi::param;
use crate::{DRIVER, sys};

/// Why a render node can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No such file.
    #[error(
        "{path}: no such render node; give the container the device (Kubernetes: resource \
         desktopstream.dev/dri, Docker: --device {path})"
    )]
    NotFound {
        /// The node asked for.
        path: PathBuf,
    },
    /// No permission.
    #[error(
        "{path}: permission denied; add supplementary group {gid} (the node's group; the process has \
         uid {uid} and groups {groups:?}; the node's mode is {mode:03o})"
    )]
    Denied {
        /// The node asked for.
        path: PathBuf,
        /// Its group: the one that is missing.
        gid: u32,
        /// Its permission bits.
        mode: u32,
        /// Our user.
        uid: u32,
        /// Our groups.
        groups: Vec<u32>,
    },
    /// Permission denied although the mode would allow it.
    #[error(
        "{path}: the container may not use this device although its mode would let it; allow it in the \
         device cgroup (Kubernetes: resource desktopstream.dev/dri, Docker: --device {path})"
    )]
    Cgroup {
        /// The node asked for.
        path: PathBuf,
    },
    /// Not a DRM node.
    #[error(
        "{path}: not a DRM node ({source}); a render node is a character device like /dev/dri/renderD128"
    )]
    NotDrm {
        /// The node asked for.
        path: PathBuf,
        /// What DRM_IOCTL_VERSION said.
        source: io::Error,
    },
    /// Another GPU's node.
    #[error(
        "{path}: driver is {driver}, not virtio_gpu; choose the VM's virtio-gpu node, or stream from rung Local"
    )]
    OtherDriver {
        /// The node asked for.
        path: PathBuf,
        /// The driver, by DRM_IOCTL_VERSION.
        driver: String,
    },
    /// virtio-gpu in 2D.
    #[error(
        "{path}: this virtio-gpu has no 3D (VIRTGPU_PARAM_3D_FEATURES is 0); start the VM with a GL device \
         (QEMU: -device virtio-gpu-gl-pci and a display with gl=on; UTM: a display card ending in \"(GPU Supported)\")"
    )]
    No3d {
        /// The node asked for.
        path: PathBuf,
    },
    /// Anything else.
    #[error("{path}: {source}")]
    Io {
        /// The node asked for.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
}

/// What the driver says of itself: `VIRTGPU_PARAM_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "the driver's parameters, as they are")]
pub struct Params {
    /// virgl or another 3D protocol is on.
    pub features_3d: bool,
    /// Capability sets can be asked for by number.
    pub capset_query_fix: bool,
    /// Blob resources.
    pub resource_blob: bool,
    /// Host memory can be mapped into the guest.
    pub host_visible: bool,
    /// Buffers can be shared with other virtio devices.
    pub cross_device: bool,
    /// A context can choose its capability set.
    pub context_init: bool,
    /// Bit n set: capability set n (1 virgl, 2 virgl2, 3 gfxstream, 4 venus, 6 DRM) can be used.
    pub supported_capsets: u64,
}

/// An open virtio-gpu render node with 3D. Clones share it; it is closed with the last of them and the last
/// buffer and mailbox made from it.
#[derive(Debug, Clone)]
pub struct Device {
    pub(crate) node: Arc<Node>,
    path: Arc<Path>,
}

impl Device {
    /// Opens the node at `path`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let file =
            OpenOptions::new().read(true).write(true).open(path).map_err(|error| refusal(path, error))?;
        let node = Node::new(file.into());
        let driver = sys::driver_name(node.fd())
            .map_err(|source| OpenError::NotDrm { path: path.to_owned(), source })?;
        if driver != DRIVER {
            return Err(OpenError::OtherDriver { path: path.to_owned(), driver });
        }
        let device = Self { node, path: path.into() };
        if device.params().features_3d { Ok(device) } else { Err(OpenError::No3d { path: path.to_owned() }) }
    }

    /// The first usable render node in `/dev/dri`, or what is wrong with the first one there is.
    pub fn discover() -> Result<Self, OpenError> {
        let folder = Path::new("/dev/dri");
        let mut nodes: Vec<PathBuf> = fs::read_dir(folder)
            .map_err(|error| refusal(folder, error))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"renderD"))
            })
            .collect();
        nodes.sort();
        let mut first_error = None;
        for path in nodes {
            match Self::open(path) {
                Ok(device) => return Ok(device),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error.unwrap_or_else(|| OpenError::NotFound { path: folder.join("renderD128") }))
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the driver says of itself. A parameter that this kernel does not know reads as 0.
    pub fn params(&self) -> Params {
        let get = |param| sys::get_param(self.as_fd(), param).unwrap_or(0);
        Params {
            features_3d: get(param::FEATURES_3D) != 0,
            capset_query_fix: get(param::CAPSET_QUERY_FIX) != 0,
            resource_blob: get(param::RESOURCE_BLOB) != 0,
            host_visible: get(param::HOST_VISIBLE) != 0,
            cross_device: get(param::CROSS_DEVICE) != 0,
            context_init: get(param::CONTEXT_INIT) != 0,
            supported_capsets: get(param::SUPPORTED_CAPSET_IDS),
        }
    }

    /// GEM handles that are open: one per distinct buffer that is imported, and one per mailbox.
    pub fn open_handles(&self) -> usize {
        self.node.open_handles()
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.node.fd()
    }
}

fn refusal(path: &Path, error: io::Error) -> OpenError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => OpenError::NotFound { path },
        io::ErrorKind::PermissionDenied => denial(path, error),
        _ => OpenError::Io { path, source: error },
    }
}

fn denial(path: PathBuf, error: io::Error) -> OpenError {
    let Ok(meta) = fs::metadata(&path) else { return OpenError::Io { path, source: error } };
    let uid = rustix::process::geteuid().as_raw();
    let mut groups: Vec<u32> = rustix::process::getgroups()
        .map(|groups| groups.into_iter().map(rustix::process::Gid::as_raw).collect())
        .unwrap_or_default();
    groups.push(rustix::process::getegid().as_raw());
    groups.sort_unstable();
    groups.dedup();
    let mode = meta.mode() & 0o777;
    if may_read_write(mode, (meta.uid(), meta.gid()), uid, &groups) {
        OpenError::Cgroup { path }
    } else {
        OpenError::Denied { path, gid: meta.gid(), mode, uid, groups }
    }
}

/// Whether a file of this mode and (uid, gid) lets this user with these groups read and write.
fn may_read_write(mode: u32, owner: (u32, u32), uid: u32, groups: &[u32]) -> bool {
    let shift = if owner.0 == uid {
        6
    } else if groups.contains(&owner.1) {
        3
    } else {
        0
    };
    uid == 0 || mode >> shift & 0o6 == 0o6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_node_names_the_resource_to_ask_for() {
        let error = Device::open("/dev/dri/renderD999").expect_err("there is no such node");
        assert!(matches!(error, OpenError::NotFound { .. }), "{error}");
        assert!(error.to_string().contains("desktopstream.dev/dri"), "{error}");
    }

    #[test]
    fn another_kind_of_device_is_told_apart() {
        let error = Device::open("/dev/null").expect_err("/dev/null is no DRM node");
        assert!(matches!(error, OpenError::NotDrm { .. }), "{error}");
    }

    #[test]
    fn the_missing_group_is_told_from_the_device_cgroup() {
        assert!(!may_read_write(0o660, (0, 44), 1000, &[1000]));
        assert!(may_read_write(0o660, (0, 44), 1000, &[44, 1000]));
        assert!(may_read_write(0o666, (0, 44), 1000, &[1000]));
        assert!(!may_read_write(0o066, (1000, 44), 1000, &[44]), "the owner's bits go before the group's");
        let denied = OpenError::Denied {
            path: "/dev/dri/renderD128".into(),
            gid: 104,
            mode: 0o660,
            uid: 1000,
            groups: vec![1000],
        };
        assert!(denied.to_string().contains("add supplementary group 104"), "{denied}");
    }
}
