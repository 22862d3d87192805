//! Host address and port of a stream's viewers, from the annotation `desktopstream.dev/publish`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use operator_api::DesktopStream;

use crate::names;

/// Address and port that the sidecar's viewer port is published at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Address of the host.
    pub ip: IpAddr,
    /// Port; 0 lets the Engine pick a free one.
    pub port: u16,
}

impl Publish {
    /// A free port of 127.0.0.1.
    pub const LOCAL: Self = Self { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 0 };

    /// Parses `PORT` (on 127.0.0.1) or `IP:PORT`, such as `8090`, `0.0.0.0:8090` or `[::1]:8090`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(port) = text.parse() {
            return Some(Self { port, ..Self::LOCAL });
        }
        let address: SocketAddr = text.parse().ok()?;
        Some(Self { ip: address.ip(), port: address.port() })
    }

    /// The annotation of a validated stream, by default [`Self::LOCAL`].
    pub fn of(stream: &DesktopStream) -> Self {
        let text = stream.metadata.annotations.as_ref().and_then(|all| all.get(names::PUBLISH));
        text.and_then(|text| Self::parse(text)).unwrap_or(Self::LOCAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_alone_is_published_on_loopback() {
        assert_eq!(Publish::parse("8090"), Some(Publish { port: 8090, ..Publish::LOCAL }));
        assert_eq!(
            Publish::parse("0.0.0.0:80").map(|it| (it.ip.is_unspecified(), it.port)),
            Some((true, 80))
        );
        assert_eq!(Publish::parse("[::1]:80").map(|it| it.ip.is_ipv6()), Some(true));
        assert_eq!(Publish::parse("x"), None);
    }
}
