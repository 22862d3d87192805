//! The element: its properties, and when frames are fetched.
//!
//! What downstream takes decides what is captured, so capture begins with the first buffer that is wanted; and
//! what is captured decides the caps, so they are set before that buffer goes out, and again when the desktop
//! changes its size.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer::subclass::prelude::*;
use gstreamer_allocators::DmaBufAllocator;
use gstreamer_base::prelude::*;
use gstreamer_base::subclass::base_src::CreateSuccess;
use gstreamer_base::subclass::prelude::*;
use capture::{self, Capture, CaptureEvent, CaptureOptions, Frame, FrameBuffer};
use encode::clock::clock_ns;
use virtgpu::Device;

use super::SourceKind;
use super::frames;
use crate::caps::{self, Memory, Video};

/// How often a wait for frames looks whether it is to end.
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
        let CaptureOptions { max_fps, runtime_dir, render_node, pattern_size, .. } =
            CaptureOptions::default();
        let text = |path: PathBuf| path.display().to_string();
        Self {
            source: SourceKind::Auto,
            width: pattern_size.0,
            height: pattern_size.1,
            max_framerate: max_fps,
            cursor: true,
            runtime_dir: std::env::var("XDG_RUNTIME_DIR").unwrap_or_else(|_| text(runtime_dir)),
            wayland_display: std::env::var("WAYLAND_DISPLAY").ok(),
            pipewire_node: -1,
            render_node: text(render_node),
            timeout: 30,
        }
    }
}

/// What runs between start and stop.
#[derive(Debug, Default)]
struct State {
    device: Option<Device>,
    /// The capture, and the memory that it captures into.
    capture: Option<(capture::Memory, Capture)>,
    /// The memory to capture into, by what downstream takes; `None` when that has to be asked.
    memory: Option<capture::Memory>,
    /// A frame came: a desktop that was seen may stand still, or come back.
    seen: bool,
    /// What the caps say that were set last.
    video: Option<Video>,
    /// Why there are no frames, or no DMA-BUFs, by the newest word.
    reason: String,
    /// Why there is no render node; the cause of all else, then.
    no_device: Option<String>,
    last_pts: Option<gst::ClockTime>,
}

#[derive(Debug, glib::Properties)]
#[properties(wrapper_type = super::Source)]
pub struct Source {
    #[property(name = "source", get, set, type = SourceKind, member = source, mutable_ready,
        blurb = "Kind of desktop to look for", builder(SourceKind::Auto))]
    #[property(name = "width", get, set, type = u32, member = width, minimum = 16, maximum = 8192, default = 1280,
        blurb = "Width of the test pattern; a desktop has its own", mutable_ready)]
    #[property(name = "height", get, set, type = u32, member = height, minimum = 16, maximum = 8192, default = 720,
        blurb = "Height of the test pattern; a desktop has its own", mutable_ready)]
    #[property(name = "max-framerate", get, set, type = u32, member = max_framerate, minimum = 1, maximum = 240,
        default = 60, blurb = "Highest frame rate; frames come when the desktop draws", mutable_ready)]
    #[property(name = "cursor", get, set, type = bool, member = cursor, default = true,
        blurb = "Draw the cursor into the picture", mutable_ready)]
    #[property(name = "runtime-dir", get, set, type = String, member = runtime_dir,
        blurb = "Folder shared with the desktop; default $XDG_RUNTIME_DIR", mutable_ready)]
    #[property(name = "wayland-display", get, set, type = Option<String>, member = wayland_display,
        blurb = "Wayland socket in that folder; default $WAYLAND_DISPLAY, else the first", mutable_ready)]
    #[property(name = "pipewire-node", get, set, type = i32, member = pipewire_node, minimum = -1, default = -1,
        blurb = "PipeWire node to capture instead of asking Mutter for one; -1 asks", mutable_ready)]
    #[property(name = "render-node", get, set, type = String, member = render_node,
        blurb = "DRM render node that the desktop draws with", mutable_ready)]
    #[property(name = "timeout", get, set, type = u32, member = timeout, default = 30,
        blurb = "Seconds to wait for the desktop's first frame; 0 waits for ever", mutable_ready)]
    settings: Mutex<Settings>,
    state: Mutex<State>,
    allocator: DmaBufAllocator,
    /// Waits are to end.
    unlocked: AtomicBool,
    /// Downstream may take something else now.
    reconfigure: AtomicBool,
}

impl Default for Source {
    fn default() -> Self {
        Self {
            settings: Mutex::default(),
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
                "A desktop's frames, as the compositor's DMA-BUFs (GNOME by PipeWire, wlroots by screencopy)",
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
            gst::warning!(CAT, imp = self, "no DMA-BUFs can be captured: {error}");
        }
        let no_device = device.as_ref().err().map(ToString::to_string);
        let reason = no_device.clone().unwrap_or_default();
        *self.state() = State { device: device.ok(), reason, no_device, ..State::default() };
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

    /// Caps are set with the frames that they describe.
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
            if !self.agree(&mut state, &frame)? {
                continue;
            }
            let capture_ns = frame.capture_ns;
            let mut buffer = frames::buffer(frame, &self.allocator).map_err(|error| {
                gst::element_imp_error!(self, gst::ResourceError::Read, ("{error}"));
                gst::FlowError::Error
            })?;
            let pts = self.stamp(&mut state, capture_ns);
            buffer.make_mut().set_pts(pts);
            return Ok(CreateSuccess::NewBuffer(buffer));
        }
    }
}

impl Source {
    fn settings(&self) -> Settings {
        // Settings are whole between any two statements.
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What downstream takes of what there is.
    fn downstream(&self) -> gst::Caps {
        self.obj().src_pad().peer_query_caps(Some(&caps::template()))
    }

    /// The memory to capture into, by what downstream takes.
    fn wanted_memory(&self) -> Result<capture::Memory, gst::FlowError> {
        let downstream = self.downstream();
        if downstream.is_empty() {
            let text = "downstream takes no 32-bit RGB video: put videoconvert behind desktopstreamsrc";
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
            cursor: if settings.cursor { capture::Cursor::Embedded } else { capture::Cursor::Hidden },
            runtime_dir: settings.runtime_dir.into(),
            wayland_display: settings.wayland_display,
            pipewire_node: u32::try_from(settings.pipewire_node).ok(),
            render_node: settings.render_node.into(),
            device,
            pattern_size: (settings.width, settings.height),
            ..CaptureOptions::default()
        }
    }

    /// The newest frame of a capture into `memory`; starts one if there is none such.
    fn next_frame(&self, state: &mut State, memory: capture::Memory) -> Result<Frame, gst::FlowError> {
        if state.capture.as_ref().is_none_or(|(used, _)| *used != memory) {
            // The old one ends first: a compositor may lend its picture once.
            state.capture = None;
            let options = self.options(state.device.clone(), memory);
            state.capture = Some((memory, capture::start(options)));
        }
        let limit = Duration::from_secs(self.settings().timeout.into());
        let begin = Instant::now();
        let State { capture, reason, seen, .. } = state;
        let Some((_, capture)) = capture else { return Err(gst::FlowError::Error) };
        loop {
            while let Some(event) = capture.try_event() {
                self.hear(event, reason);
            }
            if self.unlocked.load(Ordering::Relaxed) {
                return Err(gst::FlowError::Flushing);
            }
            if let Some(frame) = capture.recv_newest(TICK) {
                *seen = true;
                return Ok(frame);
            }
            if !*seen && !limit.is_zero() && begin.elapsed() >= limit {
                let seconds = limit.as_secs();
                let text = format!("no frame within {seconds} s (property timeout): {reason}");
                gst::element_imp_error!(self, gst::ResourceError::NotFound, ("{text}"));
                return Err(gst::FlowError::Error);
            }
        }
    }

    fn hear(&self, event: CaptureEvent, reason: &mut String) {
        match event {
            CaptureEvent::Negotiated(agreed) => {
                let why = agreed.shm_reason.map(|reason| reason.to_string()).unwrap_or_default();
                gst::info!(CAT, imp = self, "{}: {} {why}", agreed.source, agreed.chosen);
                if !why.is_empty() {
                    *reason = why;
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

    /// Has the caps say what `frame` is. False if capture has to begin anew, in memory that downstream takes.
    fn agree(&self, state: &mut State, frame: &Frame) -> Result<bool, gst::FlowError> {
        let fps = u16::try_from(self.settings().max_framerate).unwrap_or(u16::MAX);
        let video = frames::describe(frame, fps);
        let drm = Video { memory: Memory::DmaDrm, ..video };
        if state.video == Some(video) || (video.memory == Memory::DmaBuf && state.video == Some(drm)) {
            return Ok(true);
        }
        let downstream = self.downstream();
        let takes = |video: &Video| downstream.can_intersect(&video.caps());
        let names: &[Video] = if video.memory == Memory::DmaBuf { &[video, drm] } else { &[video] };
        let Some(name) = names.iter().find(|name| takes(name)) else {
            let gpu = matches!(frame.buffer, FrameBuffer::Gpu(_));
            if gpu && takes(&Video { memory: Memory::System, ..video }) {
                state.memory = Some(capture::Memory::Shm);
                return Ok(false);
            }
            let remedy = if !gpu && !takes_system(&downstream) {
                let why = state.no_device.as_ref().unwrap_or(&state.reason);
                format!("it takes only DMA-BUF, and capture has none: {why}")
            } else {
                "put videoconvert behind desktopstreamsrc, or videorate if a fixed frame rate is asked for"
                    .to_owned()
            };
            let text = format!("downstream does not take {}: {remedy}", video.caps());
            gst::element_imp_error!(self, gst::CoreError::Negotiation, ("{text}"));
            return Err(gst::FlowError::NotNegotiated);
        };
        self.obj().set_caps(&name.caps()).map_err(|error| {
            gst::error!(CAT, imp = self, "{error}");
            gst::FlowError::NotNegotiated
        })?;
        state.video = Some(*name);
        Ok(true)
    }

    /// The running time at which the frame was drawn, later than that of the frame before.
    fn stamp(&self, state: &mut State, capture_ns: u64) -> Option<gst::ClockTime> {
        let age = gst::ClockTime::from_nseconds(clock_ns().saturating_sub(capture_ns));
        let drawn = self.obj().current_running_time()?.saturating_sub(age);
        let pts = state.last_pts.map_or(drawn, |last| drawn.max(last + gst::ClockTime::USECOND));
        state.last_pts = Some(pts);
        Some(pts)
    }
}

fn takes_system(caps: &gst::CapsRef) -> bool {
    caps.iter_with_features()
        .any(|(_, features)| !features.contains(gstreamer_allocators::CAPS_FEATURE_MEMORY_DMABUF))
}
