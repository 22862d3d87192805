//! wlr-screencopy v3, as wlroots 1.x speaks it, and the output that is captured.
//!
//! `capture_output` → `buffer` (SHM), `linux_dmabuf` (if there is a GPU), `buffer_done` → the client's
//! `copy` or `copy_with_damage` → `flags`, `damage` (the whole output), `ready`, or `failed`. Which frame
//! it is and when it comes is `desktop`'s.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use protocol::Rect;
use rustix::time::{ClockId, clock_gettime};
use wayland_protocols_wlr::screencopy::v1::server::zwlr_screencopy_frame_v1::{
    self as frame, ZwlrScreencopyFrameV1,
};
use wayland_protocols_wlr::screencopy::v1::server::zwlr_screencopy_manager_v1::{
    self as manager, ZwlrScreencopyManagerV1,
};
use wayland_server::backend::ClientId;
use wayland_server::protocol::wl_buffer::WlBuffer;
use wayland_server::protocol::wl_output::{self, WlOutput};
use wayland_server::{Client, DataInit, Dispatch, DisplayHandle, GlobalDispatch, New, Resource};

use super::buffers::{Buffer, GPU_FORMAT, SHM_FORMAT};
use super::desktop::Desktop;

/// The number that a manager's captures had last, 0 for none: damage is counted per manager.
pub type LastNumber = Arc<AtomicU32>;

/// Data of a frame object.
pub struct FrameData {
    last: LastNumber,
    used: AtomicBool,
}

/// A client's `copy` that waits for a frame.
pub struct Capture {
    pub buffer: WlBuffer,
    pub with_damage: bool,
    frame: ZwlrScreencopyFrameV1,
    last: LastNumber,
}

impl Capture {
    /// The number that this client had last, 0 for none.
    pub fn last_number(&self) -> u32 {
        self.last.load(Ordering::Relaxed)
    }

    /// The frame is in the buffer.
    pub fn ready(&self, number: u32, size: (u32, u32)) {
        self.last.store(number, Ordering::Relaxed);
        let now = clock_gettime(ClockId::Monotonic);
        self.frame.flags(frame::Flags::empty());
        if self.with_damage {
            let Rect { x, y, width, height } = Rect::full(size.0, size.1);
            self.frame.damage(x, y, width, height);
        }
        self.frame.ready((now.tv_sec >> 32) as u32, now.tv_sec as u32, now.tv_nsec as u32);
    }

    /// There will be no frame.
    pub fn fail(&self) {
        self.frame.failed();
    }
}

/// Makes the globals.
pub fn advertise(display: &DisplayHandle) {
    display.create_global::<Desktop, WlOutput, ()>(4, ());
    display.create_global::<Desktop, ZwlrScreencopyManagerV1, ()>(3, ());
}

impl GlobalDispatch<WlOutput, ()> for Desktop {
    fn bind(
        state: &mut Self,
        _: &DisplayHandle,
        _: &Client,
        output: New<WlOutput>,
        (): &(),
        init: &mut DataInit<'_, Self>,
    ) {
        let output = init.init(output, ());
        let (width, height) = (state.size.0 as i32, state.size.1 as i32);
        let (subpixel, transform) = (wl_output::Subpixel::Unknown, wl_output::Transform::Normal);
        output.geometry(0, 0, 0, 0, subpixel, "desktopstream".into(), "pattern".into(), transform);
        let flags = wl_output::Mode::Current | wl_output::Mode::Preferred;
        output.mode(flags, width, height, 0);
        if output.version() >= wl_output::EVT_SCALE_SINCE {
            output.scale(1);
        }
        if output.version() >= wl_output::EVT_NAME_SINCE {
            output.name("PATTERN-1".into());
            output.description("the numbered pattern".into());
        }
        if output.version() >= wl_output::EVT_DONE_SINCE {
            output.done();
        }
    }
}

impl Dispatch<WlOutput, ()> for Desktop {
    fn request(
        _: &mut Self,
        _: &Client,
        _: &WlOutput,
        _: wl_output::Request,
        (): &(),
        _: &DisplayHandle,
        _: &mut DataInit<'_, Self>,
    ) {
        // Only `release`.
    }
}

impl GlobalDispatch<ZwlrScreencopyManagerV1, ()> for Desktop {
    fn bind(
        _: &mut Self,
        _: &DisplayHandle,
        _: &Client,
        manager: New<ZwlrScreencopyManagerV1>,
        (): &(),
        init: &mut DataInit<'_, Self>,
    ) {
        init.init(manager, LastNumber::default());
    }
}

impl Dispatch<ZwlrScreencopyManagerV1, LastNumber> for Desktop {
    fn request(
        state: &mut Self,
        _: &Client,
        _: &ZwlrScreencopyManagerV1,
        request: manager::Request,
        last: &LastNumber,
        _: &DisplayHandle,
        init: &mut DataInit<'_, Self>,
    ) {
        let (width, height) = state.size;
        let (new, whole) = match request {
            manager::Request::CaptureOutput { frame, .. } => (frame, true),
            manager::Request::CaptureOutputRegion { frame, x, y, width: w, height: h, .. } => {
                // Clipped to the output, as the protocol says; parts of it are not to be had here.
                let covers =
                    |at: i32, len: i32, all: u32| at <= 0 && i64::from(at) + i64::from(len) >= all.into();
                (frame, covers(x, w, width) && covers(y, h, height))
            }
            _ => return,
        };
        let frame = init.init(new, FrameData { last: Arc::clone(last), used: AtomicBool::new(!whole) });
        if !whole {
            return frame.failed();
        }
        frame.buffer(SHM_FORMAT, width, height, 4 * width);
        if frame.version() >= frame::EVT_LINUX_DMABUF_SINCE {
            if state.painter.gbm().is_some() {
                frame.linux_dmabuf(GPU_FORMAT.fourcc(), width, height);
            }
            frame.buffer_done();
        }
    }
}

impl Dispatch<ZwlrScreencopyFrameV1, FrameData> for Desktop {
    fn request(
        state: &mut Self,
        _: &Client,
        frame: &ZwlrScreencopyFrameV1,
        request: frame::Request,
        data: &FrameData,
        _: &DisplayHandle,
        _: &mut DataInit<'_, Self>,
    ) {
        let (buffer, with_damage) = match request {
            frame::Request::Copy { buffer } => (buffer, false),
            frame::Request::CopyWithDamage { buffer } => (buffer, true),
            _ => return,
        };
        if data.used.swap(true, Ordering::Relaxed) {
            return frame.post_error(frame::Error::AlreadyUsed, "frame already used");
        }
        let Some(known) = buffer.data::<Buffer>() else {
            return frame.post_error(frame::Error::InvalidBuffer, "unsupported buffer type");
        };
        if let Err(why) = known.check(state.size) {
            return frame.post_error(frame::Error::InvalidBuffer, why);
        }
        let last = Arc::clone(&data.last);
        state.waiting.push(Capture { buffer, with_damage, frame: frame.clone(), last });
    }

    fn destroyed(state: &mut Self, _: ClientId, frame: &ZwlrScreencopyFrameV1, _: &FrameData) {
        state.waiting.retain(|capture| capture.frame.id() != frame.id());
    }
}
