//! The command line, and the wiring of the parts that it asks for.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use protocol::Endpoint;

use frame_path::fallback::Rung;

/// Streams the desktop beside it: captures the compositor, hands frames to the host by resource ID,
/// serves H.264 to browsers.
#[derive(Debug, Parser)]
#[command(name = "sidecar", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Log as JSON lines; the level comes from RUST_LOG (default info).
    #[arg(long, global = true, env = "DESKTOPSTREAM_LOG_JSON")]
    pub log_json: bool,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Capture, stream and serve until told to stop.
    Run(Box<Run>),
    /// Walk the path leg by leg; say which fails and what to do. Exit code 1 if one fails.
    Doctor(Box<Doctor>),
}

/// Where frames come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SourceArg {
    /// Whatever the desktop has.
    Auto,
    /// Mutter's or a portal's PipeWire stream.
    Pipewire,
    /// wlr-screencopy.
    Wayland,
    /// A moving pattern made here: no desktop needed.
    TestPattern,
}

/// Which buffers to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MemoryArg {
    /// DMA-BUF, else shared memory.
    Auto,
    /// DMA-BUF only.
    Dmabuf,
    /// Shared memory only.
    Shm,
}

/// What the rung must at least be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RequireArg {
    /// Anything that gives a picture.
    Any,
    /// Only resource IDs: anything else counts as failed.
    ZeroCopy,
}

/// Layout of pixels on rung Pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PushArg {
    /// 1.5 bytes a pixel.
    Nv12,
    /// As captured: 4 bytes a pixel.
    Native,
}

/// Where the desktop and its GPU are.
#[derive(Debug, Clone, Args)]
pub struct Desktop {
    /// Source of frames.
    #[arg(long, value_enum, default_value = "auto", env = "DESKTOPSTREAM_SOURCE")]
    pub source: SourceArg,
    /// Buffers to capture into.
    #[arg(long, value_enum, default_value = "auto", env = "DESKTOPSTREAM_MEMORY")]
    pub memory: MemoryArg,
    /// DRM render node that the desktop draws with.
    #[arg(long, default_value = "/dev/dri/renderD128", env = "DESKTOPSTREAM_RENDER_NODE")]
    pub render_node: PathBuf,
    /// Folder that is shared with the desktop.
    #[arg(long, env = "XDG_RUNTIME_DIR", default_value = "/run/desktop")]
    pub runtime_dir: PathBuf,
    /// Wayland socket in that folder; without it the first wayland-N is taken.
    #[arg(long, env = "WAYLAND_DISPLAY")]
    pub wayland_display: Option<String>,
    /// PipeWire node to capture, instead of asking Mutter for one.
    #[arg(long, env = "DESKTOPSTREAM_PIPEWIRE_NODE")]
    pub pipewire_node: Option<u32>,
    /// Do not draw the cursor into the picture.
    #[arg(long, env = "DESKTOPSTREAM_HIDE_CURSOR")]
    pub hide_cursor: bool,
    /// Size of the test pattern.
    #[arg(long, default_value = "1280x720", value_parser = parse_size, env = "DESKTOPSTREAM_PATTERN_SIZE")]
    pub pattern_size: (u32, u32),
}

/// Where the host-agent is.
#[derive(Debug, Clone, Args)]
pub struct HostAgent {
    /// The host-agent: tcp://HOST:PORT, unix:/PATH or vsock://CID:PORT. Without it the sidecar encodes.
    #[arg(long, env = "DESKTOPSTREAM_UPSTREAM")]
    pub upstream: Option<Endpoint>,
    /// File that names the host-agent, as --upstream does; the sidecar follows it to another.
    #[arg(long, env = "DESKTOPSTREAM_UPSTREAM_FILE", conflicts_with = "upstream")]
    pub upstream_file: Option<PathBuf>,
    /// File with the token for the host-agent; read anew for every connection.
    #[arg(long, env = "DESKTOPSTREAM_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// The token itself; prefer the file.
    #[arg(long, env = "DESKTOPSTREAM_TOKEN", hide_env_values = true, conflicts_with = "token_file")]
    pub token: Option<String>,
}

/// Options of `run`.
#[derive(Debug, Clone, Args)]
pub struct Run {
    /// The desktop.
    #[command(flatten)]
    pub desktop: Desktop,
    /// The host-agent.
    #[command(flatten)]
    pub host_agent: HostAgent,
    /// Name of the stream.
    #[arg(long, default_value = "desktop", env = "DESKTOPSTREAM_NAME")]
    pub name: String,
    /// Address for viewers.
    #[arg(long, default_value = "127.0.0.1:8080", env = "DESKTOPSTREAM_LISTEN")]
    pub listen: SocketAddr,
    /// File with the token that viewers must bring.
    #[arg(long, env = "DESKTOPSTREAM_VIEWER_TOKEN_FILE")]
    pub viewer_token_file: Option<PathBuf>,
    /// The token that viewers must bring; prefer the file.
    #[arg(
        long,
        env = "DESKTOPSTREAM_VIEWER_TOKEN",
        hide_env_values = true,
        conflicts_with = "viewer_token_file"
    )]
    pub viewer_token: Option<String>,
    /// Let anybody who reaches --listen watch, even beyond loopback.
    #[arg(long, env = "DESKTOPSTREAM_INSECURE_NO_VIEWER_AUTH")]
    pub insecure_no_viewer_auth: bool,
    /// Most viewers at once.
    #[arg(long, default_value_t = 16, env = "DESKTOPSTREAM_MAX_VIEWERS")]
    pub max_viewers: usize,
    /// Use only this rung of the ladder.
    #[arg(long, env = "DESKTOPSTREAM_RUNG")]
    pub rung: Option<Rung>,
    /// What the rung must at least be; else /readyz fails.
    #[arg(long, value_enum, default_value = "any", env = "DESKTOPSTREAM_REQUIRE")]
    pub require: RequireArg,
    /// Layout of pixels on rung Pixels.
    #[arg(long, value_enum, default_value = "nv12", env = "DESKTOPSTREAM_PUSH")]
    pub push: PushArg,
    /// Bit rate, kbit/s.
    #[arg(long, default_value_t = 6000, value_parser = clap::value_parser!(u32).range(100..=200_000), env = "DESKTOPSTREAM_BITRATE")]
    pub bitrate: u32,
    /// Highest frame rate.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=240), env = "DESKTOPSTREAM_MAX_FPS")]
    pub max_fps: u16,
    /// Longest time between keyframes, in ms; 0 means only on demand.
    #[arg(long, default_value_t = 10_000, env = "DESKTOPSTREAM_KEYFRAME_MS")]
    pub keyframe_ms: u32,
    /// Encoder of rung Local: auto, or a GStreamer element such as x264enc; null makes no picture.
    #[arg(long, default_value = "auto", env = "DESKTOPSTREAM_LOCAL_ENCODER")]
    pub local_encoder: encode::Choice,
}

/// Options of `doctor`.
#[derive(Debug, Clone, Args)]
pub struct Doctor {
    /// The desktop.
    #[command(flatten)]
    pub desktop: Desktop,
    /// The host-agent.
    #[command(flatten)]
    pub host_agent: HostAgent,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

fn parse_size(text: &str) -> Result<(u32, u32), String> {
    let side =
        |side: &str| side.parse::<u32>().ok().filter(|side| (16..=protocol::pixel::MAX_SIDE).contains(side));
    text.split_once('x').and_then(|(width, height)| Some((side(width)?, side(height)?))).ok_or_else(|| {
        format!("{text:?} is no size: write WIDTHxHEIGHT, 16 to {}", protocol::pixel::MAX_SIDE)
    })
}
