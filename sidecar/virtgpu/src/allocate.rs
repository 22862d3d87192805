//! Buffers for compositors that copy into a client's buffer (wlr-screencopy, ext-image-copy-capture).
//!
//! The buffers are virgl textures made by `RESOURCE_CREATE` and exported as DMA-BUFs, as Mesa's GBM makes them on
//! virtio-gpu. GBM is not used because loading Mesa costs the process 40 MB. Compositors import them with modifier
//! `DRM_FORMAT_MOD_INVALID`, the only one that virgl supports.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use drm::control::from_u32;
use protocol::PixelFormat;
use protocol::pixel::MAX_SIDE;

use crate::device::Device;
use crate::import::Imported;
use crate::{sys, uapi};

/// `PIPE_TEXTURE_2D` (Mesa, `src/gallium/include/pipe/p_defines.h`).
pub const TARGET_2D: u32 = 2;
/// `VIRGL_BIND_RENDER_TARGET` (virglrenderer, `src/virgl_hw.h`): the compositor renders into the buffer.
const BIND_RENDER_TARGET: u32 = 1 << 1;
/// `VIRGL_BIND_SAMPLER_VIEW` (virglrenderer, `src/virgl_hw.h`).
pub const BIND_SAMPLER_VIEW: u32 = 1 << 3;
const BYTES_PER_PIXEL: u32 = 4;

/// Buffer allocated by [`Device::allocate`].
#[derive(Debug)]
pub struct Buffer {
    imported: Arc<Imported>,
    fd: OwnedFd,
    stride: u32,
}

impl Device {
    /// Allocates a buffer that the GPU can render into.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if a side is not between 1 and [`MAX_SIDE`]; `Unsupported` for formats other than 32-bit RGB.
    pub fn allocate(&self, width: u32, height: u32, format: PixelFormat) -> io::Result<Buffer> {
        let format = virgl_format(format).ok_or(io::ErrorKind::Unsupported)?;
        if !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let stride = width * BYTES_PER_PIXEL;
        let handle = self.node.take(|node| {
            let created = sys::resource_create(
                node.as_fd(),
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
            from_u32(created.bo_handle).ok_or_else(|| io::ErrorKind::InvalidData.into())
        })?;
        let imported = Imported::of(handle)?;
        Ok(Buffer { fd: imported.export()?, imported: Arc::new(imported), stride })
    }
}

/// `VIRGL_FORMAT_*` (virglrenderer, `src/virgl_hw.h`) of a 32-bit RGB format.
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
    /// Buffer with its resource ID.
    pub fn imported(&self) -> &Arc<Imported> {
        &self.imported
    }

    /// DMA-BUF to send to the compositor.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Row pitch in bytes.
    pub fn stride(&self) -> u32 {
        self.stride
    }
}
