//! The parts of virglrenderer's C interface that pass through the tap, defined by hand.
//!
//! Source: `virglrenderer.h` and `virgl_hw.h` of virglrenderer 0.10.4, unchanged in 1.1.0. The host's own
//! header is of no use: its callbacks structure has other fields with and without unstable APIs, and one
//! tap serves every version. Of that structure only the first field, `version`, is read.

use std::ffi::{c_int, c_void};

use protocol::PixelFormat;

/// `PIPE_TEXTURE_2D` (Gallium `p_defines.h`).
pub const TARGET_2D: u32 = 2;

/// `struct virgl_renderer_resource_create_args`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
#[expect(missing_docs, reason = "field by field the C structure")]
pub struct CreateArgs {
    pub handle: u32,
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
}

/// The first field of `struct virgl_renderer_resource_create_blob_args`: the rest does not matter here.
#[repr(C)]
#[derive(Debug)]
pub struct CreateBlobArgs {
    /// Resource ID.
    pub res_handle: u32,
}

/// The first field of `struct virgl_renderer_callbacks`.
#[repr(C)]
#[derive(Debug)]
pub struct Callbacks {
    /// 1 (QEMU 7.2) to 4; says which callbacks follow.
    pub version: c_int,
}

/// `struct virgl_box` (`virgl_hw.h`).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "field by field the C structure")]
pub struct Box3 {
    pub x: u32,
    pub y: u32,
    pub z: u32,
    pub w: u32,
    pub h: u32,
    pub d: u32,
}

/// `struct iovec` (POSIX `sys/uio.h`).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct IoVec {
    /// First byte.
    pub base: *mut c_void,
    /// Bytes.
    pub len: usize,
}

/// Whether a resource of this virgl format holds pixels in the order that `format` names. Alpha and
/// padding are interchangeable: the bytes lie alike.
pub fn format_matches(virgl: u32, format: PixelFormat) -> bool {
    match format {
        // VIRGL_FORMAT_B8G8R8A8_UNORM, VIRGL_FORMAT_B8G8R8X8_UNORM
        PixelFormat::Bgra | PixelFormat::Bgrx => matches!(virgl, 1 | 2),
        // VIRGL_FORMAT_R8G8B8A8_UNORM, VIRGL_FORMAT_R8G8B8X8_UNORM
        PixelFormat::Rgba | PixelFormat::Rgbx => matches!(virgl, 67 | 134),
        PixelFormat::Nv12 => false,
    }
}
