//! Configuration of the daemon: flags, then environment variables, then a TOML file, then defaults.
//!
//! [`Options`] has what was given, every field optional. [`Settings`] has the values in effect, checked,
//! with the keys read from their files.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use contract::Endpoint;
use contract::names::{HOST_AGENT_PORT, TLS_KEY_FILE};
use ed25519_dalek::VerifyingKey;
use host_agent_setup::service::default_config;
use protocol::pixel::MAX_SIDE;
use serde::Deserialize;

use crate::encoders::Choice;
use crate::keys::{KeyFileError, read_public_keys};
use crate::listen::{Reach, reach};

/// Default name of the host-agent.
pub const DEFAULT_NAME: &str = "default";

/// Options as given on the command line, in the environment or in a file.
#[derive(Debug, Clone, Default, PartialEq, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Endpoint for sidecars: tls://IP:PORT, unix:PATH, vsock://CID:PORT or, in plaintext, tcp://IP:PORT; may be
    /// repeated [default: tls://127.0.0.1:15937]
    #[arg(long, value_name = "URL", env = "HOST_AGENT_LISTEN", value_delimiter = ',')]
    pub listen: Vec<Endpoint>,
    /// Private key of tls:// endpoints: Ed25519, PEM; made at the first start. Sidecars pin its fingerprint, which
    /// `host-agent fingerprint` prints [default: tls.key in the user's configuration folder]
    #[arg(long, value_name = "FILE", env = "HOST_AGENT_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// Allow tcp:// endpoints beyond loopback. Everything on the way can read and change video, tokens and nonces
    #[arg(long, env = "HOST_AGENT_PLAINTEXT_TCP")]
    pub plaintext_tcp: bool,
    /// Endpoint for the HXFR protocol of the GStreamer element `vsockenc`; may be repeated. HXFR has no
    /// authentication: every peer can have the frames encoded that it sends; none can read GPU resources
    #[arg(long, value_name = "URL", env = "HOST_AGENT_HXFR", value_delimiter = ',')]
    pub hxfr: Vec<Endpoint>,
    /// Unix socket for taps [default: $XDG_RUNTIME_DIR/desktopstream/link.sock, on macOS
    /// ~/Library/Application Support/desktopstream/link.sock]
    #[arg(long, value_name = "PATH", env = "HOST_AGENT_LINK")]
    pub link: Option<PathBuf>,
    /// Endpoint of /healthz, /readyz, /metrics and /status, which name all streams: unix:PATH or tcp://IP:PORT.
    /// Every process and VM that reaches a TCP address can read them; VMs with QEMU's user network reach loopback
    /// [default: admin.sock beside the link]
    #[arg(long, value_name = "URL", env = "HOST_AGENT_ADMIN")]
    pub admin: Option<Endpoint>,
    /// Audience that tokens must have: the name of the HostAgent in the cluster [default: default]
    #[arg(long, env = "HOST_AGENT_NAME")]
    pub name: Option<String>,
    /// Public key that tokens must be signed with: Ed25519, PEM or base64; may be repeated
    #[arg(long, value_name = "FILE", env = "HOST_AGENT_PUBLIC_KEY", value_delimiter = ',')]
    pub public_key: Vec<PathBuf>,
    /// Accept sidecars without a token, for development. Only with unix: listeners: VMs with QEMU's user network
    /// and other users of this machine reach loopback
    #[arg(long, env = "HOST_AGENT_INSECURE_NO_AUTH")]
    pub insecure_no_auth: bool,
    /// Encoder: auto, videotoolbox (macOS), x264enc, openh264enc, …, or null, which produces no video
    /// [default: auto]
    #[arg(long, value_name = "NAME", env = "HOST_AGENT_ENCODER")]
    pub encoder: Option<String>,
    /// Rate at which an unchanged frame is encoded again, frames per second; must be between 0 (never) and
    /// 240 [default: 10]
    #[arg(long, value_name = "FPS", env = "HOST_AGENT_KEEPALIVE_FPS")]
    pub keepalive_fps: Option<u32>,
    /// Maximum size of a frame in pixels [default: 8294400, which is 3840x2160]
    #[arg(long, value_name = "N", env = "HOST_AGENT_MAX_PIXELS")]
    pub max_pixels: Option<u32>,
    /// Maximum number of sessions; must be between 1 and 10000 [default: 64]
    #[arg(long, value_name = "N", env = "HOST_AGENT_MAX_SESSIONS")]
    pub max_sessions: Option<usize>,
    /// Maximum number of taps; must be between 1 and 10000 [default: 16]
    #[arg(long, value_name = "N", env = "HOST_AGENT_MAX_TAPS")]
    pub max_taps: Option<usize>,
    /// Maximum number of connections from one address, which all containers of a VM may share, that wait for a
    /// valid token; a newer connection closes the oldest. Must be between 1 and 1000 [default: 32]
    #[arg(long, value_name = "N", env = "HOST_AGENT_MAX_PENDING_PER_PEER")]
    pub max_pending_per_peer: Option<usize>,
    /// Time without a message after which a sidecar's session ends, seconds; must be between 1 and 86400
    /// [default: 60]
    #[arg(long, value_name = "S", env = "HOST_AGENT_IDLE_TIMEOUT_SECONDS")]
    pub idle_timeout_seconds: Option<u64>,
}

/// The configuration in effect.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Endpoints for sidecars.
    pub listen: Vec<Endpoint>,
    /// Endpoints for the HXFR protocol.
    pub hxfr: Vec<Endpoint>,
    /// Private key of TLS listeners.
    pub tls_key: PathBuf,
    /// Path of the socket for taps.
    pub link: PathBuf,
    /// Endpoint of the admin server: Unix or TCP.
    pub admin: Endpoint,
    /// Audience that tokens must have.
    pub name: String,
    /// Keys that tokens must be signed with; `None` disables authentication.
    pub keys: Option<Vec<VerifyingKey>>,
    /// Encoder of all sessions.
    pub encoder: Choice,
    /// Rate at which an unchanged frame is encoded again, frames per second; 0 for never.
    pub keepalive_fps: u32,
    /// Maximum size of a frame in pixels.
    pub max_pixels: u32,
    /// Maximum number of sessions.
    pub max_sessions: usize,
    /// Maximum number of taps.
    pub max_taps: usize,
    /// Maximum number of connections from one address without a verified token.
    pub max_pending_per_peer: usize,
    /// Time without a message after which a session ends.
    pub idle_timeout: Duration,
}

/// Reason why options are not valid.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        cause: std::io::Error,
    },
    /// The file is not valid TOML, or has an unknown key.
    #[error("{}: {cause}; use the flags' names without leading dashes as keys", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        cause: Box<toml::de::Error>,
    },
    /// There is neither a key nor --insecure-no-auth.
    #[error(
        "no public key to verify tokens with; give --public-key FILE (make one with `host-agent keygen`), or \
         --insecure-no-auth on a development machine"
    )]
    NoKeys,
    /// A listener without authentication is reachable by others than this user.
    #[error(
        "--insecure-no-auth with {0}, which VMs or other users can reach (the address 10.0.2.2 of a VM with QEMU's \
         user network is this machine's loopback); give --listen unix:PATH, or --public-key"
    )]
    InsecureListener(Endpoint),
    /// A listener sends video and receives tokens in plaintext over a network.
    #[error(
        "{0} is plaintext: everything on the way reads video, tokens and nonces; give --listen tls://IP:PORT, or \
         --plaintext-tcp if that is acceptable"
    )]
    PlaintextListener(Endpoint),
    /// A listener has the fingerprint of an endpoint for sidecars.
    #[error("{0} has a fingerprint, which --tls-key determines; give --listen tls://IP:PORT")]
    ListenerFingerprint(Endpoint),
    /// The admin server cannot listen on vsock or with TLS.
    #[error("--admin is {0}; it must be unix:PATH or tcp://IP:PORT")]
    Admin(Endpoint),
    /// Both a key and --insecure-no-auth were given.
    #[error("--insecure-no-auth and --public-key exclude each other; give one of them")]
    KeysAndInsecure,
    /// A key file is not valid.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The encoder is unknown.
    #[error(transparent)]
    Encoder(#[from] encode::EncodeError),
    /// A number is out of range.
    #[error("{flag} is {value}; it must be between {min} and {max}")]
    Range {
        /// The flag.
        flag: &'static str,
        /// The value given.
        value: u64,
        /// Least valid value.
        min: u64,
        /// Greatest valid value.
        max: u64,
    },
}

fn check_range(flag: &'static str, value: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(ConfigError::Range { flag, value, min, max }) }
}

impl Options {
    /// Reads options from a TOML file.
    ///
    /// # Errors
    /// The file cannot be read or parsed.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|cause| ConfigError::Read { path: path.to_owned(), cause })?;
        toml::from_str(&text)
            .map_err(|cause| ConfigError::Parse { path: path.to_owned(), cause: Box::new(cause) })
    }

    /// Merges two sets of options; `self` takes precedence. Authentication is taken whole from one of them:
    /// a key on the command line overrides --insecure-no-auth in a file.
    pub fn or(self, other: Self) -> Self {
        let Self {
            listen,
            tls_key,
            plaintext_tcp,
            hxfr,
            link,
            admin,
            name,
            public_key,
            insecure_no_auth,
            encoder,
            keepalive_fps,
            max_pixels,
            max_sessions,
            max_taps,
            max_pending_per_peer,
            idle_timeout_seconds,
        } = self;
        let has_auth = !public_key.is_empty() || insecure_no_auth;
        let (public_key, insecure_no_auth) = if has_auth {
            (public_key, insecure_no_auth)
        } else {
            (other.public_key, other.insecure_no_auth)
        };
        Self {
            listen: if listen.is_empty() { other.listen } else { listen },
            tls_key: tls_key.or(other.tls_key),
            plaintext_tcp: plaintext_tcp || other.plaintext_tcp,
            hxfr: if hxfr.is_empty() { other.hxfr } else { hxfr },
            link: link.or(other.link),
            admin: admin.or(other.admin),
            name: name.or(other.name),
            public_key,
            insecure_no_auth,
            encoder: encoder.or(other.encoder),
            keepalive_fps: keepalive_fps.or(other.keepalive_fps),
            max_pixels: max_pixels.or(other.max_pixels),
            max_sessions: max_sessions.or(other.max_sessions),
            max_taps: max_taps.or(other.max_taps),
            max_pending_per_peer: max_pending_per_peer.or(other.max_pending_per_peer),
            idle_timeout_seconds: idle_timeout_seconds.or(other.idle_timeout_seconds),
        }
    }

    /// Endpoints for sidecars, or the default one.
    pub fn listeners(&self) -> Vec<Endpoint> {
        if self.listen.is_empty() {
            let host = Ipv4Addr::LOCALHOST.to_string();
            vec![Endpoint::Tls { host, port: HOST_AGENT_PORT, fingerprint: None }]
        } else {
            self.listen.clone()
        }
    }

    /// Path of the socket for taps, or the default one.
    pub fn link_path(&self) -> PathBuf {
        self.link.clone().unwrap_or_else(default_link)
    }

    /// Path of the private key of TLS listeners, or the default one.
    pub fn tls_key_path(&self) -> PathBuf {
        let default = || {
            // Without a home folder: beside the link.
            let beside = default_config().unwrap_or_else(|_| self.link_path());
            beside.with_file_name(TLS_KEY_FILE)
        };
        self.tls_key.clone().unwrap_or_else(default)
    }

    /// Endpoint of the admin server, or the default one: a socket beside the link's.
    pub fn admin_endpoint(&self) -> Endpoint {
        let default = || Endpoint::Unix(self.link_path().with_file_name("admin.sock"));
        self.admin.clone().unwrap_or_else(default)
    }

    /// The first listener that --insecure-no-auth does not allow, if any.
    pub fn insecure_listener(&self) -> Option<Endpoint> {
        let exposed = |endpoint: &Endpoint| reach(endpoint) != Reach::ThisUser;
        self.listeners().into_iter().find(exposed).filter(|_| self.insecure_no_auth)
    }

    /// Checks the options, applies defaults and reads the keys.
    ///
    /// # Errors
    /// An option is not valid, or a key cannot be read.
    pub fn resolve(self) -> Result<Settings, ConfigError> {
        let listen = self.listeners();
        let keys = match (self.public_key.is_empty(), self.insecure_no_auth) {
            (true, false) => return Err(ConfigError::NoKeys),
            (false, true) => return Err(ConfigError::KeysAndInsecure),
            (false, false) => {
                let files = self.public_key.iter().map(|path| read_public_keys(path));
                Some(files.collect::<Result<Vec<_>, _>>()?.concat())
            }
            (true, true) => match self.insecure_listener() {
                Some(exposed) => return Err(ConfigError::InsecureListener(exposed)),
                None => None,
            },
        };
        for endpoint in listen.iter().chain(&self.hxfr) {
            if endpoint.is_exposed_plaintext() && !self.plaintext_tcp {
                return Err(ConfigError::PlaintextListener(endpoint.clone()));
            }
            if matches!(endpoint, Endpoint::Tls { fingerprint: Some(_), .. }) {
                return Err(ConfigError::ListenerFingerprint(endpoint.clone()));
            }
        }
        let admin = self.admin_endpoint();
        if matches!(admin, Endpoint::Vsock { .. } | Endpoint::Tls { .. }) {
            return Err(ConfigError::Admin(admin));
        }
        let settings = Settings {
            tls_key: self.tls_key_path(),
            link: self.link_path(),
            admin,
            listen,
            hxfr: self.hxfr,
            name: self.name.unwrap_or_else(|| DEFAULT_NAME.to_owned()),
            keys,
            encoder: self.encoder.as_deref().unwrap_or("auto").parse()?,
            keepalive_fps: self.keepalive_fps.unwrap_or(10),
            max_pixels: self.max_pixels.unwrap_or(3840 * 2160),
            max_sessions: self.max_sessions.unwrap_or(64),
            max_taps: self.max_taps.unwrap_or(16),
            max_pending_per_peer: self.max_pending_per_peer.unwrap_or(32),
            idle_timeout: Duration::from_secs(self.idle_timeout_seconds.unwrap_or(60)),
        };
        settings.check_ranges()?;
        Ok(settings)
    }
}

impl Settings {
    fn check_ranges(&self) -> Result<(), ConfigError> {
        let max_pixels = u64::from(MAX_SIDE) * u64::from(MAX_SIDE);
        check_range("--keepalive-fps", self.keepalive_fps.into(), 0, 240)?;
        check_range("--max-pixels", self.max_pixels.into(), 1, max_pixels)?;
        check_range("--max-sessions", self.max_sessions as u64, 1, 10_000)?;
        check_range("--max-taps", self.max_taps as u64, 1, 10_000)?;
        check_range("--max-pending-per-peer", self.max_pending_per_peer as u64, 1, 1000)?;
        check_range("--idle-timeout-seconds", self.idle_timeout.as_secs(), 1, 24 * 3600)
    }
}

/// The link's default path: in the user's runtime folder, which other users cannot enter; if there is none,
/// in a folder that the daemon creates with mode 0700.
fn default_link() -> PathBuf {
    let folder = std::env::var_os("XDG_RUNTIME_DIR")
        .filter(|folder| !folder.is_empty())
        .map_or_else(crate::sys::default_folder, |folder| PathBuf::from(folder).join("desktopstream"));
    folder.join("link.sock")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insecure() -> Options {
        let listen = vec![Endpoint::Unix("/x".into())];
        Options { insecure_no_auth: true, listen, ..Options::default() }
    }

    #[test]
    fn options_without_authentication_are_refused() {
        assert!(matches!(Options::default().resolve(), Err(ConfigError::NoKeys)));
        let both = Options { public_key: vec!["/x".into()], ..insecure() };
        assert!(matches!(both.resolve(), Err(ConfigError::KeysAndInsecure)));
    }

    #[test]
    fn default_listener_is_on_loopback() {
        let listen: Vec<_> = Options::default().listeners().iter().map(ToString::to_string).collect();
        assert_eq!(listen, ["tls://127.0.0.1:15937"]);
    }

    #[test]
    fn default_admin_endpoint_is_a_unix_socket_beside_the_link() {
        let options = Options { link: Some("/run/x/link.sock".into()), ..insecure() };
        assert_eq!(options.resolve().expect("valid").admin.to_string(), "unix:/run/x/admin.sock");
        let settings = insecure().resolve().expect("valid");
        assert_eq!(settings.admin, Endpoint::Unix(settings.link.with_file_name("admin.sock")));
    }

    #[test]
    fn admin_endpoint_on_vsock_or_with_tls_is_refused() {
        for text in ["vsock://any:1", "tls://127.0.0.1:1"] {
            let admin = Some(text.parse().expect("an endpoint"));
            assert!(
                matches!(Options { admin, ..insecure() }.resolve(), Err(ConfigError::Admin(_))),
                "{text}"
            );
        }
    }

    /// A key of `folder`, and this listener.
    fn listening(folder: &Path, text: &str) -> Options {
        let path = folder.join("key");
        let public = folder.join("key.pub");
        let public_key =
            if public.exists() { public } else { crate::keys::generate_key_pair(&path).expect("generated") };
        let listen = vec![text.parse().expect(text)];
        Options { listen, public_key: vec![public_key], ..Options::default() }
    }

    #[test]
    fn plaintext_listener_beyond_loopback_needs_its_option() {
        let folder = tempfile::tempdir().expect("temporary folder");
        for text in ["tcp://0.0.0.0:1", "tcp://10.0.0.1:1", "tcp://[::]:1"] {
            let options = listening(folder.path(), text);
            let error = options.clone().resolve().expect_err("plaintext").to_string();
            assert!(error.contains("tls://") && error.contains("--plaintext-tcp"), "{error}");
            Options { plaintext_tcp: true, ..options.clone() }.resolve().expect("allowed by name");
            let hxfr = Options { hxfr: options.listen, listen: vec![], ..options };
            assert!(matches!(hxfr.resolve(), Err(ConfigError::PlaintextListener(_))), "{text}");
        }
        for text in ["tls://0.0.0.0:1", "tcp://127.0.0.1:1", "vsock://any:1", "unix:/x"] {
            listening(folder.path(), text).resolve().expect(text);
        }
    }

    #[test]
    fn listener_with_a_fingerprint_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let text = format!("tls://0.0.0.0:1#sha256={}", "0".repeat(64));
        let resolved = listening(folder.path(), &text).resolve();
        assert!(matches!(resolved, Err(ConfigError::ListenerFingerprint(_))));
    }

    /// Guests with QEMU's user network reach loopback at 10.0.2.2.
    #[test]
    fn insecure_listener_that_guests_can_reach_is_refused() {
        for text in
            ["tls://127.0.0.1:1", "tcp://[::1]:1", "tcp://localhost:1", "tls://0.0.0.0:1", "vsock://any:1"]
        {
            let listen = vec!["unix:/x".parse().expect("an endpoint"), text.parse().expect(text)];
            let resolved = Options { listen, ..insecure() }.resolve();
            assert!(matches!(resolved, Err(ConfigError::InsecureListener(_))), "{text}");
        }
        let default = Options { listen: vec![], ..insecure() }.resolve();
        assert!(matches!(default, Err(ConfigError::InsecureListener(_))), "the default listener");
    }

    #[test]
    fn flags_override_the_file() {
        let file: Options = toml::from_str(
            "listen = ['unix:/y', 'unix:/x']\nname = 'mac'\ninsecure-no-auth = true\nkeepalive-fps = 5\n",
        )
        .expect("parsed");
        let flags = Options { name: Some("other".to_owned()), ..Options::default() };
        let settings = flags.or(file).resolve().expect("valid");
        assert_eq!((settings.name.as_str(), settings.keepalive_fps, settings.listen.len()), ("other", 5, 2));
    }

    #[test]
    fn key_on_the_command_line_overrides_insecure_in_the_file() {
        let keys = Options { public_key: vec!["/flag".into()], ..Options::default() };
        assert!(!keys.or(insecure()).insecure_no_auth);
    }

    #[test]
    fn unknown_key_in_the_file_is_refused() {
        assert!(toml::from_str::<Options>("lisen = []").is_err());
    }

    #[test]
    fn number_out_of_range_is_refused() {
        for options in [
            Options { max_pixels: Some(0), ..insecure() },
            Options { max_pixels: Some(u32::MAX), ..insecure() },
            Options { keepalive_fps: Some(1000), ..insecure() },
            Options { max_sessions: Some(0), ..insecure() },
            Options { idle_timeout_seconds: Some(0), ..insecure() },
        ] {
            let error = options.resolve().expect_err("out of range");
            assert!(error.to_string().contains("must be between"), "{error}");
        }
    }

    #[test]
    fn unknown_encoder_is_refused() {
        let options = Options { encoder: Some("x265".to_owned()), ..insecure() };
        assert!(matches!(options.resolve(), Err(ConfigError::Encoder(_))));
    }
}
