//! Buffers of our own, for compositors that copy into what a client brings (wlr-screencopy).
//!
//! They are plain virgl textures, made by `RESOURCE_CREATE` and exported as DMA-BUFs: what Mesa's GBM makes on
//! virtio-gpu too, without loading Mesa, whose LLVM alone costs the process 40 MB. A compositor takes them
//! with modifier `DRM_FORMAT_MOD_INVALID`, "none said": the only one that works on virgl.
//!
//! It does not know which format a compositor wants, or when it draws.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use protocol::PixelFormat;
use protocol::pixel::MAX_SIDE;

use crate::device::Device;
use crate::import::Imported;
use crate::{sys, uapi};

/// `PIPE_TEXTURE_2D` (gallium `p_defines.h`).
pub const TARGET_2D: u32 = 2;
/// `VIRGL_BIND_RENDER_TARGET`, so that the compositor can draw into it (`virgl_hw.h`).
const BIND_RENDER_TARGET: u32 = 1 << 1;
/// `VIRGL_BIND_SAMPLER_VIEW` (`virgl_hw.h`).
pub const BIND_SAMPLER_VIEW: u32 = 1 << 3;
const BYTES_PER_PIXEL: u32 = 4;

/// A buffer that was allocated here.
#[derive(Debug)]
pub struct Buffer {
    imported: Arc<Imported>,
    fd: OwnedFd,
    stride: u32,
}

impl Device {
    /// Allocates a buffer that a GPU can draw into.
    pub fn allocate(&self, width: u32, height: u32, format: PixelFormat) -> io::Result<Buffer> {
        let format = virgl_format(format).ok_or(io::ErrorKind::Unsupported)?;
        if !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let stride = width * BYTES_PER_PIXEL;
        let handle = self.node.take(|node| {
            let made = sys::resource_create(
                node,
                uapi::ResourceCreate {
                    target: TARGET_2D,
                    format,
                    bind: BIND_RENDER_TARGET | BIND_SAMPLER_VIEW,
                    width,
                    height,
                    depth: 1,
                    array_size: 1,
                    size: stride * height,
                    stride,
                    ..Default::default()
                },
            )?;
            Ok(made.bo_handle)
        })?;
        let fd = sys::prime_export(handle.fd(), handle.raw())?;
        Ok(Buffer { imported: Arc::new(Imported::of(handle)?), fd, stride })
    }
}

/// `VIRGL_FORMAT_*` of `virgl_hw.h`.
fn virgl_format(format: PixelFormat) -> Option<u32> {
    match format {
        PixelFormat::Bgra => Some(1),
        PixelFormat::Bgrx => Some(2),
        PixelFormat::Rgba => Some(67),
        PixelFormat::Rgbx => Some(134),
        PixelFormat::Nv12 => None,
    }
}

impl Buffer {
    /// The buffer as the tap knows it.
    pub fn imported(&self) -> &Arc<Imported> {
        &self.imported
    }

    /// The DMA-BUF, to be sent to the compositor.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Bytes from row to row.
    pub fn stride(&self) -> u32 {
        self.stride
    }
}
