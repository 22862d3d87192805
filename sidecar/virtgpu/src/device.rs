//! Render nodes: opening one, and errors that name the remedy.
//!
//! Most streams that fail to start fail here: a group ID that differs between host and image, the node of another GPU, a
//! VM without 3D.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use drm::Device as _;
use drm::node::{DrmNode, NodeType};

use crate::gem::Node;
use crate::uapi::param;
use crate::{DRIVER, sys};

/// Unusable render node.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The node does not exist.
    #[error(
        "{path}: render node not found; give the container the device (Kubernetes: resource desktopstream.dev/dri, \
         Docker: --device {path})"
    )]
    NotFound {
        /// Requested node.
        path: PathBuf,
    },
    /// The node's mode denies access.
    #[error(
        "{path}: permission denied; add supplementary group {gid} (the node's group; the process has \
         uid {uid} and groups {groups:?}; the node's mode is {mode:03o})"
    )]
    Denied {
        /// Requested node.
        path: PathBuf,
        /// Group of the node, which the process lacks.
        gid: u32,
        /// Permission bits of the node.
        mode: u32,
        /// Effective user ID of the process.
        uid: u32,
        /// Group IDs of the process.
        groups: Vec<u32>,
    },
    /// Access is denied although the node's mode allows it.
    #[error(
        "{path}: permission denied although the node's mode allows access; allow the device in the container's device \
         cgroup (Kubernetes: resource desktopstream.dev/dri, Docker: --device {path})"
    )]
    Cgroup {
        /// Requested node.
        path: PathBuf,
    },
    /// The file is not a DRM node.
    #[error("{path}: not a DRM node ({source}); use a render node such as /dev/dri/renderD128")]
    NotDrm {
        /// Requested node.
        path: PathBuf,
        /// Error of `DRM_IOCTL_VERSION`.
        source: io::Error,
    },
    /// The node belongs to another GPU.
    #[error(
        "{path}: driver is {driver}, not virtio_gpu; use the VM's virtio-gpu node, or stream by frame path Local"
    )]
    OtherDriver {
        /// Requested node.
        path: PathBuf,
        /// Driver name, from `DRM_IOCTL_VERSION`.
        driver: String,
    },
    /// The virtio-gpu device has no 3D.
    #[error(
        "{path}: this virtio-gpu has no 3D (VIRTGPU_PARAM_3D_FEATURES is 0); start the VM with a GL device \
         (QEMU: -device virtio-gpu-gl-pci and a display with gl=on; UTM: a display card ending in \"(GPU Supported)\")"
    )]
    No3d {
        /// Requested node.
        path: PathBuf,
    },
    /// Other I/O error.
    #[error("{path}: {source}")]
    Io {
        /// Requested node.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
}

/// Parameters of the driver, `VIRTGPU_PARAM_*` (`virtgpu_drm.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "mirrors the driver's parameters")]
pub struct Params {
    /// 3D (virgl or another protocol) is enabled.
    pub features_3d: bool,
    /// Capability sets can be queried by ID.
    pub capset_query_fix: bool,
    /// Blob resources are supported.
    pub resource_blob: bool,
    /// Host memory can be mapped into the guest.
    pub host_visible: bool,
    /// Resources can be shared with other virtio devices.
    pub cross_device: bool,
    /// Contexts can select their capability set.
    pub context_init: bool,
    /// Bit n is set if capability set n is supported: 1 virgl, 2 virgl2, 3 gfxstream, 4 venus, 6 DRM.
    pub supported_capsets: u64,
}

/// Open virtio-gpu render node with 3D. Clones, buffers and mailboxes share the open file; the last one closes it.
#[derive(Debug, Clone)]
pub struct Device {
    pub(crate) node: Arc<Node>,
    path: Arc<Path>,
}

impl Device {
    /// Opens the render node at `path`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let file =
            OpenOptions::new().read(true).write(true).open(path).map_err(|error| classify(path, error))?;
        let node = Node::new(file.into());
        let driver = sys::retry(|| node.get_driver())
            .map_err(|source| OpenError::NotDrm { path: path.to_owned(), source })?;
        if driver.name() != DRIVER {
            let driver = driver.name().to_string_lossy().into_owned();
            return Err(OpenError::OtherDriver { path: path.to_owned(), driver });
        }
        let device = Self { node, path: path.into() };
        if device.params().features_3d { Ok(device) } else { Err(OpenError::No3d { path: path.to_owned() }) }
    }

    /// Opens the first usable render node in `/dev/dri`.
    ///
    /// # Errors
    ///
    /// The error of the first render node if none is usable.
    pub fn discover() -> Result<Self, OpenError> {
        let folder = Path::new("/dev/dri");
        let is_render =
            |path: &PathBuf| DrmNode::from_path(path).is_ok_and(|node| node.ty() == NodeType::Render);
        let mut nodes: Vec<PathBuf> = fs::read_dir(folder)
            .map_err(|error| classify(folder, error))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(is_render)
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

    /// Path the node was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Parameters of the driver. One that this kernel does not have reads as 0.
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

    /// Number of open GEM handles: one per distinct imported or allocated buffer and one per mailbox.
    pub fn open_handles(&self) -> usize {
        self.node.open_handles()
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.node.as_fd()
    }
}

fn classify(path: &Path, error: io::Error) -> OpenError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => OpenError::NotFound { path },
        io::ErrorKind::PermissionDenied => classify_denial(path, error),
        _ => OpenError::Io { path, source: error },
    }
}

/// Tells a missing group from a device cgroup that denies access.
fn classify_denial(path: PathBuf, error: io::Error) -> OpenError {
    let Ok(meta) = fs::metadata(&path) else { return OpenError::Io { path, source: error } };
    let uid = rustix::process::geteuid().as_raw();
    let mut groups: Vec<u32> = rustix::process::getgroups()
        .map(|groups| groups.into_iter().map(rustix::process::Gid::as_raw).collect())
        .unwrap_or_default();
    groups.push(rustix::process::getegid().as_raw());
    groups.sort_unstable();
    groups.dedup();
    let mode = meta.mode() & 0o777;
    if mode_allows(mode, (meta.uid(), meta.gid()), uid, &groups) {
        OpenError::Cgroup { path }
    } else {
        OpenError::Denied { path, gid: meta.gid(), mode, uid, groups }
    }
}

/// True if a file with this mode and (uid, gid) is readable and writable by user `uid` with `groups`.
fn mode_allows(mode: u32, owner: (u32, u32), uid: u32, groups: &[u32]) -> bool {
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
    fn missing_node_error_names_the_resource_to_request() {
        let error = Device::open("/dev/dri/renderD999").expect_err("the node does not exist");
        assert!(matches!(error, OpenError::NotFound { .. }), "{error}");
        assert!(error.to_string().contains("desktopstream.dev/dri"), "{error}");
    }

    #[test]
    fn device_that_is_not_drm_is_refused() {
        let error = Device::open("/dev/null").expect_err("/dev/null is not a DRM node");
        assert!(matches!(error, OpenError::NotDrm { .. }), "{error}");
    }

    #[test]
    fn missing_group_is_distinguished_from_device_cgroup() {
        assert!(!mode_allows(0o660, (0, 44), 1000, &[1000]));
        assert!(mode_allows(0o660, (0, 44), 1000, &[44, 1000]));
        assert!(mode_allows(0o666, (0, 44), 1000, &[1000]));
        assert!(!mode_allows(0o066, (1000, 44), 1000, &[44]), "owner bits take precedence over group bits");
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
