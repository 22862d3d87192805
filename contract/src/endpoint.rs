//! Address of a stream connection: `tls://HOST:PORT#sha256=FINGERPRINT`, `tcp://HOST:PORT`, `unix:/PATH` or
//! `vsock://CID:PORT`.
//!
//! A client needs the fingerprint of a TLS endpoint; a listener has none in its configuration, as its key determines it.
//! `tcp://` is plaintext: everything that forwards its packets can read video, tokens and nonces.
//!
//! The vsock CID accepts the names `any` (`VMADDR_CID_ANY`) and `host` (`VMADDR_CID_HOST`, 2). Different spellings of
//! one endpoint parse to equal values, so endpoints are compared after parsing, never as text.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `VMADDR_CID_ANY` of `<linux/vm_sockets.h>`.
pub const CID_ANY: u32 = u32::MAX;
/// `VMADDR_CID_HOST` of `<linux/vm_sockets.h>`.
pub const CID_HOST: u32 = 2;

/// Maximum length of an endpoint in a status or annotation, bytes: a host name has at most 253, a fingerprint 72.
pub const MAX_LENGTH: usize = 352;
/// Beginning of a TLS endpoint's fragment.
const FRAGMENT: &str = "sha256=";

/// Transport protocol of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP socket, with or without TLS.
    Tcp,
    /// Unix stream socket.
    Unix,
    /// `AF_VSOCK` stream socket.
    Vsock,
}

/// Identity of a host-agent: SHA-256 of the `SubjectPublicKeyInfo` (RFC 5280, 4.1) of its TLS certificate, in DER. Its text is
/// 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// A text that is not a fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a fingerprint: write 64 of 0-9 and a-f, as `host-agent fingerprint` prints them")]
pub struct FingerprintError;

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        // One fingerprint has one spelling, so that texts can be compared.
        if text.bytes().any(|byte| byte.is_ascii_uppercase())
            || hex::decode_to_slice(text, &mut bytes).is_err()
        {
            return Err(FingerprintError);
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// Address of a listener or a peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// TCP host and port, with TLS 1.3 and a pinned key.
    Tls {
        /// Host name or IP address; IPv6 without brackets.
        host: String,
        /// TCP port.
        port: u16,
        /// Identity of the host-agent; `None` for a listener.
        fingerprint: Option<Fingerprint>,
    },
    /// TCP host and port, plaintext.
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
#[error(
    "invalid endpoint {0:?}: write tls://HOST:PORT#sha256=FINGERPRINT, unix:/PATH, vsock://CID:PORT or, for plaintext, tcp://HOST:PORT"
)]
pub struct EndpointError(String);

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| EndpointError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Endpoint> {
    if let Some(rest) = text.strip_prefix("tls://") {
        let (address, fragment) = match rest.split_once('#') {
            Some((address, fragment)) => (address, Some(fragment)),
            None => (rest, None),
        };
        let (host, port) = parse_address(address)?;
        let fingerprint = match fragment {
            Some(fragment) => Some(fragment.strip_prefix(FRAGMENT)?.parse().ok()?),
            None => None,
        };
        return Some(Endpoint::Tls { host, port, fingerprint });
    }
    if let Some(rest) = text.strip_prefix("tcp://") {
        let (host, port) = parse_address(rest)?;
        return Some(Endpoint::Tcp { host, port });
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

/// Host and port of `HOST:PORT` or `[IPV6]:PORT`.
fn parse_address(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').filter(|v6| is_v6(v6))?,
        None => Some(host).filter(|host| is_name(host))?,
    };
    Some((host.to_owned(), port.parse().ok()?))
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
        let address = |f: &mut fmt::Formatter<'_>, scheme: &str, host: &str, port: u16| {
            if host.contains(':') {
                write!(f, "{scheme}://[{host}]:{port}")
            } else {
                write!(f, "{scheme}://{host}:{port}")
            }
        };
        match self {
            Self::Tls { host, port, fingerprint } => {
                address(f, "tls", host, *port)?;
                fingerprint.map_or(Ok(()), |fingerprint| write!(f, "#{FRAGMENT}{fingerprint}"))
            }
            Self::Tcp { host, port } => address(f, "tcp", host, *port),
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
            Self::Tls { .. } | Self::Tcp { .. } => Transport::Tcp,
            Self::Unix(_) => Transport::Unix,
            Self::Vsock { .. } => Transport::Vsock,
        }
    }

    /// Host and port of a TCP endpoint, with or without TLS.
    pub fn tcp_address(&self) -> Option<(&str, u16)> {
        match self {
            Self::Tls { host, port, .. } | Self::Tcp { host, port } => Some((host, *port)),
            Self::Unix(_) | Self::Vsock { .. } => None,
        }
    }

    /// True for a TCP endpoint on loopback. Of host names only `localhost` is guaranteed to resolve to it (RFC 6761).
    pub fn is_loopback(&self) -> bool {
        self.tcp_address().is_some_and(|(host, _)| {
            host == "localhost"
                || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
        })
    }

    /// True for a TCP endpoint without TLS that other machines can be on the way to.
    pub fn is_exposed_plaintext(&self) -> bool {
        matches!(self, Self::Tcp { .. }) && !self.is_loopback()
    }

    /// The endpoint with another host, for a TCP endpoint.
    #[must_use]
    pub fn with_host(self, name: &str) -> Self {
        match self {
            Self::Tls { port, fingerprint, .. } => Self::Tls { host: name.to_owned(), port, fingerprint },
            Self::Tcp { port, .. } => Self::Tcp { host: name.to_owned(), port },
            other => other,
        }
    }

    /// The endpoint as a listener's configuration has it: without fingerprint.
    #[must_use]
    pub fn without_fingerprint(self) -> Self {
        match self {
            Self::Tls { host, port, .. } => Self::Tls { host, port, fingerprint: None },
            other => other,
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
            "tls://10.0.2.2:15937",
            "tls://[::1]:1#sha256=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
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
            "tls://a:1#",
            "tls://a:1#sha256=",
            "tls://a:1#sha256=00",
            "tls://a:1#sha256=00112233445566778899AABBCCDDEEFF00112233445566778899AABBCCDDEEFF",
            "tls://a:1#md5=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
            "tcp://a:1#sha256=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
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

    #[test]
    fn plaintext_endpoint_beyond_loopback_is_exposed() {
        let is_exposed = |text: &str| text.parse::<Endpoint>().expect(text).is_exposed_plaintext();
        for text in ["tcp://10.0.2.2:1", "tcp://0.0.0.0:1", "tcp://mac.local:1", "tcp://[fe80::1]:1"] {
            assert!(is_exposed(text), "{text}");
        }
        for text in [
            "tcp://127.0.0.1:1",
            "tcp://localhost:1",
            "tcp://[::ffff:127.0.0.1]:1",
            "tls://10.0.2.2:1",
            "vsock://2:1",
            "unix:/a",
        ] {
            assert!(!is_exposed(text), "{text}");
        }
    }

    #[test]
    fn longest_tls_endpoint_fits_into_a_status() {
        let fingerprint = Some(Fingerprint([0xab; 32]));
        let endpoint = Endpoint::Tls { host: "a".repeat(253), port: u16::MAX, fingerprint };
        assert!(endpoint.to_string().len() <= MAX_LENGTH);
    }
}
