//! The window: its three buffers, and the rules of when one may be drawn.
//!
//! A frame is drawn when the compositor has configured the window, has answered the last frame's callback,
//! the pace allows it, something is to change, and a buffer is free. A new size throws the buffers away.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use pattern::layout::{self, COLUMNS, ROWS};
use protocol::PixelFormat;
use protocol::pixel::MAX_SIDE;
use rustix::fs::{MemfdFlags, memfd_create};
use wayland_client::globals::{GlobalList, GlobalListContents};
use wayland_client::protocol::wl_buffer::{self, WlBuffer};
use wayland_client::protocol::wl_callback::{self, WlCallback};
use wayland_client::protocol::{wl_compositor, wl_registry, wl_shm, wl_shm_pool, wl_surface};
use wayland_client::{Connection, Dispatch, QueueHandle, delegate_noop};
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_buffer_params_v1::{
    self, ZwpLinuxBufferParamsV1,
};
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_dmabuf_v1::ZwpLinuxDmabufV1;
use wayland_protocols::xdg::shell::client::{xdg_surface, xdg_toplevel, xdg_wm_base};

use super::ClientError;
use crate::egl::Dmabuf;
use crate::pace::Pace;
use crate::painter::{Painter, Part, Target};

/// One on the screen, one on its way there, one to draw.
const BUFFERS: usize = 3;
/// `DRM_FORMAT_MOD_INVALID` (`drm_fourcc.h`): the driver knows.
const IMPLICIT: u64 = 0x00ff_ffff_ffff_ffff;

/// A fullscreen window that shows the picture.
pub struct Window {
    queue: QueueHandle<Self>,
    memory: Memory,
    surface: wl_surface::WlSurface,
    buffers: Vec<Buffer>,
    pace: Pace,
    /// Width and height in pixels: as asked on the command line, then as the compositor says.
    size: (u32, u32),
    /// What the compositor proposes, until it is acted on.
    proposed: (i32, i32),
    state: State,
    log: bool,
}

/// Where buffers come from.
enum Memory {
    Gpu(Painter, ZwpLinuxDmabufV1),
    Shm(wl_shm::WlShm),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not configured yet.
    New,
    /// The compositor wants a frame.
    Wanted,
    /// The last frame's callback is still out.
    Shown,
    Closed,
}

struct Buffer {
    handle: WlBuffer,
    is_busy: bool,
    pixels: Pixels,
}

enum Pixels {
    Gpu(Target),
    Shm(File, Vec<u8>),
}

impl Window {
    pub fn open(
        globals: &GlobalList,
        queue: QueueHandle<Self>,
        painter: Option<Painter>,
        size: (u32, u32),
        pace: Pace,
        log: bool,
    ) -> Result<Self, ClientError> {
        let compositor: wl_compositor::WlCompositor = globals.bind(&queue, 4..=4, ())?;
        let shell: xdg_wm_base::XdgWmBase = globals.bind(&queue, 1..=1, ())?;
        let memory = match painter {
            Some(painter) => {
                let dmabuf = globals.bind(&queue, 2..=3, ()).map_err(ClientError::NoDmabuf)?;
                Memory::Gpu(painter, dmabuf)
            }
            None => Memory::Shm(globals.bind(&queue, 1..=1, ())?),
        };
        let surface = compositor.create_surface(&queue, ());
        let toplevel = shell.get_xdg_surface(&surface, &queue, ()).get_toplevel(&queue, ());
        toplevel.set_title("pattern".into());
        toplevel.set_app_id("dev.desktopstream.pattern".into());
        toplevel.set_fullscreen(None);
        surface.commit();
        let (buffers, proposed) = (Vec::new(), (0, 0));
        Ok(Self { queue, memory, surface, buffers, pace, size, proposed, state: State::New, log })
    }

    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// SIGUSR1: starts or stops changing.
    pub fn toggle(&mut self) {
        self.pace.toggle();
    }

    /// Draws if it may; returns when it has to be called again if nothing else happens.
    pub fn turn(&mut self, now: Instant) -> Result<Option<Instant>, ClientError> {
        // The first picture of a size is due even if nothing changes.
        let is_due = self.buffers.is_empty() || !self.pace.is_static();
        if self.state != State::Wanted || !is_due {
            return Ok(None);
        }
        if self.buffers.is_empty() {
            for _ in 0..BUFFERS {
                let buffer = self.allocate()?;
                self.buffers.push(buffer);
            }
        } else if self.pace.next_at() > now {
            return Ok(Some(self.pace.next_at()));
        }
        let Some(buffer) = self.buffers.iter_mut().find(|buffer| !buffer.is_busy) else {
            return Ok(None);
        };
        let number = self.pace.beat(now);
        let (width, height) = self.size;
        match (&mut buffer.pixels, &self.memory) {
            (Pixels::Gpu(target), Memory::Gpu(painter, _)) => painter.paint(target, number, Part::Whole),
            (Pixels::Shm(file, bytes), _) => {
                // As long as the size says, from the start.
                let _ = layout::draw(number, bytes, width, height, 4 * width, PixelFormat::Bgrx);
                file.write_all_at(bytes, 0)?;
            }
            (Pixels::Gpu(_), Memory::Shm(_)) => {}
        }
        buffer.is_busy = true;
        self.surface.attach(Some(&buffer.handle), 0, 0);
        self.surface.damage_buffer(0, 0, width as i32, height as i32);
        self.surface.frame(&self.queue, ());
        self.surface.commit();
        self.state = State::Shown;
        if self.log {
            eprintln!("pattern: frame {number} client {} us", now.elapsed().as_micros());
        }
        Ok(None)
    }

    fn allocate(&self) -> Result<Buffer, ClientError> {
        let (width, height) = self.size;
        let (w, h, stride) = (width as i32, height as i32, 4 * width as i32);
        match &self.memory {
            Memory::Gpu(painter, dmabuf) => {
                let failed = |why: String| ClientError::Allocate(width, height, why);
                let gbm = painter.gbm().ok_or_else(|| failed("no render node".into()))?;
                let (format, usage) = (gbm::Format::Xrgb8888, gbm::BufferObjectFlags::RENDERING);
                let bo = gbm.create_buffer_object::<()>(width, height, format, usage);
                let bo = bo.map_err(|error| failed(error.to_string()))?;
                let fd = bo.fd().map_err(|error| failed(format!("{error:?}")))?;
                let (stride, offset, format) = (bo.stride(), bo.offset(0), PixelFormat::Bgrx);
                let target =
                    painter.import(&Dmabuf { fd: fd.as_fd(), width, height, stride, offset, format })?;
                let params = dmabuf.create_params(&self.queue, ());
                params.add(fd.as_fd(), 0, offset, stride, (IMPLICIT >> 32) as u32, IMPLICIT as u32);
                let flags = zwp_linux_buffer_params_v1::Flags::empty();
                let handle = params.create_immed(w, h, format.fourcc(), flags, &self.queue, ());
                params.destroy();
                Ok(Buffer { handle, is_busy: false, pixels: Pixels::Gpu(target) })
            }
            Memory::Shm(shm) => {
                let bytes = vec![0; stride as usize * height as usize];
                let file =
                    File::from(memfd_create("pattern", MemfdFlags::CLOEXEC).map_err(std::io::Error::from)?);
                file.set_len(bytes.len() as u64)?;
                let pool = shm.create_pool(file.as_fd(), bytes.len() as i32, &self.queue, ());
                let handle = pool.create_buffer(0, w, h, stride, wl_shm::Format::Xrgb8888, &self.queue, ());
                pool.destroy();
                Ok(Buffer { handle, is_busy: false, pixels: Pixels::Shm(file, bytes) })
            }
        }
    }

    fn configured(&mut self) {
        let (w, h) = self.proposed;
        let size = if w > 0 && h > 0 {
            ((w as u32).clamp(COLUMNS, MAX_SIDE), (h as u32).clamp(ROWS, MAX_SIDE))
        } else {
            self.size
        };
        if size != self.size {
            self.size = size;
            self.buffers.drain(..).for_each(|buffer| buffer.handle.destroy());
        }
        if matches!(self.state, State::New | State::Shown) {
            self.state = State::Wanted;
        }
    }
}

impl Dispatch<wl_registry::WlRegistry, GlobalListContents> for Window {
    fn event(
        _: &mut Self,
        _: &wl_registry::WlRegistry,
        _: wl_registry::Event,
        _: &GlobalListContents,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
    }
}

impl Dispatch<xdg_wm_base::XdgWmBase, ()> for Window {
    fn event(
        _: &mut Self,
        shell: &xdg_wm_base::XdgWmBase,
        event: xdg_wm_base::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let xdg_wm_base::Event::Ping { serial } = event {
            shell.pong(serial);
        }
    }
}

impl Dispatch<xdg_surface::XdgSurface, ()> for Window {
    fn event(
        window: &mut Self,
        surface: &xdg_surface::XdgSurface,
        event: xdg_surface::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let xdg_surface::Event::Configure { serial } = event {
            surface.ack_configure(serial);
            window.configured();
        }
    }
}

impl Dispatch<xdg_toplevel::XdgToplevel, ()> for Window {
    fn event(
        window: &mut Self,
        _: &xdg_toplevel::XdgToplevel,
        event: xdg_toplevel::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match event {
            xdg_toplevel::Event::Configure { width, height, .. } => window.proposed = (width, height),
            xdg_toplevel::Event::Close => window.state = State::Closed,
            _ => {}
        }
    }
}

impl Dispatch<WlCallback, ()> for Window {
    fn event(
        window: &mut Self,
        _: &WlCallback,
        _: wl_callback::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if window.state == State::Shown {
            window.state = State::Wanted;
        }
    }
}

impl Dispatch<WlBuffer, ()> for Window {
    fn event(
        window: &mut Self,
        handle: &WlBuffer,
        _: wl_buffer::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        // Only `release`; the buffer may be of an earlier size.
        if let Some(buffer) = window.buffers.iter_mut().find(|buffer| buffer.handle == *handle) {
            buffer.is_busy = false;
        }
    }
}

delegate_noop!(Window: wl_compositor::WlCompositor);
delegate_noop!(Window: wl_shm_pool::WlShmPool);
delegate_noop!(Window: ignore ZwpLinuxBufferParamsV1);
delegate_noop!(Window: ignore ZwpLinuxDmabufV1);
delegate_noop!(Window: ignore wl_shm::WlShm);
delegate_noop!(Window: ignore wl_surface::WlSurface);
