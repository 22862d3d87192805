//! Announces the viewer URL of a stream on stdout.

use std::io::Write as _;

use contract::StreamName;
use operator_sidecar_client::viewer_url;

use super::Pass;
use crate::container::Container;

impl Pass<'_> {
    /// Prints the viewer URL when the stream has its first frame, and again when the URL changes.
    pub(super) fn announce(&self, sidecar: &Container) {
        let stream = &self.key.stream;
        let token = self.context.folder.viewer_token(stream);
        let Some(line) = announcement(stream, sidecar, token.as_deref()) else { return };
        if self.memory().announced.as_ref() != Some(&line) {
            // A closed stdout must not end the operator.
            let _closed = writeln!(std::io::stdout(), "{line}");
            self.update_memory(|memory| memory.announced = Some(line));
        }
    }
}

/// The line for stdout; `None` if the port is not published. It contains the token only for a loopback address: there, a
/// user who can read our output and use the URL can usually read the token's file, too.
fn announcement(stream: &StreamName, sidecar: &Container, token: Option<&str>) -> Option<String> {
    let base = sidecar.local_url()?;
    let is_local = sidecar.published?.ip().is_loopback();
    Some(match token {
        Some(_) if !is_local => format!("{stream}: {base}/ (URL with token: operator docker open {stream})"),
        token => format!("{stream}: {}", viewer_url(&base, token)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcement_contains_the_token_on_loopback_only() {
        let at = |address: &str| {
            let published = Some(address.parse().expect("an address"));
            Container { published, ..Container::default() }
        };
        let desk = "desk".parse().expect("a name");
        let line = |address: &str, token| announcement(&desk, &at(address), token);
        assert_eq!(
            line("127.0.0.1:8090", Some("t")).as_deref(),
            Some("desk: http://127.0.0.1:8090/?token=t")
        );
        assert_eq!(line("[::1]:8090", Some("t")).as_deref(), Some("desk: http://[::1]:8090/?token=t"));
        assert_eq!(line("127.0.0.1:8090", None).as_deref(), Some("desk: http://127.0.0.1:8090/"));
        let public = line("0.0.0.0:8090", Some("t")).expect("it is published");
        assert!(!public.contains("token=") && public.contains("operator docker open desk"), "{public}");
        assert_eq!(announcement(&desk, &Container::default(), None), None);
    }
}
