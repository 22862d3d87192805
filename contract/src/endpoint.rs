//! Address of a stream connection: `tcp://HOST:PORT`, `unix:/PATH` or `vsock://CID:PORT`.
//!
//! The vsock CID accepts the names `any` (`VMADDR_CID_ANY`) and `host` (`VMADDR_CID_HOST`, 2). Different spellings of
//! one endpoint parse to equal values, so endpoints are compared after parsing, never as text.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `VMADDR_CID_ANY` of `<linux/vm_sockets.h>`.
pub const CID_ANY: u32 = u32::MAX;
/// `VMADDR_CID_HOST` of `<linux/vm_sockets.h>`.
pub const CID_HOST: u32 = 2;

/// Maximum length of an endpoint in a status or annotation, bytes. A Unix path has at most 107.
pub const MAX_LENGTH: usize = 256;

/// Transport protocol of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP socket.
    Tcp,
    /// Unix stream socket.
    Unix,
    /// `AF_VSOCK` stream socket.
    Vsock,
}

/// Address of a listener or a peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// TCP host and port.
    Tcp {
        /// Host name or IP address; IPv6 without brackets.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// Path of a Unix stream socket.
    Unix(PathBuf),
    /// vsock context ID and port (`<linux/vm_sockets.h>`).
    Vsock {
        /// Context ID.
        cid: u32,
        /// vsock port.
        port: u32,
    },
}

/// A text that is not an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid endpoint {0:?}: write tcp://HOST:PORT, unix:/PATH or vsock://CID:PORT")]
pub struct EndpointError(String);

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| EndpointError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Endpoint> {
    if let Some(rest) = text.strip_prefix("tcp://") {
        let (host, port) = rest.rsplit_once(':')?;
        let host = match host.strip_prefix('[') {
            Some(v6) => v6.strip_suffix(']').filter(|v6| is_v6(v6))?,
            None => Some(host).filter(|host| is_name(host))?,
        };
        return Some(Endpoint::Tcp { host: host.to_owned(), port: port.parse().ok()? });
    }
    if let Some(rest) = text.strip_prefix("vsock://") {
        let (cid, port) = rest.split_once(':')?;
        let cid = match cid {
            "any" => CID_ANY,
            "host" => CID_HOST,
            number => number.parse().ok()?,
        };
        return Some(Endpoint::Vsock { cid, port: port.parse().ok()? });
    }
    // `unix:/a`, `unix:///a` and `unix:////a` are one path; it prints as `unix:/a`.
    let path = text.strip_prefix("unix:")?;
    let inside = path.strip_prefix("//").unwrap_or(path).strip_prefix('/')?.trim_start_matches('/');
    (!inside.contains('\0')).then(|| Endpoint::Unix(format!("/{inside}").into()))
}

/// True for a syntactically possible host name or IPv4 address. Resolution may still fail.
fn is_name(host: &str) -> bool {
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || "[]:/?#@%".contains(c);
    !host.is_empty() && !host.contains(forbidden)
}

/// True for an IPv6 address with an optional zone.
fn is_v6(host: &str) -> bool {
    let (address, zone) = host.split_once('%').unwrap_or((host, "0"));
    address.parse::<Ipv6Addr>().is_ok() && is_name(zone)
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Vsock { cid: CID_ANY, port } => write!(f, "vsock://any:{port}"),
            Self::Vsock { cid, port } => write!(f, "vsock://{cid}:{port}"),
        }
    }
}

impl Endpoint {
    /// Transport protocol.
    pub const fn transport(&self) -> Transport {
        match self {
            Self::Tcp { .. } => Transport::Tcp,
            Self::Unix(_) => Transport::Unix,
            Self::Vsock { .. } => Transport::Vsock,
        }
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_endpoint_parses_to_itself() {
        for text in [
            "tcp://10.0.2.2:15937",
            "tcp://[::1]:1",
            "tcp://host.name:65535",
            "unix:/run/x.sock",
            "vsock://any:5000",
            "vsock://2:5000",
        ] {
            let endpoint: Endpoint = text.parse().expect(text);
            assert_eq!(endpoint.to_string(), text);
        }
        assert_eq!("vsock://host:1".parse(), Ok(Endpoint::Vsock { cid: 2, port: 1 }));
        assert_eq!("unix:///a".parse(), Ok(Endpoint::Unix("/a".into())));
        assert_eq!("unix:////a".parse(), Ok(Endpoint::Unix("/a".into())));
        assert_eq!(
            "tcp://[fe80::1%eth0]:1".parse::<Endpoint>().map(|it| it.to_string()).as_deref(),
            Ok("tcp://[fe80::1%eth0]:1")
        );
    }

    #[test]
    fn malformed_endpoint_error_names_the_grammar() {
        for text in [
            "",
            "10.0.2.2:1",
            "tcp://x",
            "tcp://:1",
            "tcp://::1:2",
            "tcp://a:99999",
            "unix:relative",
            "unix://host/path",
            "unix:/a\0b",
            "vsock://1",
            "vsock://x:1",
            "tcp://[[::1]:1",
            "tcp://[name]:1",
            "tcp://[fe80::1%]:1",
            "tcp://a b:1",
            "tcp://a]b:1",
            "tcp://user@a:1",
            "tcp://a/b:1",
        ] {
            let error = text.parse::<Endpoint>().expect_err(text);
            assert!(error.to_string().contains("tcp://HOST:PORT"), "{error}");
        }
    }
}
