//! Command line of the sidecar.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use contract::clipboard::ClipboardPolicy;
use contract::display::SizePolicy;
use contract::input::ControlPolicy;
use contract::{Endpoint, FramePath};

/// Captures a desktop, hands its frames to a host-agent for encoding and serves H.264 to browsers.
#[derive(Debug, Parser)]
#[command(name = "sidecar", version, max_term_width = 100)]
pub struct Cli {
    /// Subcommand to run.
    #[command(subcommand)]
    pub command: Command,
    /// Log as JSON lines. RUST_LOG sets the level; the default is info.
    #[arg(long, global = true, env = "DESKTOPSTREAM_LOG_JSON")]
    pub log_json: bool,
}

/// Subcommands of the sidecar.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Capture, stream and serve viewers until SIGTERM or SIGINT.
    Run(Box<Run>),
    /// Check each step of a frame's path and print remedies. Exits with status 1 if a check fails.
    Doctor(Box<Doctor>),
}

/// Kind of capture source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SourceArg {
    /// The first that the desktop offers: wlr-screencopy, Mutter, or the node of --pipewire-node.
    Auto,
    /// PipeWire stream of Mutter, or the node of --pipewire-node.
    Pipewire,
    /// The compositor's wlr-screencopy protocol.
    Wayland,
    /// Generated moving pattern; needs no desktop.
    TestPattern,
}

/// Kind of capture buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MemoryArg {
    /// DMA-BUF if available, else shared memory.
    Auto,
    /// DMA-BUF only.
    Dmabuf,
    /// Shared memory only.
    Shm,
}

/// Required frame path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RequireArg {
    /// Any frame path.
    Any,
    /// Frame path ResourceId.
    ZeroCopy,
}

/// How the cursor is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CursorArg {
    /// Drawn into the picture by the compositor.
    Embedded,
    /// Drawn by the viewers' page, at the speed of the browser; into the picture by compositors that do not deliver it.
    Viewer,
    /// Left out.
    Hidden,
}

/// Pixel format on frame path Pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PushArg {
    /// NV12, 1.5 bytes per pixel.
    Nv12,
    /// The captured format, 4 bytes per pixel.
    Native,
}

/// Desktop and GPU.
#[derive(Debug, Clone, Args)]
pub struct Desktop {
    /// Capture source.
    #[arg(long, value_enum, default_value = "auto", env = "DESKTOPSTREAM_SOURCE")]
    pub source: SourceArg,
    /// Kind of capture buffers.
    #[arg(long, value_enum, default_value = "auto", env = "DESKTOPSTREAM_MEMORY")]
    pub memory: MemoryArg,
    /// DRM render node that the desktop renders on.
    #[arg(long, default_value = "/dev/dri/renderD128", env = "DESKTOPSTREAM_RENDER_NODE")]
    pub render_node: PathBuf,
    /// Directory shared with the desktop: its XDG_RUNTIME_DIR.
    #[arg(long, env = "XDG_RUNTIME_DIR", default_value = "/run/desktop")]
    pub runtime_dir: PathBuf,
    /// Wayland socket in that directory. Default: the first wayland-*.
    #[arg(long, env = "WAYLAND_DISPLAY")]
    pub wayland_display: Option<String>,
    /// PipeWire node to capture, instead of requesting one from Mutter.
    #[arg(long, env = "DESKTOPSTREAM_PIPEWIRE_NODE")]
    pub pipewire_node: Option<u32>,
    /// How the cursor is shown.
    #[arg(long, value_enum, default_value = "embedded", env = "DESKTOPSTREAM_CURSOR")]
    pub cursor: CursorArg,
    /// Size of the test pattern, and first size of GNOME Shell's monitor with --size follow-viewer, WIDTHxHEIGHT.
    #[arg(long, default_value = "1280x720", value_parser = parse_size, env = "DESKTOPSTREAM_INITIAL_SIZE")]
    pub initial_size: (u32, u32),
}

/// Host-agent connection.
#[derive(Debug, Clone, Args)]
pub struct HostAgent {
    /// Endpoint of the host-agent: tls://HOST:PORT#sha256=FINGERPRINT, unix:/PATH, vsock://CID:PORT or, in plaintext,
    /// tcp://HOST:PORT. Without one the sidecar encodes.
    #[arg(long, env = "DESKTOPSTREAM_UPSTREAM")]
    pub upstream: Option<Endpoint>,
    /// File with the endpoint of the host-agent. The connection moves when its content changes.
    #[arg(long, env = "DESKTOPSTREAM_UPSTREAM_FILE", conflicts_with = "upstream")]
    pub upstream_file: Option<PathBuf>,
    /// Allow --upstream tcp:// beyond loopback. Everything on the way can read and change video, token and nonce. An endpoint in
    /// --upstream-file needs no permission: who writes the file also chooses the host-agent.
    #[arg(long, env = "DESKTOPSTREAM_PLAINTEXT_TCP")]
    pub plaintext_tcp: bool,
    /// File with the private key that the token is bound to: Ed25519, PEM. Presented to tls:// endpoints; may be missing.
    #[arg(long, env = "DESKTOPSTREAM_TLS_KEY_FILE")]
    pub tls_key_file: Option<PathBuf>,
    /// File with the token for the host-agent, read for every connection and every 2 s; a newer token is presented.
    #[arg(long, env = "DESKTOPSTREAM_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Token for the host-agent. Prefer --token-file.
    #[arg(long, env = "DESKTOPSTREAM_TOKEN", hide_env_values = true, conflicts_with = "token_file")]
    pub token: Option<String>,
}

/// Reason why an endpoint on the command line is not used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamRefused {
    /// Video and token would be sent in plaintext over a network.
    #[error(
        "--upstream {0} is plaintext: everything on the way reads video, token and nonce; use \
         tls://HOST:PORT#sha256=FINGERPRINT, or pass --plaintext-tcp if that is acceptable"
    )]
    Plaintext(Endpoint),
    /// The host-agent could not be told from another program.
    #[error("--upstream {0} has no fingerprint; append #sha256= and the output of `host-agent fingerprint`")]
    NoFingerprint(Endpoint),
}

impl HostAgent {
    /// Checks that the endpoint on the command line protects the connection, unless plaintext is allowed.
    ///
    /// # Errors
    /// It does not.
    pub fn check(&self) -> Result<(), UpstreamRefused> {
        match &self.upstream {
            Some(endpoint) if endpoint.is_exposed_plaintext() && !self.plaintext_tcp => {
                Err(UpstreamRefused::Plaintext(endpoint.clone()))
            }
            Some(endpoint @ Endpoint::Tls { fingerprint: None, .. }) => {
                Err(UpstreamRefused::NoFingerprint(endpoint.clone()))
            }
            _ => Ok(()),
        }
    }
}

/// Options of `run`.
#[derive(Debug, Clone, Args)]
pub struct Run {
    /// Desktop and GPU.
    #[command(flatten)]
    pub desktop: Desktop,
    /// Host-agent connection.
    #[command(flatten)]
    pub host_agent: HostAgent,
    /// Name of the stream.
    #[arg(long, default_value = "desktop", env = "DESKTOPSTREAM_NAME")]
    pub name: String,
    /// Address of the viewers' HTTP server.
    #[arg(long, default_value = "127.0.0.1:8080", env = "DESKTOPSTREAM_LISTEN")]
    pub listen: SocketAddr,
    /// Address of /status, /metrics, /healthz and /readyz.
    #[arg(long, default_value = "127.0.0.1:15939", env = "DESKTOPSTREAM_ADMIN_LISTEN")]
    pub admin_listen: SocketAddr,
    /// File with the token that viewers must present. A new content ends the sessions of the former token.
    #[arg(long, env = "DESKTOPSTREAM_VIEWER_TOKEN_FILE", group = "viewer_auth")]
    pub viewer_token_file: Option<PathBuf>,
    /// Token that viewers must present. Prefer --viewer-token-file.
    #[arg(
        long,
        env = "DESKTOPSTREAM_VIEWER_TOKEN",
        hide_env_values = true,
        conflicts_with = "viewer_token_file",
        group = "viewer_auth"
    )]
    pub viewer_token: Option<viewers::ViewerToken>,
    /// File with public keys in PEM. Who signs tokens with them may read /status and /metrics at --admin-listen. It is read
    /// again for each token.
    #[arg(long, env = "DESKTOPSTREAM_STATUS_KEYS_FILE")]
    pub status_keys_file: Option<PathBuf>,
    /// File with the token of viewers that may not control the desktop. Requires --viewer-token-file or --viewer-token. While
    /// the file is missing, there are no such viewers. If both tokens are equal, no viewer may control the desktop.
    #[arg(long, env = "DESKTOPSTREAM_VIEW_ONLY_TOKEN_FILE", requires = "viewer_auth")]
    pub view_only_token_file: Option<PathBuf>,
    /// Number of viewers that may control the desktop: exclusive (one at a time), shared (all), or none.
    #[arg(long, default_value = "exclusive", env = "DESKTOPSTREAM_CONTROL")]
    pub control: ControlPolicy,
    /// Size of the desktop: fixed, or follow-viewer to give it the size of the window of the viewer in control. For GNOME Shell,
    /// the sidecar then makes the monitor: start the shell without --virtual-monitor.
    #[arg(long, default_value_t, env = "DESKTOPSTREAM_SIZE")]
    pub size: SizePolicy,
    /// Let viewers listen to the desktop's sound, from PipeWire in --runtime-dir.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, env = "DESKTOPSTREAM_AUDIO_OUTPUT")]
    pub audio_output: bool,
    /// Directions in which viewers in control share their clipboard with the desktop: off, to-desktop, from-desktop or both.
    #[arg(long, default_value_t, env = "DESKTOPSTREAM_CLIPBOARD")]
    pub clipboard: ClipboardPolicy,
    /// Serve viewers without a token, even beyond loopback.
    #[arg(long, env = "DESKTOPSTREAM_INSECURE_NO_VIEWER_AUTH")]
    pub insecure_no_viewer_auth: bool,
    /// Origins of other sites that may embed the page and open the WebSocket, comma-separated.
    #[arg(long, value_delimiter = ',', env = "DESKTOPSTREAM_ALLOWED_ORIGINS")]
    pub allowed_origins: Vec<String>,
    /// Maximum number of viewers.
    #[arg(long, default_value_t = 16, env = "DESKTOPSTREAM_MAX_VIEWERS")]
    pub max_viewers: usize,
    /// Use only this frame path: resource-id, pixels or local.
    #[arg(long, env = "DESKTOPSTREAM_FRAME_PATH")]
    pub frame_path: Option<FramePath>,
    /// Required frame path. /readyz fails while another one is in use.
    #[arg(long, value_enum, default_value = "any", env = "DESKTOPSTREAM_REQUIRE")]
    pub require: RequireArg,
    /// Pixel format on frame path Pixels.
    #[arg(long, value_enum, default_value = "nv12", env = "DESKTOPSTREAM_PUSH")]
    pub push: PushArg,
    /// Bit rate, kbit/s.
    #[arg(long, default_value_t = 6000, value_parser = clap::value_parser!(u32).range(100..=200_000), env = "DESKTOPSTREAM_BITRATE_KBPS")]
    pub bitrate_kbps: u32,
    /// Maximum frame rate, frames per second.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=240), env = "DESKTOPSTREAM_MAX_FPS")]
    pub max_fps: u16,
    /// Maximum time between keyframes, ms; 0 for keyframes on demand only.
    #[arg(long, default_value_t = 10_000, env = "DESKTOPSTREAM_KEYFRAME_MS")]
    pub keyframe_ms: u32,
    /// Encoder of frame path Local: auto, a GStreamer element such as x264enc, or null (benchmarks; no video).
    #[arg(long, default_value = "auto", env = "DESKTOPSTREAM_LOCAL_ENCODER")]
    pub local_encoder: encode::Choice,
}

/// Options of `doctor`.
#[derive(Debug, Clone, Args)]
pub struct Doctor {
    /// Desktop and GPU.
    #[command(flatten)]
    pub desktop: Desktop,
    /// Host-agent connection.
    #[command(flatten)]
    pub host_agent: HostAgent,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

fn parse_size(text: &str) -> Result<(u32, u32), String> {
    let side =
        |side: &str| side.parse::<u32>().ok().filter(|side| (16..=protocol::pixel::MAX_SIDE).contains(side));
    text.split_once('x').and_then(|(width, height)| Some((side(width)?, side(height)?))).ok_or_else(|| {
        format!("write WIDTHxHEIGHT; each must be between 16 and {}", protocol::pixel::MAX_SIDE)
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use contract::names::flags;

    use super::*;

    #[test]
    fn command_line_has_every_flag_of_the_contract() {
        Cli::command().debug_assert();
        let command = Cli::command();
        let run = command.find_subcommand("run").expect("a subcommand");
        let names: Vec<_> = run.get_arguments().filter_map(clap::Arg::get_long).collect();
        for flag in [
            flags::NAME,
            flags::LISTEN,
            flags::ADMIN_LISTEN,
            flags::MAX_VIEWERS,
            flags::CONTROL,
            flags::AUDIO_OUTPUT,
            flags::CLIPBOARD,
            flags::ALLOWED_ORIGINS,
            flags::SIZE,
            flags::SOURCE,
            flags::MAX_FPS,
            flags::BITRATE_KBPS,
            flags::KEYFRAME_MS,
            flags::RUNTIME_DIR,
            flags::INITIAL_SIZE,
            flags::REQUIRE,
            flags::FRAME_PATH,
            flags::UPSTREAM,
            flags::UPSTREAM_FILE,
            flags::TOKEN_FILE,
            flags::TLS_KEY_FILE,
            flags::PLAINTEXT_TCP,
            flags::VIEWER_TOKEN_FILE,
            flags::VIEW_ONLY_TOKEN_FILE,
            flags::STATUS_KEYS_FILE,
            flags::INSECURE_NO_VIEWER_AUTH,
            flags::CURSOR,
        ] {
            assert!(names.contains(&flag), "{flag}");
        }
    }

    #[test]
    fn upstream_without_protection_needs_its_option() {
        let check = |arguments: &[&str]| {
            let cli = Cli::try_parse_from([&["sidecar", "doctor"], arguments].concat()).expect("parses");
            let Command::Doctor(doctor) = cli.command else { unreachable!("doctor was given") };
            doctor.host_agent.check()
        };
        let pinned = format!("tls://10.0.2.2:1#sha256={}", "ab".repeat(32));
        assert_eq!(check(&["--upstream", &pinned]), Ok(()));
        assert_eq!(check(&["--upstream", "tcp://127.0.0.1:1"]), Ok(()));
        assert_eq!(check(&["--upstream", "tcp://10.0.2.2:1", "--plaintext-tcp"]), Ok(()));
        let plaintext = check(&["--upstream", "tcp://10.0.2.2:1"]).expect_err("plaintext").to_string();
        assert!(plaintext.contains("--plaintext-tcp") && plaintext.contains("tls://"), "{plaintext}");
        let bare = check(&["--upstream", "tls://10.0.2.2:1"]).expect_err("no fingerprint").to_string();
        assert!(bare.contains("host-agent fingerprint"), "{bare}");
    }

    #[test]
    fn view_only_token_without_a_viewer_token_is_refused() {
        let parse = |more: &[&str]| {
            Cli::try_parse_from([&["sidecar", "run", "--view-only-token-file", "v"], more].concat())
        };
        parse(&["--viewer-token-file", "t"]).expect("both files");
        parse(&["--viewer-token", "0123456789abcdef"]).expect("a token and a file");
        for more in [&[][..], &["--insecure-no-viewer-auth"]] {
            let error = parse(more).expect_err("refused").to_string();
            assert!(error.contains("--viewer-token-file") && error.contains("required"), "{error}");
        }
    }

    #[test]
    fn frame_path_is_parsed_by_its_flag_name() {
        let cli = Cli::try_parse_from(["sidecar", "run", "--frame-path", "resource-id"]).expect("parses");
        let Command::Run(run) = cli.command else { unreachable!("run was given") };
        assert_eq!(run.frame_path, Some(FramePath::ResourceId));
        let error = Cli::try_parse_from(["sidecar", "run", "--frame-path", "rung"]).expect_err("refused");
        assert!(error.to_string().contains("resource-id"), "{error}");
    }

    #[test]
    fn initial_size_outside_the_range_is_refused() {
        assert_eq!(parse_size("1280x720"), Ok((1280, 720)));
        for text in ["1280", "15x720", "1280x8193", "ax720"] {
            let error = parse_size(text).expect_err(text);
            assert!(error.contains("between 16 and 8192"), "{error}");
        }
    }
}
