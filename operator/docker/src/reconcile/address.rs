//! Where a stream is watched.

use crate::observe::Container;

/// Where the viewers' port is published, for a connection from this machine.
pub(super) fn published(sidecar: &Container) -> Option<String> {
    let (ip, port) = sidecar.published.as_ref()?;
    let ip = match ip.as_str() {
        "0.0.0.0" | "" => "127.0.0.1",
        "::" => "::1",
        ip => ip,
    };
    Some(if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") })
}

/// What a person is told; none where it is not published. The token is in it only where nobody but this machine comes: who
/// reads our output may read the token's file, too.
pub(super) fn announcement(name: &str, sidecar: &Container, token: Option<&str>) -> Option<String> {
    let address = url(sidecar)?;
    let base = address.trim_end_matches('/');
    let alone = sidecar.published.as_ref()?.0.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    Some(match token {
        Some(_) if !alone => format!("{name}: {address} (with its token: operator docker open {name})"),
        token => format!("{name}: {}", kubectl_desktopstream::open::url(base, token)),
    })
}

/// Where viewers of this machine find it, without the token.
pub(crate) fn url(sidecar: &Container) -> Option<String> {
    published(sidecar).map(|address| format!("http://{address}/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_told_of_what_only_this_machine_reaches() {
        let at = |ip: &str| Container { published: Some((ip.to_owned(), 8090)), ..Container::default() };
        let said = |ip: &str, token| announcement("desk", &at(ip), token);
        assert_eq!(said("127.0.0.1", Some("t")).as_deref(), Some("desk: http://127.0.0.1:8090/?token=t"));
        assert_eq!(said("::1", Some("t")).as_deref(), Some("desk: http://[::1]:8090/?token=t"));
        assert_eq!(said("127.0.0.1", None).as_deref(), Some("desk: http://127.0.0.1:8090/"));
        let public = said("0.0.0.0", Some("t")).expect("it is published");
        assert!(!public.contains("token=") && public.contains("operator docker open desk"), "{public}");
        assert_eq!(announcement("desk", &Container::default(), None), None);
    }
}
