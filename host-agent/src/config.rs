//! How host-agent is told what to do: flags, then environment, then a file, then defaults.
//!
//! [`Options`] is what was said, each thing optional; [`Settings`] is what holds, checked. Opens keys,
//! nothing else.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ed25519_dalek::VerifyingKey;
use protocol::endpoint::Endpoint;
use protocol::pixel::MAX_SIDE;
use serde::Deserialize;

use crate::auth::{self, KeyError};
use crate::encoders::Choice;
use crate::listen;

/// Where sidecars find us unless told otherwise.
pub const DEFAULT_LISTEN: &str = "tcp://127.0.0.1:15937";
/// Where `/status` and the rest are unless told otherwise.
pub const DEFAULT_ADMIN: &str = "127.0.0.1:15938";
/// Our name unless told otherwise.
pub const DEFAULT_NAME: &str = "default";

/// What was said, on the command line, in the environment or in a file.
#[derive(Debug, Clone, Default, PartialEq, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Where sidecars connect: tcp://IP:PORT, unix:PATH or vsock://CID:PORT; may be given again
    /// [default: tcp://127.0.0.1:15937]
    #[arg(long, value_name = "URL", env = "HOST_AGENT_LISTEN", value_delimiter = ',')]
    #[serde(deserialize_with = "endpoints")]
    pub listen: Vec<Endpoint>,
    /// Serve the predecessor's protocol there, too, to its GStreamer element `vsockenc`. It knows no tokens
    /// and no rights: whoever connects can have pictures encoded that it sends, and none read from a GPU
    #[arg(long, value_name = "URL", env = "HOST_AGENT_HXFR", value_delimiter = ',')]
    #[serde(deserialize_with = "endpoints")]
    pub hxfr: Vec<Endpoint>,
    /// The Unix socket where taps connect [default: $XDG_RUNTIME_DIR/desktopstream/link.sock, on a Mac
    /// ~/Library/Application Support/desktopstream/link.sock]
    #[arg(long, value_name = "PATH", env = "HOST_AGENT_LINK")]
    pub link: Option<PathBuf>,
    /// Where /healthz, /readyz, /metrics and /status are [default: 127.0.0.1:15938]
    #[arg(long, value_name = "IP:PORT", env = "HOST_AGENT_ADMIN")]
    pub admin: Option<SocketAddr>,
    /// The name that tokens must be made for: the HostAgent's in the cluster [default: default]
    #[arg(long, env = "HOST_AGENT_NAME")]
    pub name: Option<String>,
    /// A key that signs tokens: Ed25519, PEM or base64; may be given again
    #[arg(long, value_name = "FILE", env = "HOST_AGENT_PUBLIC_KEY", value_delimiter = ',')]
    pub public_key: Vec<PathBuf>,
    /// Take sidecars without a token. Only with listeners that this machine alone can reach
    #[arg(long, env = "HOST_AGENT_INSECURE_NO_AUTH")]
    pub insecure_no_auth: bool,
    /// auto, videotoolbox (on a Mac), x264enc, openh264enc, …, or null, which makes no video [default: auto]
    #[arg(long, value_name = "NAME", env = "HOST_AGENT_ENCODER")]
    pub encoder: Option<String>,
    /// How often a still picture is encoded again, per second; 0 is never [default: 10]
    #[arg(long, value_name = "FPS", env = "HOST_AGENT_KEEPALIVE_FPS")]
    pub keepalive_fps: Option<u32>,
    /// Most pixels of a picture [default: 8294400, which is 3840x2160]
    #[arg(long, value_name = "N", env = "HOST_AGENT_MAX_PIXELS")]
    pub max_pixels: Option<u32>,
    /// Most sessions at once [default: 64]
    #[arg(long, value_name = "N", env = "HOST_AGENT_MAX_SESSIONS")]
    pub max_sessions: Option<usize>,
    /// Most taps at once [default: 16]
    #[arg(long, value_name = "N", env = "HOST_AGENT_MAX_TAPS")]
    pub max_taps: Option<usize>,
    /// Most connections at once from one address; all containers of a VM may share one [default: 128]
    #[arg(long, value_name = "N", env = "HOST_AGENT_MAX_CONNECTIONS_PER_PEER")]
    pub max_connections_per_peer: Option<usize>,
    /// Seconds of silence after which a sidecar counts as gone [default: 60]
    #[arg(long, value_name = "S", env = "HOST_AGENT_IDLE_TIMEOUT")]
    pub idle_timeout: Option<u64>,
}

fn endpoints<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Endpoint>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

/// What holds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where sidecars connect.
    pub listen: Vec<Endpoint>,
    /// Where the predecessor's elements connect.
    pub hxfr: Vec<Endpoint>,
    /// Where taps connect.
    pub link: PathBuf,
    /// Where HTTP is.
    pub admin: SocketAddr,
    /// What tokens must be made for.
    pub name: String,
    /// Keys that sign tokens; `None` takes anyone.
    pub keys: Option<Vec<VerifyingKey>>,
    /// Which encoder.
    pub encoder: Choice,
    /// How often a still picture is encoded again, per second.
    pub keepalive_fps: u32,
    /// Most pixels of a picture.
    pub max_pixels: u32,
    /// Most sessions.
    pub max_sessions: usize,
    /// Most taps.
    pub max_taps: usize,
    /// Most connections from one address.
    pub max_connections_per_peer: usize,
    /// A sidecar that says nothing for so long is gone.
    pub idle: Duration,
}

/// Why what was said can't hold.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("can't read {}: {cause}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The file makes no sense.
    #[error("{}: {cause}; its keys are the flags' names without dashes in front", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        cause: Box<toml::de::Error>,
    },
    /// Nobody could connect.
    #[error(
        "no key to check tokens with; give --public-key FILE (make one with `host-agent keygen`), or --insecure-no-auth on a machine of your own"
    )]
    NoKeys,
    /// Anybody could connect.
    #[error(
        "--insecure-no-auth with {0}, which other machines or VMs can reach; listen on tcp://127.0.0.1 or unix:, or give --public-key"
    )]
    OpenToOthers(Endpoint),
    /// Two things that exclude each other.
    #[error("--insecure-no-auth and --public-key exclude each other; give one")]
    KeysAndOpen,
    /// A key is no good.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// An encoder's name is no good.
    #[error(transparent)]
    Encoder(#[from] encode::EncodeError),
    /// A number is out of range.
    #[error("{flag} is {got}; it must be {min} to {max}")]
    Range {
        /// Which.
        flag: &'static str,
        /// What was said.
        got: u64,
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
}

fn in_range(flag: &'static str, got: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if (min..=max).contains(&got) { Ok(()) } else { Err(ConfigError::Range { flag, got, min, max }) }
}

impl Options {
    /// Reads a file (TOML).
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|cause| ConfigError::Read { path: path.to_owned(), cause })?;
        toml::from_str(&text)
            .map_err(|cause| ConfigError::Parse { path: path.to_owned(), cause: Box::new(cause) })
    }

    /// What `self` says, and where it says nothing, what `other` says.
    pub fn or(self, other: Self) -> Self {
        let Self {
            listen,
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
            max_connections_per_peer,
            idle_timeout,
        } = self;
        let any_auth = !public_key.is_empty() || insecure_no_auth;
        let auth = if any_auth {
            (public_key, insecure_no_auth)
        } else {
            (other.public_key, other.insecure_no_auth)
        };
        Self {
            listen: if listen.is_empty() { other.listen } else { listen },
            hxfr: if hxfr.is_empty() { other.hxfr } else { hxfr },
            link: link.or(other.link),
            admin: admin.or(other.admin),
            name: name.or(other.name),
            public_key: auth.0,
            insecure_no_auth: auth.1,
            encoder: encoder.or(other.encoder),
            keepalive_fps: keepalive_fps.or(other.keepalive_fps),
            max_pixels: max_pixels.or(other.max_pixels),
            max_sessions: max_sessions.or(other.max_sessions),
            max_taps: max_taps.or(other.max_taps),
            max_connections_per_peer: max_connections_per_peer.or(other.max_connections_per_peer),
            idle_timeout: idle_timeout.or(other.idle_timeout),
        }
    }

    /// Where sidecars connect, as said or by default.
    pub fn listeners(&self) -> Vec<Endpoint> {
        if self.listen.is_empty() {
            DEFAULT_LISTEN.parse().into_iter().collect()
        } else {
            self.listen.clone()
        }
    }

    /// Where taps connect, as said or by default.
    pub fn link_path(&self) -> PathBuf {
        self.link.clone().unwrap_or_else(default_link)
    }

    /// Where HTTP is, as said or by default.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 15938)))
    }

    /// Checks all of it, fills in the defaults and reads the keys.
    pub fn settle(self) -> Result<Settings, ConfigError> {
        let listen = self.listeners();
        let keys = match (self.public_key.is_empty(), self.insecure_no_auth) {
            (true, false) => return Err(ConfigError::NoKeys),
            (false, true) => return Err(ConfigError::KeysAndOpen),
            (false, false) => Some(
                self.public_key.iter().map(|path| auth::read_public_key(path)).collect::<Result<_, _>>()?,
            ),
            (true, true) => match listen.iter().find(|endpoint| !listen::is_local(endpoint)) {
                Some(open) => return Err(ConfigError::OpenToOthers(open.clone())),
                None => None,
            },
        };
        let settings = Settings {
            link: self.link_path(),
            admin: self.admin_address(),
            listen,
            hxfr: self.hxfr,
            name: self.name.unwrap_or_else(|| DEFAULT_NAME.to_owned()),
            keys,
            encoder: self.encoder.as_deref().unwrap_or("auto").parse()?,
            keepalive_fps: self.keepalive_fps.unwrap_or(10),
            max_pixels: self.max_pixels.unwrap_or(3840 * 2160),
            max_sessions: self.max_sessions.unwrap_or(64),
            max_taps: self.max_taps.unwrap_or(16),
            max_connections_per_peer: self.max_connections_per_peer.unwrap_or(128),
            idle: Duration::from_secs(self.idle_timeout.unwrap_or(60)),
        };
        in_range("--keepalive-fps", settings.keepalive_fps.into(), 0, 240)?;
        in_range("--max-pixels", settings.max_pixels.into(), 1, u64::from(MAX_SIDE) * u64::from(MAX_SIDE))?;
        in_range("--max-sessions", settings.max_sessions as u64, 1, 10_000)?;
        in_range("--max-taps", settings.max_taps as u64, 1, 10_000)?;
        in_range("--max-connections-per-peer", settings.max_connections_per_peer as u64, 1, 100_000)?;
        in_range("--idle-timeout", settings.idle.as_secs(), 1, 24 * 3600)?;
        Ok(settings)
    }
}

/// In the user's runtime folder, which nobody else can enter; without one in a folder named for the user.
fn default_link() -> PathBuf {
    let folder = std::env::var_os("XDG_RUNTIME_DIR")
        .filter(|folder| !folder.is_empty())
        .map_or_else(crate::sys::default_folder, |folder| PathBuf::from(folder).join("desktopstream"));
    folder.join("link.sock")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Options {
        Options { insecure_no_auth: true, ..Options::default() }
    }

    #[test]
    fn defaults_are_on_loopback_and_ask_for_keys() {
        assert!(matches!(Options::default().settle(), Err(ConfigError::NoKeys)));
        let settings = open().settle().expect("holds");
        assert_eq!(settings.listen[0].to_string(), DEFAULT_LISTEN);
        assert_eq!(settings.admin.to_string(), DEFAULT_ADMIN);
        assert!(settings.link.ends_with("link.sock"));
    }

    #[test]
    fn an_open_gate_needs_local_listeners() {
        for text in ["tcp://0.0.0.0:1", "vsock://any:1"] {
            let listen = vec![text.parse().expect(text)];
            assert!(
                matches!(Options { listen, ..open() }.settle(), Err(ConfigError::OpenToOthers(_))),
                "{text}"
            );
        }
        let both = Options { public_key: vec!["/x".into()], ..open() };
        assert!(matches!(both.settle(), Err(ConfigError::KeysAndOpen)));
    }

    #[test]
    fn a_file_says_what_flags_do_not() {
        let file: Options = toml::from_str(
            "listen = ['tcp://127.0.0.1:1', 'unix:/x']\nname = 'mac'\ninsecure-no-auth = true\nkeepalive-fps = 5\n",
        )
        .expect("parses");
        let flags = Options { name: Some("other".to_owned()), ..Options::default() };
        let settings = flags.or(file).settle().expect("holds");
        assert_eq!((settings.name.as_str(), settings.keepalive_fps, settings.listen.len()), ("other", 5, 2));
        let keys = Options { public_key: vec!["/flag".into()], ..Options::default() };
        assert!(!keys.or(open()).insecure_no_auth, "a key on the command line closes a file's open gate");
        assert!(toml::from_str::<Options>("lisen = []").is_err(), "a typo is an error");
    }

    #[test]
    fn numbers_are_held_to_their_ranges() {
        for options in [
            Options { max_pixels: Some(0), ..open() },
            Options { max_pixels: Some(u32::MAX), ..open() },
            Options { keepalive_fps: Some(1000), ..open() },
            Options { max_sessions: Some(0), ..open() },
            Options { idle_timeout: Some(0), ..open() },
        ] {
            assert!(matches!(options.settle(), Err(ConfigError::Range { .. })));
        }
        let named = Options { encoder: Some("x265".to_owned()), ..open() };
        assert!(matches!(named.settle(), Err(ConfigError::Encoder(_))));
    }
}
