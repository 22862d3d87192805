//! Settings of a capture.

use std::path::PathBuf;
use std::time::Duration;

use contract::display::SizePolicy;
use virtgpu::Device;

use crate::negotiated::ShmReason;

/// Kind of source to capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Source {
    /// First available of: wlr-screencopy, [`CaptureOptions::pipewire_node`], Mutter.
    #[default]
    Auto,
    /// PipeWire: [`CaptureOptions::pipewire_node`] if set, else a node created by Mutter.
    PipeWire,
    /// A wlroots compositor, by wlr-screencopy.
    Wayland,
    /// A numbered pattern drawn by the CPU; needs no desktop.
    TestPattern,
}

/// Kind of buffers to negotiate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Memory {
    /// DMA-BUF, with shared memory as fallback.
    #[default]
    Auto,
    /// DMA-BUF only; capture fails without it.
    DmaBuf,
    /// Shared memory only.
    Shm,
}

/// Visibility of the cursor in captured frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cursor {
    /// The compositor draws the cursor into the frame.
    #[default]
    Embedded,
    /// Frames have no cursor; [`crate::Capture::pointer`] has it. Compositors that do not deliver it draw it into the
    /// frame: wlr-screencopy.
    Viewer,
    /// Frames have no cursor.
    Hidden,
}

/// Settings of a capture.
#[derive(Debug, Clone)]
pub struct CaptureOptions {
    /// Kind of source.
    pub source: Source,
    /// Kind of buffers.
    pub memory: Memory,
    /// Maximum frame rate in frames per second; clamped to 1–1000.
    pub max_fps: u32,
    /// Cursor visibility.
    pub cursor: Cursor,
    /// The desktop's `XDG_RUNTIME_DIR`.
    pub runtime_dir: PathBuf,
    /// Wayland socket: a name in `runtime_dir` or an absolute path. `None` tries every `wayland-*` socket in
    /// `runtime_dir`.
    pub wayland_display: Option<String>,
    /// Wayland output name, e.g. `HEADLESS-1`, or Mutter connector, e.g. `Meta-0`. `None` selects the first
    /// Wayland output, or Mutter's primary monitor.
    pub output: Option<String>,
    /// D-Bus address of the session bus. `None` uses `runtime_dir/bus`, then `DBUS_SESSION_BUS_ADDRESS`.
    pub dbus_address: Option<String>,
    /// PipeWire socket: a name in `runtime_dir` or an absolute path.
    pub pipewire_remote: String,
    /// PipeWire node to capture without asking Mutter for one.
    pub pipewire_node: Option<u32>,
    /// Path of the render node, for error messages.
    pub render_node: PathBuf,
    /// The opened render node. Without it only shared memory can be captured.
    pub device: Option<Device>,
    /// Policy over the size of the desktop. With `FollowViewer`, Mutter gets a virtual monitor of the size that
    /// [`crate::Resizer`] asks for.
    pub size: SizePolicy,
    /// Width and height in pixels of the test pattern, and of a virtual monitor before a size is asked for.
    pub initial_size: (u32, u32),
}

impl Default for CaptureOptions {
    fn default() -> Self {
        Self {
            source: Source::default(),
            memory: Memory::default(),
            max_fps: 60,
            cursor: Cursor::default(),
            runtime_dir: "/run/desktop".into(),
            wayland_display: None,
            output: None,
            dbus_address: None,
            pipewire_remote: "pipewire-0".to_owned(),
            pipewire_node: None,
            render_node: "/dev/dri/renderD128".into(),
            device: None,
            size: SizePolicy::Fixed,
            initial_size: (1280, 720),
        }
    }
}

impl CaptureOptions {
    /// The reason these options rule DMA-BUF out, if they do.
    pub(crate) fn dmabuf_excluded(&self) -> Option<ShmReason> {
        match (&self.device, self.memory) {
            (_, Memory::Shm) => Some(ShmReason::Requested),
            (None, _) => Some(ShmReason::NoRenderNode(self.render_node.clone())),
            _ => None,
        }
    }

    /// Time between frames at the maximum frame rate.
    pub(crate) fn frame_interval(&self) -> Duration {
        Duration::from_secs(1) / self.max_fps.clamp(1, 1000)
    }
}
