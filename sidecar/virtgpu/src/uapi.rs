//! Structures, constants and ioctl numbers of the virtio-gpu driver.
//!
//! Source: `include/uapi/drm/virtgpu_drm.h` of Linux 6.1, whose layout later versions keep. Written by hand because
//! distributions do not ship the kernel's copy: libdrm's `virtgpu_drm.h` lacks `blob_mem`, `stride` and
//! `layer_stride`. Sizes and ioctl numbers are checked at compile time against a C compiler's values.

use rustix::ioctl::{Opcode, opcode};

/// `DRM_IOCTL_BASE` (`drm.h`).
const GROUP: u8 = b'd';
/// `DRM_COMMAND_BASE` (`drm.h`): first ioctl number of a driver.
const DRIVER: u8 = 0x40;

/// `struct drm_virtgpu_map`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Map {
    pub offset: u64,
    pub handle: u32,
    pub pad: u32,
}

/// `struct drm_virtgpu_getparam`; `value` is the address of an `int` that the kernel writes.
#[repr(C)]
#[derive(Debug, Default)]
pub struct GetParam {
    pub param: u64,
    pub value: u64,
}

/// `struct drm_virtgpu_resource_create`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct ResourceCreate {
    pub target: u32,
    pub format: u32,
    pub bind: u32,
    pub width: u32,
    pub height: u32,
    pub depth: u32,
    pub array_size: u32,
    pub last_level: u32,
    pub nr_samples: u32,
    pub flags: u32,
    pub bo_handle: u32,
    pub res_handle: u32,
    pub size: u32,
    pub stride: u32,
}

/// `struct drm_virtgpu_resource_info`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct ResourceInfo {
    pub bo_handle: u32,
    pub res_handle: u32,
    pub size: u32,
    pub blob_mem: u32,
}

/// `struct drm_virtgpu_3d_box`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct Box3d {
    pub x: u32,
    pub y: u32,
    pub z: u32,
    pub w: u32,
    pub h: u32,
    pub d: u32,
}

/// `struct drm_virtgpu_3d_transfer_to_host` and `struct drm_virtgpu_3d_transfer_from_host`, which have one layout.
/// `stride` and `layer_stride` must be 0 unless the resource is a host blob.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Transfer {
    pub bo_handle: u32,
    pub area: Box3d,
    pub level: u32,
    pub offset: u32,
    pub stride: u32,
    pub layer_stride: u32,
}

/// `struct drm_virtgpu_3d_wait`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Wait {
    pub handle: u32,
    pub flags: u32,
}

/// `VIRTGPU_WAIT_NOWAIT`: return `EBUSY` instead of waiting.
pub const WAIT_NOWAIT: u32 = 1;

/// `DRM_IOCTL_VIRTGPU_MAP`: offset for mapping a resource's pages.
pub const MAP: Opcode = opcode::read_write::<Map>(GROUP, DRIVER + 0x01);
/// `DRM_IOCTL_VIRTGPU_GETPARAM`: reads a driver parameter.
pub const GETPARAM: Opcode = opcode::read_write::<GetParam>(GROUP, DRIVER + 0x03);
/// `DRM_IOCTL_VIRTGPU_RESOURCE_CREATE`: creates a resource.
pub const RESOURCE_CREATE: Opcode = opcode::read_write::<ResourceCreate>(GROUP, DRIVER + 0x04);
/// `DRM_IOCTL_VIRTGPU_RESOURCE_INFO`: resource ID and size of a GEM handle.
pub const RESOURCE_INFO: Opcode = opcode::read_write::<ResourceInfo>(GROUP, DRIVER + 0x05);
/// `DRM_IOCTL_VIRTGPU_TRANSFER_FROM_HOST`: copies from the host into guest pages.
pub const TRANSFER_FROM_HOST: Opcode = opcode::read_write::<Transfer>(GROUP, DRIVER + 0x06);
/// `DRM_IOCTL_VIRTGPU_TRANSFER_TO_HOST`: copies guest pages to the host.
pub const TRANSFER_TO_HOST: Opcode = opcode::read_write::<Transfer>(GROUP, DRIVER + 0x07);
/// `DRM_IOCTL_VIRTGPU_WAIT`: waits for the commands of a resource.
pub const WAIT: Opcode = opcode::read_write::<Wait>(GROUP, DRIVER + 0x08);

/// Driver parameters, `VIRTGPU_PARAM_*`.
pub mod param {
    pub const FEATURES_3D: u64 = 1;
    pub const CAPSET_QUERY_FIX: u64 = 2;
    pub const RESOURCE_BLOB: u64 = 3;
    pub const HOST_VISIBLE: u64 = 4;
    pub const CROSS_DEVICE: u64 = 5;
    pub const CONTEXT_INIT: u64 = 6;
    pub const SUPPORTED_CAPSET_IDS: u64 = 7;
}

// Values of a C compiler on 64-bit Linux; x86_64 and aarch64 agree.
const _: () = {
    assert!(size_of::<Transfer>() == 44);
    assert!(size_of::<ResourceCreate>() == 56);
    assert!(MAP == 0xc010_6441);
    assert!(GETPARAM == 0xc010_6443);
    assert!(RESOURCE_CREATE == 0xc038_6444);
    assert!(RESOURCE_INFO == 0xc010_6445);
    assert!(TRANSFER_FROM_HOST == 0xc02c_6446);
    assert!(TRANSFER_TO_HOST == 0xc02c_6447);
    assert!(WAIT == 0xc008_6448);
};
