//! Capture: a desktop's frames, whatever kind of desktop it is, delivered to one consumer.
//!
//! ```text
//!  wayland (wlr-screencopy) ─┐
//!  mutter ─▶ pipewire ───────┼─▶ slot: the newest frame wins ─▶ Capture::recv_newest ─▶ pump
//!  testpattern ──────────────┘         events: Negotiated, Lost ─▶ Capture::try_event
//! ```
//!
//! One thread runs one source at a time and starts over, with back-off, when the desktop goes away or has
//! not come yet. Dropping a [`Frame`] gives its buffer back to the compositor.
//!
//! It does not know what becomes of a frame: rungs, encoders and viewers are elsewhere.

mod bell;
mod error;
mod frame;
mod mutter;
mod negotiated;
mod outlet;
mod pipewire;
pub mod resolve;
mod returns;
mod slot;
mod supervise;
mod testpattern;
mod wayland;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use virtgpu::Device;

pub use error::CaptureError;
pub use frame::{Frame, FrameBuffer, GiveBack, GpuBuffer, Lease, ShmView};
pub use negotiated::Negotiated;

use bell::Bell;
use outlet::Outlet;
use slot::Slot;

/// Events that may wait for the consumer; more are not kept.
const EVENT_QUEUE: usize = 64;

/// Which kind of desktop to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Source {
    /// wlr-screencopy, else Mutter, else the PipeWire node that was named; whichever comes first.
    #[default]
    Auto,
    /// PipeWire: the node that was named, else one that Mutter makes.
    PipeWire,
    /// wlr-screencopy.
    Wayland,
    /// A pattern drawn here.
    TestPattern,
}

/// Which buffers to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Memory {
    /// DMA-BUF, else shared memory.
    #[default]
    Auto,
    /// DMA-BUF or an error.
    DmaBuf,
    /// Shared memory only.
    Shm,
}

/// What to capture, and how.
#[derive(Debug, Clone)]
pub struct CaptureOptions {
    /// Kind of desktop.
    pub source: Source,
    /// Kind of buffers.
    pub memory: Memory,
    /// Highest frame rate.
    pub max_fps: u32,
    /// Draw the cursor into the picture.
    pub cursor: bool,
    /// The desktop's `XDG_RUNTIME_DIR`.
    pub runtime_dir: PathBuf,
    /// Wayland socket: a name in `runtime_dir` or a path; `None` tries every `wayland-*` there.
    pub wayland_display: Option<String>,
    /// Wayland output by name, e.g. `HEADLESS-1`, or Mutter connector, e.g. `Meta-0`; `None` is the first.
    pub output: Option<String>,
    /// Session bus; `None` means `unix:path=RUNTIME_DIR/bus`.
    pub dbus_address: Option<String>,
    /// PipeWire socket: a name in `runtime_dir` or a path.
    pub pipewire_remote: String,
    /// PipeWire node to capture without asking Mutter.
    pub pipewire_node: Option<u32>,
    /// The render node's path; only told in errors.
    pub render_node: PathBuf,
    /// The open render node; without it only shared memory can be captured.
    pub device: Option<Device>,
    /// Size of the test pattern in pixels.
    pub pattern_size: (u32, u32),
}

impl Default for CaptureOptions {
    fn default() -> Self {
        Self {
            source: Source::default(),
            memory: Memory::default(),
            max_fps: 60,
            cursor: true,
            runtime_dir: "/run/desktop".into(),
            wayland_display: None,
            output: None,
            dbus_address: None,
            pipewire_remote: "pipewire-0".to_owned(),
            pipewire_node: None,
            render_node: "/dev/dri/renderD128".into(),
            device: None,
            pattern_size: (1280, 720),
        }
    }
}

impl CaptureOptions {
    /// Why DMA-BUF is out of the question from the start, if it is.
    fn no_dmabuf(&self) -> Option<String> {
        match (&self.device, self.memory) {
            (_, Memory::Shm) => Some("shared memory was asked for".to_owned()),
            (None, _) => Some(format!("the render node {} could not be opened", self.render_node.display())),
            _ => None,
        }
    }

    /// The time from frame to frame at the highest rate.
    fn interval(&self) -> Duration {
        Duration::from_secs(1) / self.max_fps.clamp(1, 1000)
    }
}

/// What happens besides frames.
#[derive(Debug)]
pub enum CaptureEvent {
    /// A source was found and agreed on buffers.
    Negotiated(Negotiated),
    /// There is none, or no longer; capture goes on trying. Told once per reason.
    Lost(CaptureError),
}

/// A running capture; dropping it stops it.
#[derive(Debug)]
pub struct Capture {
    slot: Arc<Slot>,
    bell: Arc<Bell>,
    events: Receiver<CaptureEvent>,
    thread: Option<JoinHandle<()>>,
}

/// Starts capturing on a thread of its own. Failures come as [`CaptureEvent::Lost`].
pub fn start(options: CaptureOptions) -> Capture {
    let slot = Arc::new(Slot::default());
    let (sender, events) = mpsc::sync_channel(EVENT_QUEUE);
    let bell = match Bell::new() {
        Ok(bell) => Arc::new(bell),
        Err(error) => {
            let _ = sender.try_send(CaptureEvent::Lost(CaptureError::Thread(error)));
            let bell = Arc::new(Bell::broken());
            return Capture { slot, bell, events, thread: None };
        }
    };
    let outlet = Outlet::new(Arc::clone(&slot), Arc::clone(&bell), sender.clone());
    let spawned =
        thread::Builder::new().name("capture".to_owned()).spawn(move || supervise::run(&options, &outlet));
    let thread = match spawned {
        Ok(thread) => Some(thread),
        Err(error) => {
            let _ = sender.try_send(CaptureEvent::Lost(CaptureError::Thread(error)));
            None
        }
    };
    Capture { slot, bell, events, thread }
}

/// Where frames go that somebody else brings.
#[derive(Debug, Clone)]
pub struct Inlet(Arc<Slot>);

impl Inlet {
    /// Puts a frame in; one that nobody took yet goes back to its owner.
    pub fn put(&self, frame: Frame) {
        self.0.put(frame);
    }

    /// Whether the frame before was taken.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A capture without a desktop: its frames come in by the inlet, and no events do.
pub fn by_hand() -> (Inlet, Capture) {
    let slot = Arc::new(Slot::default());
    let (_, events) = mpsc::sync_channel(1);
    let capture = Capture { slot: Arc::clone(&slot), bell: Arc::new(Bell::broken()), events, thread: None };
    (Inlet(slot), capture)
}

impl Capture {
    /// The newest frame not yet taken; waits for one at most `timeout`.
    pub fn recv_newest(&self, timeout: Duration) -> Option<Frame> {
        self.slot.take(timeout)
    }

    /// The next event, if there is one.
    pub fn try_event(&self) -> Option<CaptureEvent> {
        self.events.try_recv().ok()
    }

    /// Frames that were overwritten by newer ones before anybody took them.
    pub fn overwritten(&self) -> u64 {
        self.slot.overwritten()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.bell.stop();
        self.slot.clear();
        if let Some(thread) = self.thread.take() {
            // A source looks at the bell in every wait, so this is short; a panic there was reported already.
            let _ = thread.join();
        }
    }
}
