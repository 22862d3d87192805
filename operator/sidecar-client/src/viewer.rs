//! The viewer page of a sidecar.

use std::process::{Command, Stdio};

use form_urlencoded::byte_serialize;

/// URL of the viewer page. `base` has no trailing slash; the token goes into the fragment, which browsers do not send, so
/// proxies do not log it.
pub fn viewer_url(base: &str, token: Option<&str>) -> String {
    match token {
        Some(token) => {
            let token: String = byte_serialize(token.as_bytes()).collect();
            format!("{base}/#token={token}")
        }
        None => format!("{base}/"),
    }
}

/// Opens a URL in the user's browser. False if no browser could be started.
pub fn open_browser(url: &str) -> bool {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let status = Command::new(program).arg(url).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_percent_encoded_in_the_fragment() {
        assert_eq!(
            viewer_url("http://127.0.0.1:1", Some("a+b/c=&d")),
            "http://127.0.0.1:1/#token=a%2Bb%2Fc%3D%26d"
        );
        assert_eq!(viewer_url("http://127.0.0.1:1", None), "http://127.0.0.1:1/");
    }
}
