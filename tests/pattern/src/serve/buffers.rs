//! Clients' memory: wl_shm and linux-dmabuf v3, and drawing into both.
//!
//! A DMA-BUF is imported when its `wl_buffer` is made and drawn to by GL; of formats there is XR24 with
//! the implicit modifier, as wlroots has it on virgl. SHM is drawn off screen and read into the client's
//! memory, which is what wlroots does. A client may shrink its file at any time, and touching a mapping
//! beyond the end of its file kills the process: so only files that are sealed against shrinking (or let
//! us seal them) are mapped, others are written with `pwrite`.
//!
//! It doesn't know when or what is drawn.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::{MmapOptions, MmapRaw};
use protocol::PixelFormat;
use protocol::pixel::MAX_SIDE;
use rustix::fs::{SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, seek};
use wayland_protocols::wp::linux_dmabuf::zv1::server::zwp_linux_buffer_params_v1::{
    self as params, ZwpLinuxBufferParamsV1,
};
use wayland_protocols::wp::linux_dmabuf::zv1::server::zwp_linux_dmabuf_v1::{
    self as dmabuf, ZwpLinuxDmabufV1,
};
use wayland_server::backend::ClientId;
use wayland_server::protocol::wl_buffer::{self, WlBuffer};
use wayland_server::protocol::wl_shm::{self, WlShm};
use wayland_server::protocol::wl_shm_pool::{self, WlShmPool};
use wayland_server::{Client, DataInit, Dispatch, DisplayHandle, GlobalDispatch, New, Resource, WEnum};

use super::desktop::{Desktop, PaintError};
use crate::egl::Dmabuf;
use crate::painter::{Painter, Part, Target};

/// `DRM_FORMAT_MOD_INVALID` (`drm_fourcc.h`): the driver knows.
const IMPLICIT: u64 = 0x00ff_ffff_ffff_ffff;
/// The format of DMA-BUFs.
pub const GPU_FORMAT: PixelFormat = PixelFormat::Bgrx;
/// The format of SHM, `DRM_FORMAT_XBGR8888`: what GL reads without shuffling.
pub const SHM_FORMAT: wl_shm::Format = wl_shm::Format::Xbgr8888;

/// What a `wl_buffer` is.
pub struct Buffer {
    pub width: u32,
    pub height: u32,
    /// Bytes from row to row.
    pub stride: u32,
    memory: Memory,
}

enum Memory {
    Gpu,
    Shm { pool: Arc<Pool>, offset: u32, format: wl_shm::Format },
}

/// Where a buffer's pixels go.
pub enum Canvas {
    Gpu(Target),
    Mapped(MmapRaw),
    Written { pool: Arc<Pool>, offset: u32, pixels: Vec<u8> },
}

/// A `wl_shm_pool`'s file.
pub struct Pool {
    file: File,
    size: Mutex<u32>,
}

impl Buffer {
    /// For people.
    pub fn kind(&self) -> &'static str {
        if matches!(self.memory, Memory::Gpu) { "dmabuf" } else { "shm" }
    }

    /// Whether a screencopy of this size goes into it; if not, why. Exact strides, as wlroots wants them.
    pub fn check(&self, (width, height): (u32, u32)) -> Result<(), &'static str> {
        if (self.width, self.height) != (width, height) {
            return Err("invalid buffer dimensions");
        }
        match &self.memory {
            Memory::Shm { format, .. } if *format != SHM_FORMAT => Err("invalid buffer format"),
            Memory::Shm { .. } if self.stride != 4 * width => Err("invalid buffer stride"),
            _ => Ok(()),
        }
    }

    /// Prepares SHM to be drawn to. (A DMA-BUF has its canvas from the start.)
    pub fn canvas(&self) -> Result<Canvas, PaintError> {
        let Memory::Shm { pool, offset, .. } = &self.memory else { return Err(PaintError::Gone) };
        let len = self.stride as usize * self.height as usize;
        let sealed = fcntl_add_seals(&pool.file, SealFlags::SHRINK).is_ok()
            || fcntl_get_seals(&pool.file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
        if !sealed {
            return Ok(Canvas::Written { pool: Arc::clone(pool), offset: *offset, pixels: vec![0; len] });
        }
        if pool.file.metadata()?.len() < u64::from(*offset) + len as u64 {
            return Err(PaintError::Short);
        }
        Ok(Canvas::Mapped(MmapOptions::new().offset((*offset).into()).len(len).map_raw(&pool.file)?))
    }
}

impl Canvas {
    /// Draws a frame, by way of `offscreen` if GL can't draw here.
    pub fn paint(
        &mut self,
        painter: &Painter,
        offscreen: &Target,
        number: u32,
        part: Part,
    ) -> Result<(), PaintError> {
        let target = if let Self::Gpu(target) = self { &*target } else { offscreen };
        painter.paint(target, number, part);
        let done = match self {
            Self::Gpu(_) => true,
            Self::Mapped(memory) => painter.read_shared(offscreen, memory),
            Self::Written { pool, offset, pixels } => {
                let done = painter.read(offscreen, pixels);
                // Writing beyond the end would make the client's file longer.
                if pool.file.metadata()?.len() < u64::from(*offset) + pixels.len() as u64 {
                    return Err(PaintError::Short);
                }
                pool.file.write_all_at(pixels, (*offset).into())?;
                done
            }
        };
        if done { Ok(()) } else { Err(PaintError::Short) }
    }
}

/// Makes the globals.
pub fn advertise(display: &DisplayHandle, gpu: bool) {
    display.create_global::<Desktop, WlShm, ()>(1, ());
    if gpu {
        display.create_global::<Desktop, ZwpLinuxDmabufV1, ()>(3, ());
    }
}

impl Dispatch<WlBuffer, Buffer> for Desktop {
    fn request(
        _: &mut Self,
        _: &Client,
        _: &WlBuffer,
        _: wl_buffer::Request,
        _: &Buffer,
        _: &DisplayHandle,
        _: &mut DataInit<'_, Self>,
    ) {
        // Only `destroy`.
    }

    fn destroyed(state: &mut Self, _: ClientId, buffer: &WlBuffer, _: &Buffer) {
        state.canvases.remove(&buffer.id());
    }
}

impl GlobalDispatch<WlShm, ()> for Desktop {
    fn bind(
        _: &mut Self,
        _: &DisplayHandle,
        _: &Client,
        shm: New<WlShm>,
        (): &(),
        init: &mut DataInit<'_, Self>,
    ) {
        let shm = init.init(shm, ());
        for format in [wl_shm::Format::Argb8888, wl_shm::Format::Xrgb8888, SHM_FORMAT] {
            shm.format(format);
        }
    }
}

impl Dispatch<WlShm, ()> for Desktop {
    fn request(
        _: &mut Self,
        _: &Client,
        shm: &WlShm,
        request: wl_shm::Request,
        (): &(),
        _: &DisplayHandle,
        init: &mut DataInit<'_, Self>,
    ) {
        let wl_shm::Request::CreatePool { id, fd, size } = request else { return };
        let Some(size) = u32::try_from(size).ok().filter(|size| *size > 0) else {
            return shm.post_error(wl_shm::Error::InvalidStride, "invalid pool size");
        };
        if fstat(&fd).map_or(0, |stat| stat.st_size) < size.into() {
            return shm.post_error(wl_shm::Error::InvalidFd, "the file is smaller than the pool");
        }
        init.init(id, Arc::new(Pool { file: File::from(fd), size: Mutex::new(size) }));
    }
}

impl Dispatch<WlShmPool, Arc<Pool>> for Desktop {
    fn request(
        _: &mut Self,
        _: &Client,
        resource: &WlShmPool,
        request: wl_shm_pool::Request,
        pool: &Arc<Pool>,
        _: &DisplayHandle,
        init: &mut DataInit<'_, Self>,
    ) {
        let mut pool_size = pool.size.lock().unwrap_or_else(PoisonError::into_inner);
        match request {
            wl_shm_pool::Request::CreateBuffer { id, offset, width, height, stride, format } => {
                let WEnum::Value(format) = format else {
                    return resource.post_error(wl_shm::Error::InvalidFormat, "unknown format");
                };
                let numbers = [offset, width, height, stride].map(u32::try_from);
                let [Ok(offset), Ok(width @ 1..=MAX_SIDE), Ok(height @ 1..=MAX_SIDE), Ok(stride)] = numbers
                else {
                    return resource.post_error(wl_shm::Error::InvalidStride, "invalid size");
                };
                let end = u64::from(offset) + u64::from(stride) * u64::from(height);
                if stride < 4 * width || end > u64::from(*pool_size) {
                    return resource
                        .post_error(wl_shm::Error::InvalidStride, "the buffer is beyond its pool");
                }
                let memory = Memory::Shm { pool: Arc::clone(pool), offset, format };
                init.init(id, Buffer { width, height, stride, memory });
            }
            wl_shm_pool::Request::Resize { size } => match u32::try_from(size) {
                Ok(size) if size >= *pool_size => *pool_size = size,
                _ => resource.post_error(wl_shm::Error::InvalidFd, "pools only grow"),
            },
            _ => {}
        }
    }
}

impl GlobalDispatch<ZwpLinuxDmabufV1, ()> for Desktop {
    fn bind(
        _: &mut Self,
        _: &DisplayHandle,
        _: &Client,
        global: New<ZwpLinuxDmabufV1>,
        (): &(),
        init: &mut DataInit<'_, Self>,
    ) {
        let global = init.init(global, ());
        if global.version() < dmabuf::EVT_MODIFIER_SINCE {
            global.format(GPU_FORMAT.fourcc());
        } else {
            global.modifier(GPU_FORMAT.fourcc(), (IMPLICIT >> 32) as u32, IMPLICIT as u32);
        }
    }
}

impl Dispatch<ZwpLinuxDmabufV1, ()> for Desktop {
    fn request(
        _: &mut Self,
        _: &Client,
        _: &ZwpLinuxDmabufV1,
        request: dmabuf::Request,
        (): &(),
        _: &DisplayHandle,
        init: &mut DataInit<'_, Self>,
    ) {
        if let dmabuf::Request::CreateParams { params_id } = request {
            init.init(params_id, Params::default());
        }
    }
}

/// What a `zwp_linux_buffer_params_v1` has gathered.
#[derive(Default)]
pub struct Params {
    plane: Mutex<Option<Plane>>,
    used: AtomicBool,
}

struct Plane {
    fd: OwnedFd,
    offset: u32,
    stride: u32,
    modifier: u64,
}

impl Dispatch<ZwpLinuxBufferParamsV1, Params> for Desktop {
    fn request(
        state: &mut Self,
        client: &Client,
        resource: &ZwpLinuxBufferParamsV1,
        request: params::Request,
        data: &Params,
        display: &DisplayHandle,
        init: &mut DataInit<'_, Self>,
    ) {
        if data.used.load(Ordering::Relaxed) && !matches!(request, params::Request::Destroy) {
            return resource.post_error(params::Error::AlreadyUsed, "a buffer was already made of this");
        }
        match request {
            params::Request::Add { fd, plane_idx, offset, stride, modifier_hi, modifier_lo } => {
                let modifier = u64::from(modifier_hi) << 32 | u64::from(modifier_lo);
                let mut plane = data.plane.lock().unwrap_or_else(PoisonError::into_inner);
                if plane_idx != 0 {
                    resource.post_error(params::Error::PlaneIdx, "XR24 has one plane");
                } else if plane.is_some() {
                    resource.post_error(params::Error::PlaneSet, "plane 0 was already set");
                } else {
                    *plane = Some(Plane { fd, offset, stride, modifier });
                }
            }
            params::Request::Create { width, height, format, flags } => {
                match state.import(data, (width, height), format, flags) {
                    Ok((buffer, canvas)) => {
                        let made = client.create_resource::<WlBuffer, Buffer, Self>(display, 1, buffer);
                        if let Ok(made) = made {
                            state.canvases.insert(made.id(), canvas);
                            resource.created(&made);
                        }
                    }
                    Err(Refusal::Error(code, text)) => resource.post_error(code, text),
                    Err(Refusal::Failed(text)) => {
                        eprintln!("pattern: DMA-BUF refused: {text}");
                        resource.failed();
                    }
                }
            }
            params::Request::CreateImmed { buffer_id, width, height, format, flags } => {
                match state.import(data, (width, height), format, flags) {
                    Ok((buffer, canvas)) => {
                        let made = init.init(buffer_id, buffer);
                        state.canvases.insert(made.id(), canvas);
                    }
                    Err(Refusal::Error(code, text)) => resource.post_error(code, text),
                    Err(Refusal::Failed(text)) => resource.post_error(params::Error::InvalidWlBuffer, text),
                }
            }
            _ => {}
        }
    }
}

/// Why a DMA-BUF was not taken.
enum Refusal {
    /// The client broke the protocol.
    Error(params::Error, &'static str),
    /// The buffer can't be had.
    Failed(String),
}

impl Desktop {
    fn import(
        &mut self,
        data: &Params,
        (width, height): (i32, i32),
        format: u32,
        flags: WEnum<params::Flags>,
    ) -> Result<(Buffer, Canvas), Refusal> {
        data.used.store(true, Ordering::Relaxed);
        let plane = data.plane.lock().unwrap_or_else(PoisonError::into_inner).take();
        let plane = plane.ok_or(Refusal::Error(params::Error::Incomplete, "no plane was added"))?;
        if format != GPU_FORMAT.fourcc() {
            return Err(Refusal::Error(params::Error::InvalidFormat, "only XR24 was offered"));
        }
        let (Ok(width @ 1..=MAX_SIDE), Ok(height @ 1..=MAX_SIDE)) =
            (u32::try_from(width), u32::try_from(height))
        else {
            return Err(Refusal::Error(params::Error::InvalidDimensions, "invalid width or height"));
        };
        let end = u64::from(plane.offset) + u64::from(plane.stride) * u64::from(height);
        // Not every exporter tells the size.
        let size = seek(&plane.fd, rustix::fs::SeekFrom::End(0)).unwrap_or(u64::MAX);
        if plane.stride < 4 * width || end > size {
            return Err(Refusal::Error(params::Error::OutOfBounds, "the buffer is beyond its memory"));
        }
        if plane.modifier != IMPLICIT {
            return Err(Refusal::Failed(format!("modifier {:#x} was not offered", plane.modifier)));
        }
        if !matches!(flags, WEnum::Value(flags) if flags.is_empty()) {
            return Err(Refusal::Failed("flags are not supported".into()));
        }
        let (offset, stride) = (plane.offset, plane.stride);
        let imported = Dmabuf { fd: plane.fd.as_fd(), width, height, stride, offset, format: GPU_FORMAT };
        let target = self.painter.import(&imported).map_err(|error| Refusal::Failed(error.to_string()))?;
        Ok((Buffer { width, height, stride, memory: Memory::Gpu }, Canvas::Gpu(target)))
    }
}
