//! Ports, flags, environment variables, files, labels and metric names that more than one program uses.

/// TCP port of the sidecar's viewers: page, WebSocket, live streams, snapshots.
pub const VIEWER_PORT: u16 = 8080;
/// TCP port of the sidecar's `/status`, `/metrics` and probes.
pub const SIDECAR_ADMIN_PORT: u16 = 15939;
/// TCP and vsock port of the host-agent's stream listener.
pub const HOST_AGENT_PORT: u16 = 15937;

/// Directory that desktop and sidecar share: `XDG_RUNTIME_DIR` of both.
pub const RUNTIME_DIR: &str = "/run/desktop";
/// Directory with [`ENDPOINT_FILE`], [`TOKEN_FILE`] and [`TLS_KEY_FILE`] for the host-agent, and with [`STATUS_KEYS_FILE`].
pub const HOST_AGENT_DIR: &str = "/run/desktopstream/host-agent";
/// Directory with the viewers' [`TOKEN_FILE`] and [`VIEW_ONLY_TOKEN_FILE`].
pub const VIEWER_DIR: &str = "/run/desktopstream/viewer";
/// File and Secret key with the host-agent's endpoint.
pub const ENDPOINT_FILE: &str = "endpoint";
/// File and Secret key with a token.
pub const TOKEN_FILE: &str = "token";
/// File and Secret key with the token of viewers that may not control the desktop. Optional: Secrets of users and of earlier
/// versions lack it.
pub const VIEW_ONLY_TOKEN_FILE: &str = "view-only-token";
/// File and Secret key with the operator's public keys in PEM, which verify tokens for [`STATUS_AUDIENCE`].
pub const STATUS_KEYS_FILE: &str = "status.pub";

/// Audience of the tokens with which the operator reads a sidecar's `/status` and `/metrics`. Names of HostAgents have no
/// slash, so no token for a host-agent has this audience.
pub const STATUS_AUDIENCE: &str = "desktopstream.dev/status";
/// Lifetime of such a token, seconds. The operator signs one per request.
pub const STATUS_TOKEN_SECONDS: u32 = 120;
/// File and Secret key with the private key that the host-agent's token is bound to: Ed25519, PEM (PKCS #8).
pub const TLS_KEY_FILE: &str = "tls.key";

/// Long flags of `sidecar run`, without the leading `--`.
pub mod flags {
    /// Stream as `namespace/name`.
    pub const NAME: &str = "name";
    /// Address of the viewers' HTTP server.
    pub const LISTEN: &str = "listen";
    /// Address of `/status`, `/metrics` and the probes.
    pub const ADMIN_LISTEN: &str = "admin-listen";
    /// Maximum number of viewers.
    pub const MAX_VIEWERS: &str = "max-viewers";
    /// Viewers that may control the desktop.
    pub const CONTROL: &str = "control";
    /// Whether viewers may listen to the desktop's sound.
    pub const AUDIO_OUTPUT: &str = "audio-output";
    /// Directions in which viewers share their clipboard with the desktop.
    pub const CLIPBOARD: &str = "clipboard";
    /// Origins of other sites whose pages may open a WebSocket.
    pub const ALLOWED_ORIGINS: &str = "allowed-origins";
    /// Capture source.
    pub const SOURCE: &str = "source";
    /// Maximum frame rate.
    pub const MAX_FPS: &str = "max-fps";
    /// Bit rate, kbit/s.
    pub const BITRATE_KBPS: &str = "bitrate-kbps";
    /// Maximum time between keyframes, ms.
    pub const KEYFRAME_MS: &str = "keyframe-ms";
    /// Directory shared with the desktop.
    pub const RUNTIME_DIR: &str = "runtime-dir";
    /// Whether the desktop has the size of the viewer's window.
    pub const SIZE: &str = "size";
    /// Size of the test pattern, and first size of a monitor that the sidecar makes.
    pub const INITIAL_SIZE: &str = "initial-size";
    /// Required frame path: `any` or `zero-copy`.
    pub const REQUIRE: &str = "require";
    /// The only frame path to use.
    pub const FRAME_PATH: &str = "frame-path";
    /// Endpoint of the host-agent.
    pub const UPSTREAM: &str = "upstream";
    /// File with the endpoint of the host-agent.
    pub const UPSTREAM_FILE: &str = "upstream-file";
    /// File with the token for the host-agent.
    pub const TOKEN_FILE: &str = "token-file";
    /// File with the private key that the token is bound to.
    pub const TLS_KEY_FILE: &str = "tls-key-file";
    /// Accept a plaintext TCP endpoint beyond loopback.
    pub const PLAINTEXT_TCP: &str = "plaintext-tcp";
    /// File with the token of viewers.
    pub const VIEWER_TOKEN_FILE: &str = "viewer-token-file";
    /// File with the token of viewers that may not control the desktop.
    pub const VIEW_ONLY_TOKEN_FILE: &str = "view-only-token-file";
    /// File with the public keys of the operator that reads the status.
    pub const STATUS_KEYS_FILE: &str = "status-keys-file";
    /// Serve viewers without a token.
    pub const INSECURE_NO_VIEWER_AUTH: &str = "insecure-no-viewer-auth";
    /// How the cursor is shown.
    pub const CURSOR: &str = "cursor";
}

/// Environment variables.
pub mod env {
    /// Token for the host-agent.
    pub const TOKEN: &str = "DESKTOPSTREAM_TOKEN";
    /// Path of the Unix socket between tap and host-agent.
    pub const LINK: &str = "DESKTOPSTREAM_LINK";
    /// Name of the VM that the tap runs in.
    pub const VM: &str = "DESKTOPSTREAM_VM";
    /// Log level of the tap.
    pub const TAP_LOG: &str = "DESKTOPSTREAM_TAP_LOG";
    /// Size of a virtual desktop, `WIDTHxHEIGHT`, read by desktop images.
    pub const DESKTOP_SIZE: &str = "DESKTOP_SIZE";
    /// `follow-viewer` if the sidecar makes and resizes the monitor, read by desktop images.
    pub const DESKTOP_SIZE_POLICY: &str = "DESKTOP_SIZE_POLICY";
}

/// Labels and annotations.
pub mod labels {
    /// Label on Kubernetes objects: the stream that the object belongs to.
    pub const STREAM: &str = "desktopstream.dev/stream";
    /// Label on pods and pod templates: inject the sidecar of this stream.
    pub const INJECT: &str = "desktopstream.dev/inject";
    /// Annotation on a stream: a new value wakes it from idleness.
    pub const WAKE: &str = "desktopstream.dev/wake";
    /// Container label on a Docker Engine: attach a sidecar of this stream.
    pub const ATTACH: &str = "desktopstream.dev/attach";
}

/// Names of metrics, complete as they appear in `/metrics`.
pub mod metrics {
    /// Sidecar: frames by result.
    pub const FRAMES_TOTAL: &str = "desktopstream_frames_total";
    /// Sidecar: frame path in use.
    pub const FRAME_PATH: &str = "desktopstream_frame_path";
    /// Sidecar: encoded frames per second.
    pub const FPS: &str = "desktopstream_fps";
    /// Sidecar: connected viewers.
    pub const VIEWERS: &str = "desktopstream_viewers";
    /// Prefix of the host-agent's metrics.
    pub const HOST_AGENT_PREFIX: &str = "desktopstream_host_agent";
    /// Prefix of the operator's metrics.
    pub const OPERATOR_PREFIX: &str = "desktopstream_operator";
}
