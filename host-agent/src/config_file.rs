//! The configuration file: `host-agent config init` and `check`.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::config::{ConfigError, Options, Settings};

/// A new file: every option as a comment with its default, and `public_keys` in effect.
pub fn template(public_keys: &[PathBuf]) -> String {
    let keys: Vec<_> = public_keys.iter().map(|path| format!("{:?}", path.display().to_string())).collect();
    let keys = if keys.is_empty() {
        "#public-key = [\"/path/to/operator.pub\"]".to_owned()
    } else {
        format!("public-key = [{}]", keys.join(", "))
    };
    TEMPLATE.replace("{public-key}", &keys)
}

const TEMPLATE: &str = r#"# Configuration of host-agent. Flags and environment variables override it.
# After a change run `host-agent config check`, then `host-agent install`.

# Public keys that tokens must be signed with: PEM or base64. The operator's key is in the ConfigMap
# desktopstream-public-key.
{public-key}

# Endpoints for sidecars: tls://IP:PORT, unix:PATH or, on Linux, vsock://CID:PORT. Every process of this machine can
# connect to the default one, and so can VMs with QEMU's user network, as 10.0.2.2. Sidecars need a token, and for
# tls:// the fingerprint that `host-agent fingerprint` prints.
#listen = ["tls://127.0.0.1:15937"]

# Private key of tls:// endpoints, made at the first start.
#tls-key = "/path/to/tls.key"

# Allow tcp:// endpoints beyond loopback. Everything on the way can read and change video, tokens and nonces.
#plaintext-tcp = false

# Unix socket for taps.
#link = "/path/to/link.sock"

# Endpoint of /healthz, /readyz, /metrics and /status: unix:PATH, for this user, or tcp://IP:PORT, for every process
# and VM that reaches the address. The pages name all streams and VMs.
#admin = "unix:/path/to/admin.sock"

# Audience that tokens must have: the name of the HostAgent in the cluster.
#name = "default"

# Encoder: auto, videotoolbox (macOS), x264enc, openh264enc, …
#encoder = "auto"

# Rate at which an unchanged frame is encoded again, frames per second; 0 for never.
#keepalive-fps = 10

# Maximum size of a frame in pixels, maximum number of sessions, of taps, and of connections from one address that wait
# for a token.
#max-pixels = 8294400
#max-sessions = 64
#max-taps = 16
#max-pending-per-peer = 32

# Time without a message after which a sidecar's session ends, seconds.
#idle-timeout-seconds = 60

# Endpoints for the HXFR protocol of the GStreamer element `vsockenc`. HXFR has no authentication.
#hxfr = ["tcp://127.0.0.1:15939"]

# Accept sidecars without a token, for development. Only with unix: endpoints in `listen`.
#insecure-no-auth = false
"#;

/// Creates the file with mode 0600, and its folder. An existing file is not changed.
///
/// # Errors
/// The file exists, or cannot be written.
pub fn init(path: &Path, public_keys: &[PathBuf]) -> Result<()> {
    if let Some(folder) = path.parent() {
        // The key of TLS listeners is kept there, too, whatever the umask.
        let created = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        created.with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot create {}; edit the file if it exists", path.display()))?;
    file.write_all(template(public_keys).as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Reads the file and checks all options, including the keys.
///
/// # Errors
/// The file cannot be read, or an option is not valid.
pub fn check(path: &Path) -> Result<Settings, ConfigError> {
    Options::read(path)?.resolve()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_file_has_defaults_only_and_needs_a_key() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("new/host-agent.toml");
        init(&path, &[]).expect("created");
        assert_eq!(Options::read(&path).expect("parsed"), Options::default());
        assert!(matches!(check(&path), Err(ConfigError::NoKeys)));
        crate::tls_key::load_or_create(&path.with_file_name("tls.key")).expect("the folder is private");
    }

    #[test]
    fn existing_file_is_not_changed() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("host-agent.toml");
        std::fs::write(&path, "name = 'mac'\n").expect("file written");
        let error = init(&path, &[]).expect_err("file exists");
        assert!(error.to_string().contains("edit the file"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).expect("file read"), "name = 'mac'\n");
    }

    /// The template with every commented option in effect.
    fn all_options() -> Options {
        let lines: Vec<_> = template(&[])
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .map(str::to_owned)
            .collect();
        toml::from_str(&lines.join("\n")).expect("every option parses")
    }

    #[test]
    fn template_has_every_option() {
        let options = all_options();
        // An option that the template lacks is None, as is the fingerprint of a listener.
        let others = Options { listen: vec![], ..options.clone() };
        assert!(!format!("{others:?}").contains("None"), "{others:?}");
        assert!(!options.listen.is_empty() && !options.hxfr.is_empty() && !options.public_key.is_empty());
    }

    #[test]
    fn template_values_are_the_defaults() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let public_key = vec![crate::keys::generate_key_pair(&folder.path().join("key")).expect("generated")];
        let defaults = Options { public_key: public_key.clone(), ..Options::default() };
        let defaults = defaults.resolve().expect("valid");
        let template =
            Options { public_key, tls_key: None, link: None, admin: None, hxfr: vec![], ..all_options() }
                .resolve();
        let template = template.expect("valid");
        assert_eq!(format!("{template:?}"), format!("{defaults:?}"));
    }

    #[test]
    fn given_key_is_in_effect() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let public = crate::keys::generate_key_pair(&folder.path().join("key")).expect("generated");
        let path = folder.path().join("host-agent.toml");
        init(&path, std::slice::from_ref(&public)).expect("created");
        assert_eq!(check(&path).expect("valid").keys.map(|keys| keys.len()), Some(1));
    }
}
