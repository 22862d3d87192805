//! The part of virglrenderer's C ABI that crosses the tap.
//!
//! Source: `src/virglrenderer.h` and `src/virgl_hw.h` of virglrenderer 0.10.4; the declarations are the
//! same in 1.1.0. They are not generated from the build machine's header, because one tap serves every
//! version: `struct virgl_renderer_callbacks` grows from version to version, so only the fields that all
//! versions share are declared here. The sizes are checked below.

use std::ffi::c_int;

pub use libc::iovec;
use protocol::PixelFormat;

/// `PIPE_TEXTURE_2D` (Gallium, `p_defines.h`, `enum pipe_texture_target`).
pub const PIPE_TEXTURE_2D: u32 = 2;
/// `VIRGL_FORMAT_B8G8R8A8_UNORM` (`virgl_hw.h`, `enum virgl_formats`).
pub const FORMAT_B8G8R8A8: u32 = 1;
/// `VIRGL_FORMAT_B8G8R8X8_UNORM` (`virgl_hw.h`).
pub const FORMAT_B8G8R8X8: u32 = 2;
/// `VIRGL_FORMAT_R8G8B8A8_UNORM` (`virgl_hw.h`).
pub const FORMAT_R8G8B8A8: u32 = 67;
/// `VIRGL_FORMAT_R8G8B8X8_UNORM` (`virgl_hw.h`).
pub const FORMAT_R8G8B8X8: u32 = 134;

/// `struct virgl_renderer_resource_create_args`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
#[expect(missing_docs, reason = "mirrors the C structure field by field")]
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

/// The first field of `struct virgl_renderer_resource_create_blob_args`.
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
    /// Version of the structure, 1 (QEMU 7.2) to 4; determines which callbacks follow.
    pub version: c_int,
}

/// `struct virgl_box` (`virgl_hw.h`): a three-dimensional box in pixels.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "mirrors the C structure field by field")]
pub struct VirglBox {
    pub x: u32,
    pub y: u32,
    pub z: u32,
    pub w: u32,
    pub h: u32,
    pub d: u32,
}

const _: () = assert!(size_of::<CreateArgs>() == 11 * 4 && size_of::<VirglBox>() == 6 * 4);

/// True if a resource of this virgl format holds pixels of a format that can be read.
pub const fn has_pixel_format(virgl: u32) -> bool {
    matches!(virgl, FORMAT_B8G8R8A8 | FORMAT_B8G8R8X8 | FORMAT_R8G8B8A8 | FORMAT_R8G8B8X8)
}

/// True if a resource of this virgl format holds pixels in the byte order of `format`. Alpha and padding
/// bytes are interchangeable.
pub fn format_matches(virgl: u32, format: PixelFormat) -> bool {
    match format {
        PixelFormat::Bgra | PixelFormat::Bgrx => matches!(virgl, FORMAT_B8G8R8A8 | FORMAT_B8G8R8X8),
        PixelFormat::Rgba | PixelFormat::Rgbx => matches!(virgl, FORMAT_R8G8B8A8 | FORMAT_R8G8B8X8),
        PixelFormat::Nv12 => false,
    }
}
