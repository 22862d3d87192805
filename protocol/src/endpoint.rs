//! Where a stream connection goes: `tcp://HOST:PORT`, `unix:/PATH` or `vsock://CID:PORT`.
//!
//! A vsock CID may be written `any` (listen on all) or `host` (2, the hypervisor's side).

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

/// `VMADDR_CID_ANY` of `<linux/vm_sockets.h>`.
pub const CID_ANY: u32 = u32::MAX;
/// `VMADDR_CID_HOST` of `<linux/vm_sockets.h>`.
pub const CID_HOST: u32 = 2;

/// An address of one of the three kinds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// Host name or address, and port.
    Tcp {
        /// Name or address; IPv6 without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// Path of a Unix stream socket.
    Unix(PathBuf),
    /// Context ID and port of a vsock.
    Vsock {
        /// Context ID.
        cid: u32,
        /// Port.
        port: u32,
    },
}

/// Why a text is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no endpoint: write tcp://HOST:PORT, unix:/PATH or vsock://CID:PORT")]
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
    // With or without an empty authority; one slash in front is as good as many, and prints unambiguously.
    let path = text.strip_prefix("unix:")?;
    let inside = path.strip_prefix("//").unwrap_or(path).strip_prefix('/')?.trim_start_matches('/');
    (!inside.contains('\0')).then(|| Endpoint::Unix(format!("/{inside}").into()))
}

/// Whether this can be a host name or an IPv4 address: a resolver may still say no.
fn is_name(host: &str) -> bool {
    let strange = |c: char| c.is_whitespace() || c.is_control() || "[]:/?#@%".contains(c);
    !host.is_empty() && !host.contains(strange)
}

/// Whether this is an IPv6 address, with or without a zone.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_back() {
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
    fn nonsense_is_refused_with_the_remedy() {
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
