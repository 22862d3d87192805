//! Where host-agent listens, as people write it: `tcp://127.0.0.1:15937`, `unix:/run/x.sock`,
//! `vsock://any:5000`. Parses and prints; opens nothing.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// A place to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// An IP address and port; port 0 means any free one.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
    /// A vsock port; `None` is every context ID of this machine.
    Vsock {
        /// Context ID.
        cid: Option<u32>,
        /// Port.
        port: u32,
    },
}

/// Why a text names no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no address to listen on ({why}); write tcp://127.0.0.1:15937, unix:/path or vsock://any:5000"
)]
pub struct EndpointError {
    text: String,
    why: &'static str,
}

impl Endpoint {
    /// Whether only processes of this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
            Self::Vsock { .. } => false,
        }
    }

    /// A word for metrics labels.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Unix(_) => "unix",
            Self::Vsock { .. } => "vsock",
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Vsock { cid: None, port } => write!(f, "vsock://any:{port}"),
            Self::Vsock { cid: Some(cid), port } => write!(f, "vsock://{cid}:{port}"),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let fail = |why| EndpointError { text: text.to_owned(), why };
        if let Some(address) = text.strip_prefix("tcp://") {
            let address = address.parse().map_err(|_| fail("not an IP address and a port"))?;
            return Ok(Self::Tcp(address));
        }
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err(fail("the path is not absolute"))
            };
        }
        if let Some(rest) = text.strip_prefix("vsock://") {
            let (cid, port) = rest.split_once(':').ok_or_else(|| fail("the port is missing"))?;
            let port = port.parse().map_err(|_| fail("the port is not a number"))?;
            let cid = match cid {
                "any" => None,
                cid => Some(cid.parse().map_err(|_| fail("the context ID is not `any` or a number"))?),
            };
            return Ok(Self::Vsock { cid, port });
        }
        Err(fail("unknown kind"))
    }
}

impl serde::Serialize for Endpoint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Endpoint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in [
            "tcp://127.0.0.1:15937",
            "tcp://[::1]:1",
            "tcp://0.0.0.0:0",
            "unix:/run/desktopstream/stream.sock",
            "vsock://any:5000",
            "vsock://2:5000",
        ] {
            let endpoint: Endpoint = text.parse().expect(text);
            assert_eq!(endpoint.to_string(), text);
        }
        assert_eq!("unix:///a/b".parse::<Endpoint>(), Ok(Endpoint::Unix("/a/b".into())));
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for text in [
            "",
            "127.0.0.1:1",
            "tcp://host",
            "tcp://localhost:1",
            "unix:relative",
            "vsock://any",
            "vsock://x:1",
            "vsock://any:-1",
            "udp://1.1.1.1:1",
        ] {
            let error = text.parse::<Endpoint>().expect_err(text).to_string();
            assert!(error.contains("tcp://127.0.0.1:15937"), "{error}");
        }
    }

    #[test]
    fn only_loopback_and_unix_are_local() {
        let local = |text: &str| text.parse::<Endpoint>().expect(text).is_local();
        assert!(local("tcp://127.0.0.1:1") && local("tcp://[::1]:1") && local("unix:/x"));
        assert!(!local("tcp://0.0.0.0:1") && !local("tcp://10.0.0.1:1") && !local("vsock://any:1"));
    }
}
