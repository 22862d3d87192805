//! `host-agent config init|check`: a file to begin with, every option in it as a comment with its default.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::config::{ConfigError, Options, Settings};

/// The file's text. Keys given by the caller stand in it; the rest is as it would be without the file.
pub fn text(public_keys: &[std::path::PathBuf]) -> String {
    let keys: Vec<_> = public_keys.iter().map(|path| format!("{:?}", path.display().to_string())).collect();
    let keys = if keys.is_empty() {
        "#public-key = [\"/path/to/operator.pub\"]".to_owned()
    } else {
        format!("public-key = [{}]", keys.join(", "))
    };
    TEXT.replace("{public-key}", &keys)
}

const TEXT: &str = r#"# host-agent. Flags and environment variables come before what is said here.
# After a change: `host-agent config check`, then `host-agent install` again.

# Keys that sign the sidecars' tokens: PEM or base64. The operator's is in the ConfigMap desktopstream-public-key.
{public-key}

# Where sidecars connect: tcp://IP:PORT, unix:PATH or, on Linux, vsock://CID:PORT. Only this machine unless you say so;
# a VM with QEMU's user network reaches the loopback as 10.0.2.2.
#listen = ["tcp://127.0.0.1:15937"]

# Where taps connect.
#link = "/path/to/link.sock"

# Where /healthz, /readyz, /metrics and /status are.
#admin = "127.0.0.1:15938"

# The name that tokens must be made for: the HostAgent's in the cluster.
#name = "default"

# auto, videotoolbox (on a Mac), x264enc, openh264enc, …
#encoder = "auto"

# How often a still picture is encoded again, per second; 0 is never.
#keepalive-fps = 10

# Most pixels of a picture, sessions and taps at once, connections of one address.
#max-pixels = 8294400
#max-sessions = 64
#max-taps = 16
#max-connections-per-peer = 128

# Seconds of silence after which a sidecar counts as gone.
#idle-timeout = 60

# The predecessor's protocol, for its GStreamer element `vsockenc`. It knows no tokens and no rights.
#hxfr = ["tcp://127.0.0.1:15939"]

# Take sidecars without a token. Only for trying things out.
#insecure-no-auth = false
"#;

/// Writes it; a file that is there stays as it is.
pub fn init(path: &Path, public_keys: &[std::path::PathBuf]) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("can't make {}; edit it if it is there", path.display()))?;
    file.write_all(text(public_keys).as_bytes()).with_context(|| path.display().to_string())
}

/// Reads it and checks all of it, keys included.
pub fn check(path: &Path) -> Result<Settings, ConfigError> {
    Options::read(path)?.settle()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_file_changes_nothing_and_asks_for_a_key() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("new/host-agent.toml");
        init(&path, &[]).expect("written");
        assert_eq!(Options::read(&path).expect("parses"), Options::default());
        assert!(matches!(check(&path), Err(ConfigError::NoKeys)));
        assert!(init(&path, &[]).expect_err("it is there").to_string().contains("edit it"));
    }

    #[test]
    fn every_comment_is_an_option_and_its_default() {
        let all: Vec<_> = text(&[])
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .map(str::to_owned)
            .collect();
        let said: Options = toml::from_str(&all.join("\n")).expect("all of it parses at once");
        let defaults = Options { insecure_no_auth: true, ..Options::default() }.settle().expect("holds");
        let quiet = Options { public_key: vec![], insecure_no_auth: true, link: None, ..said.clone() };
        let settled = quiet.settle().expect("holds");
        assert_eq!(
            (&settled.listen, settled.admin, &settled.name, &settled.encoder, settled.keepalive_fps),
            (&defaults.listen, defaults.admin, &defaults.name, &defaults.encoder, defaults.keepalive_fps)
        );
        assert_eq!(
            (
                settled.max_pixels,
                settled.max_sessions,
                settled.max_taps,
                settled.max_connections_per_peer,
                settled.idle
            ),
            (
                defaults.max_pixels,
                defaults.max_sessions,
                defaults.max_taps,
                defaults.max_connections_per_peer,
                defaults.idle
            )
        );
        // An option that is in no comment would be left at its default here.
        let unsaid = format!("{said:?}").matches("None").count();
        assert_eq!(unsaid, 0, "{said:?} names every option");
        assert!(!said.listen.is_empty() && !said.hxfr.is_empty() && !said.public_key.is_empty());
    }

    #[test]
    fn a_key_that_was_named_is_in_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let public = crate::token::generate(&folder.path().join("key")).expect("made");
        let path = folder.path().join("host-agent.toml");
        init(&path, std::slice::from_ref(&public)).expect("written");
        assert_eq!(check(&path).expect("holds").keys.map(|keys| keys.len()), Some(1));
    }
}
