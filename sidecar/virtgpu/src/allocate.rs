//! Buffers of our own, for compositors that copy into what a client brings (wlr-screencopy).
//!
//! They are allocated by GBM on a second open of the node: GEM handles are counted per open, and Mesa
//! closes its own without asking us. Only `gbm_bo_create` is used: on virgl the calls that take modifiers
//! fail with ENOENT, and the only modifier that negotiates is "none said" (`DRM_FORMAT_MOD_INVALID`),
//! whatever `gbm_bo_get_modifier` answers.
//!
//! It does not know which format a compositor wants.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use gbm::{BufferObject, BufferObjectFlags, Format};
use protocol::PixelFormat;

use crate::device::Device;
use crate::import::Imported;

/// Allocates buffers on a device.
#[derive(Debug)]
pub struct Allocator {
    gbm: gbm::Device<File>,
    device: Device,
}

/// A buffer that was allocated here and imported in the device.
#[derive(Debug)]
pub struct GbmBuffer {
    imported: Arc<Imported>,
    fd: OwnedFd,
    stride: u32,
    // Keeps the allocation; after `fd` and `imported`, which are other references to the same memory.
    _object: BufferObject<()>,
}

impl Allocator {
    /// Opens the device's node once more and makes a GBM device of it.
    pub fn new(device: &Device) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(device.path())?;
        Ok(Self { gbm: gbm::Device::new(file)?, device: device.clone() })
    }

    /// Allocates a buffer that a GPU can draw into, and imports it.
    pub fn allocate(&self, width: u32, height: u32, format: PixelFormat) -> io::Result<GbmBuffer> {
        let fourcc = Format::try_from(format.fourcc())
            .map_err(|error| io::Error::new(io::ErrorKind::Unsupported, error.to_string()))?;
        let object = self.gbm.create_buffer_object(width, height, fourcc, BufferObjectFlags::RENDERING)?;
        let fd = object.fd().map_err(|error| io::Error::other(error.to_string()))?;
        let imported = Arc::new(self.device.import(&fd)?);
        Ok(GbmBuffer { imported, fd, stride: object.stride(), _object: object })
    }
}

impl GbmBuffer {
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
