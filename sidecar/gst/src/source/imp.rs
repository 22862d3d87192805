//! Properties of the element, and the life of its capture.
//!
//! The caps that downstream accepts determine the kind of capture buffers, so capture starts with the first requested
//! buffer. The first frame determines the caps, which are set before it is output, and again when the desktop's size
//! changes.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{self, LazyLock, PoisonError};
use std::time::{Duration, Instant};

use capture::{Capture, CaptureEvent, CaptureOptions, Cursor, Frame, FrameBuffer};
use encode::clock::clock_ns;
use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer::subclass::prelude::*;
use gstreamer_allocators::DmaBufAllocator;
use gstreamer_base::prelude::*;
use gstreamer_base::subclass::base_src::CreateSuccess;
use gstreamer_base::subclass::prelude::*;
use parking_lot::{Mutex, MutexGuard};
use virtgpu::Device;

use super::SourceKind;
use super::frames;
use crate::caps::{self, Memory, Video};

/// Interval at which waits for frames check whether to end.
const TICK: Duration = Duration::from_millis(20);

static CAT: LazyLock<gst::DebugCategory> =
    LazyLock::new(|| caps::category("desktopstreamsrc", "desktop capture"));

#[derive(Debug, Clone)]
struct Settings {
    source: SourceKind,
    width: u32,
    height: u32,
    max_framerate: u32,
    cursor: bool,
    runtime_dir: String,
    wayland_display: Option<String>,
    pipewire_node: i32,
    render_node: String,
    timeout: u32,
}

impl Default for Settings {
    fn default() -> Self {
        let CaptureOptions { max_fps, cursor, runtime_dir, render_node, initial_size, .. } =
            CaptureOptions::default();
        let text = |path: PathBuf| path.display().to_string();
        Self {
            source: SourceKind::Auto,
            width: initial_size.0,
            height: initial_size.1,
            max_framerate: max_fps,
            cursor: cursor == Cursor::Embedded,
            runtime_dir: std::env::var("XDG_RUNTIME_DIR").unwrap_or_else(|_| text(runtime_dir)),
            wayland_display: std::env::var("WAYLAND_DISPLAY").ok(),
            pipewire_node: -1,
            render_node: text(render_node),
            timeout: 30,
        }
    }
}

/// State between start and stop.
#[derive(Debug, Default)]
struct State {
    device: Option<Device>,
    /// The capture and its kind of buffers.
    capture: Option<(capture::Memory, Capture)>,
    /// Kind of buffers that downstream accepts; `None` if downstream must be queried.
    memory: Option<capture::Memory>,
    /// A frame arrived. The timeout applies to the first frame only.
    started: bool,
    /// Properties of the current caps.
    video: Option<Video>,
    /// Last reason for the absence of frames or DMA-BUFs.
    reason: String,
    /// Error of opening the render node.
    device_error: Option<String>,
    last_pts: Option<gst::ClockTime>,
}

#[derive(Debug, glib::Properties)]
#[properties(wrapper_type = super::Source)]
pub struct Source {
    #[property(name = "source", get, set, type = SourceKind, member = source, mutable_ready,
        blurb = "Capture source", builder(SourceKind::Auto))]
    #[property(name = "width", get, set, type = u32, member = width, minimum = 16, maximum = 8192, default = 1280,
        blurb = "Width of the test pattern; other sources have their own", mutable_ready)]
    #[property(name = "height", get, set, type = u32, member = height, minimum = 16, maximum = 8192, default = 720,
        blurb = "Height of the test pattern; other sources have their own", mutable_ready)]
    #[property(name = "max-framerate", get, set, type = u32, member = max_framerate, minimum = 1, maximum = 240,
        default = 60, blurb = "Maximum frame rate; frames arrive when the desktop draws", mutable_ready)]
    #[property(name = "cursor", get, set, type = bool, member = cursor, default = true,
        blurb = "Draw the cursor into the picture", mutable_ready)]
    #[property(name = "runtime-dir", get, set, type = String, member = runtime_dir,
        blurb = "Directory shared with the desktop; default $XDG_RUNTIME_DIR", mutable_ready)]
    #[property(name = "wayland-display", get, set, type = Option<String>, member = wayland_display,
        blurb = "Wayland socket in that directory; default $WAYLAND_DISPLAY, else the first", mutable_ready)]
    #[property(name = "pipewire-node", get, set, type = i32, member = pipewire_node, minimum = -1, default = -1,
        blurb = "PipeWire node to capture; -1 requests one from Mutter", mutable_ready)]
    #[property(name = "render-node", get, set, type = String, member = render_node,
        blurb = "DRM render node that the desktop renders on", mutable_ready)]
    #[property(name = "timeout", get, set, type = u32, member = timeout, default = 30,
        blurb = "Timeout of the first frame, seconds; 0 for none", mutable_ready)]
    // The property macro supports only the standard library's mutex.
    settings: sync::Mutex<Settings>,
    state: Mutex<State>,
    allocator: DmaBufAllocator,
    /// Waits must end.
    unlocked: AtomicBool,
    /// Downstream's caps may have changed.
    reconfigure: AtomicBool,
}

impl Default for Source {
    fn default() -> Self {
        Self {
            settings: sync::Mutex::default(),
            state: Mutex::default(),
            allocator: DmaBufAllocator::new(),
            unlocked: AtomicBool::new(false),
            reconfigure: AtomicBool::new(false),
        }
    }
}

#[glib::object_subclass]
impl ObjectSubclass for Source {
    const NAME: &'static str = "GstDesktopStreamSrc";
    type Type = super::Source;
    type ParentType = gstreamer_base::PushSrc;
}

#[glib::derived_properties]
impl ObjectImpl for Source {
    fn constructed(&self) {
        self.parent_constructed();
        self.obj().set_live(true);
        self.obj().set_format(gst::Format::Time);
    }
}

impl GstObjectImpl for Source {}

impl ElementImpl for Source {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Desktop capture",
                "Source/Video",
                "Captures a desktop as the compositor's DMA-BUFs (GNOME by PipeWire, wlroots by screencopy)",
                "desktopstream",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let (name, always) = ("src", gst::PadPresence::Always);
            gst::PadTemplate::new(name, gst::PadDirection::Src, always, &caps::template())
                .into_iter()
                .collect()
        });
        &TEMPLATES
    }
}

impl BaseSrcImpl for Source {
    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let device = Device::open(Path::new(&self.settings().render_node));
        if let Err(error) = &device {
            gst::warning!(CAT, imp = self, "cannot capture DMA-BUFs: {error}");
        }
        let device_error = device.as_ref().err().map(ToString::to_string);
        let reason = device_error.clone().unwrap_or_default();
        *self.state() = State { device: device.ok(), reason, device_error, ..State::default() };
        self.reconfigure.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *self.state() = State::default();
        Ok(())
    }

    fn is_seekable(&self) -> bool {
        false
    }

    /// Caps are set with the first frame that they describe.
    fn negotiate(&self) -> Result<(), gst::LoggableError> {
        self.reconfigure.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn unlock(&self) -> Result<(), gst::ErrorMessage> {
        self.unlocked.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn unlock_stop(&self) -> Result<(), gst::ErrorMessage> {
        self.unlocked.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn query(&self, query: &mut gst::QueryRef) -> bool {
        if let gst::QueryViewMut::Latency(latency) = query.view_mut() {
            let frame = gst::ClockTime::SECOND / u64::from(self.settings().max_framerate);
            latency.set(true, frame, gst::ClockTime::NONE);
            return true;
        }
        BaseSrcImplExt::parent_query(self, query)
    }
}

impl PushSrcImpl for Source {
    fn create(&self, _: Option<&mut gst::BufferRef>) -> Result<CreateSuccess, gst::FlowError> {
        let mut state = self.state();
        if self.reconfigure.swap(false, Ordering::Relaxed) {
            (state.memory, state.video) = (None, None);
        }
        loop {
            let memory = match state.memory {
                Some(memory) => memory,
                None => *state.memory.insert(self.wanted_memory()?),
            };
            let frame = self.next_frame(&mut state, memory)?;
            if !self.negotiate_caps(&mut state, &frame)? {
                continue;
            }
            let capture_ns = frame.capture_ns;
            let mut buffer = frames::buffer(frame, &self.allocator).map_err(|error| {
                gst::element_imp_error!(self, gst::ResourceError::Read, ("{error}"));
                gst::FlowError::Error
            })?;
            let pts = self.timestamp(&mut state, capture_ns);
            buffer.make_mut().set_pts(pts);
            return Ok(CreateSuccess::NewBuffer(buffer));
        }
    }
}

impl Source {
    fn settings(&self) -> Settings {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Template caps that downstream accepts.
    fn downstream_caps(&self) -> gst::Caps {
        self.obj().src_pad().peer_query_caps(Some(&caps::template()))
    }

    /// Kind of buffers that downstream accepts.
    fn wanted_memory(&self) -> Result<capture::Memory, gst::FlowError> {
        let downstream = self.downstream_caps();
        if downstream.is_empty() {
            let text = "downstream accepts no 32-bit RGB video: insert videoconvert after desktopstreamsrc";
            gst::element_imp_error!(self, gst::CoreError::Negotiation, ("{text}"));
            return Err(gst::FlowError::NotNegotiated);
        }
        let dmabuf = caps::has_dmabuf(&downstream);
        Ok(if dmabuf { capture::Memory::Auto } else { capture::Memory::Shm })
    }

    fn options(&self, device: Option<Device>, memory: capture::Memory) -> CaptureOptions {
        let settings = self.settings();
        CaptureOptions {
            source: match settings.source {
                SourceKind::Auto => capture::Source::Auto,
                SourceKind::PipeWire => capture::Source::PipeWire,
                SourceKind::Wayland => capture::Source::Wayland,
                SourceKind::TestPattern => capture::Source::TestPattern,
            },
            memory,
            max_fps: settings.max_framerate,
            cursor: if settings.cursor { Cursor::Embedded } else { Cursor::Hidden },
            runtime_dir: settings.runtime_dir.into(),
            wayland_display: settings.wayland_display,
            pipewire_node: u32::try_from(settings.pipewire_node).ok(),
            render_node: settings.render_node.into(),
            device,
            initial_size: (settings.width, settings.height),
            ..CaptureOptions::default()
        }
    }

    /// Receives the newest frame of a capture into `memory`, which is started if necessary.
    fn next_frame(&self, state: &mut State, memory: capture::Memory) -> Result<Frame, gst::FlowError> {
        if state.capture.as_ref().is_none_or(|(used, _)| *used != memory) {
            // The old capture ends first: a compositor may allow only one.
            state.capture = None;
            let options = self.options(state.device.clone(), memory);
            state.capture = Some((memory, capture::start(options)));
        }
        let limit = Duration::from_secs(self.settings().timeout.into());
        let begin = Instant::now();
        let State { capture, reason, started, .. } = state;
        let Some((_, capture)) = capture else { return Err(gst::FlowError::Error) };
        loop {
            while let Some(event) = capture.try_event() {
                self.on_capture_event(event, reason);
            }
            if self.unlocked.load(Ordering::Relaxed) {
                return Err(gst::FlowError::Flushing);
            }
            if let Some(frame) = capture.recv_newest(TICK) {
                *started = true;
                return Ok(frame);
            }
            if !*started && !limit.is_zero() && begin.elapsed() >= limit {
                let seconds = limit.as_secs();
                let text = format!("no frame within {seconds} s (property timeout): {reason}");
                gst::element_imp_error!(self, gst::ResourceError::NotFound, ("{text}"));
                return Err(gst::FlowError::Error);
            }
        }
    }

    fn on_capture_event(&self, event: CaptureEvent, reason: &mut String) {
        match event {
            CaptureEvent::Negotiated(negotiated) => {
                gst::info!(CAT, imp = self, "{}: {}", negotiated.source, negotiated.chosen);
                if let Some(shm_reason) = negotiated.shm_reason {
                    gst::info!(CAT, imp = self, "no DMA-BUF: {shm_reason}");
                    *reason = shm_reason.to_string();
                }
            }
            CaptureEvent::Lost(error) => {
                gst::element_imp_warning!(
                    self,
                    gst::ResourceError::NotFound,
                    ("waiting for the desktop: {error}")
                );
                *reason = error.to_string();
            }
        }
    }

    /// Sets caps that describe `frame`. Returns false if capture must restart with buffers that downstream accepts.
    fn negotiate_caps(&self, state: &mut State, frame: &Frame) -> Result<bool, gst::FlowError> {
        let fps = u16::try_from(self.settings().max_framerate).unwrap_or(u16::MAX);
        let video = frames::describe(frame, fps);
        let drm = Video { memory: Memory::DmaDrm, ..video };
        if state.video == Some(video) || (video.memory == Memory::DmaBuf && state.video == Some(drm)) {
            return Ok(true);
        }
        let downstream = self.downstream_caps();
        let accepts = |video: &Video| downstream.can_intersect(&video.caps());
        let forms: &[Video] = if video.memory == Memory::DmaBuf { &[video, drm] } else { &[video] };
        let Some(form) = forms.iter().find(|form| accepts(form)) else {
            let gpu = matches!(frame.buffer, FrameBuffer::Gpu(_));
            if gpu && accepts(&Video { memory: Memory::System, ..video }) {
                state.memory = Some(capture::Memory::Shm);
                return Ok(false);
            }
            let remedy = if !gpu && !accepts_system_memory(&downstream) {
                let reason = state.device_error.as_ref().unwrap_or(&state.reason);
                format!("it accepts only DMA-BUF, which capture does not deliver: {reason}")
            } else {
                "insert videoconvert after desktopstreamsrc, or videorate for a fixed frame rate".to_owned()
            };
            let text = format!("downstream does not accept {}: {remedy}", video.caps());
            gst::element_imp_error!(self, gst::CoreError::Negotiation, ("{text}"));
            return Err(gst::FlowError::NotNegotiated);
        };
        self.obj().set_caps(&form.caps()).map_err(|error| {
            gst::error!(CAT, imp = self, "{error}");
            gst::FlowError::NotNegotiated
        })?;
        state.video = Some(*form);
        Ok(true)
    }

    /// Running time at which the frame was captured, made to increase strictly.
    fn timestamp(&self, state: &mut State, capture_ns: u64) -> Option<gst::ClockTime> {
        let age = gst::ClockTime::from_nseconds(clock_ns().saturating_sub(capture_ns));
        let drawn = self.obj().current_running_time()?.saturating_sub(age);
        let pts = state.last_pts.map_or(drawn, |last| drawn.max(last + gst::ClockTime::USECOND));
        state.last_pts = Some(pts);
        Some(pts)
    }
}

fn accepts_system_memory(caps: &gst::CapsRef) -> bool {
    caps.iter_with_features()
        .any(|(_, features)| !features.contains(gstreamer_allocators::CAPS_FEATURE_MEMORY_DMABUF))
}
