//! `host-agent doctor`: checks each part of the frame path on the host. Queries a running daemon; without one
//! it tests the addresses itself. Changes nothing.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use contract::Endpoint;
use contract::doctor::{Check, Report, checks};
use contract::host_agent_status::{HostAgentStatus, VmStatus};
use contract::names::env;
use encode::{EncodeError, Found};

use crate::config::Options;
use crate::keys::read_public_keys;
use crate::listen::folder;
use crate::{admin, sys, tls_key};

/// Maximum time for the daemon to answer.
const QUERY_TIMEOUT: Duration = Duration::from_secs(3);
const START_DAEMON: &str = "start the daemon with `host-agent serve`";

/// Runs all checks. Blocks while the encoders are tested.
pub fn examine(options: &Options) -> Report {
    let daemon = query_daemon(options);
    let mut checks = check_keys(options);
    checks.push(match &daemon {
        Ok(status) => {
            Check::ok(checks::DAEMON, format!("version {}, up {} s", status.version, status.uptime_seconds))
        }
        Err(error) => Check::skipped(checks::DAEMON, error).with_remedy(START_DAEMON),
    });
    let daemon = daemon.ok();
    checks.extend(check_tls_key(options));
    checks.extend(options.listeners().iter().map(|endpoint| check_listener(endpoint, daemon.as_ref())));
    checks.push(check_link(options, daemon.as_ref()));
    checks.extend(check_taps(daemon.as_ref()));
    checks.extend(check_encoders(&crate::encoders::available(), encoder_trial));
    Report::new(checks)
}

/// The running daemon's `/status`.
pub(crate) fn query_daemon(options: &Options) -> Result<HostAgentStatus, String> {
    let admin = options.admin_endpoint();
    let (code, body) = admin::client::get(&admin, "/status", QUERY_TIMEOUT)
        .map_err(|error| format!("no answer at {admin}: {error}"))?;
    if code != 200 {
        return Err(format!("{admin} answers with status {code}"));
    }
    serde_json::from_str(&body).map_err(|error| format!("{admin} is not a host-agent: {error}"))
}

fn check_keys(options: &Options) -> Vec<Check> {
    if options.public_key.is_empty() {
        return vec![if let Some(exposed) = options.insecure_listener() {
            Check::failed(
                checks::KEYS,
                format!("--insecure-no-auth with {exposed}, which VMs or other users can reach"),
                "give --public-key FILE, or listen on unix:",
            )
        } else if options.insecure_no_auth {
            Check::skipped(checks::KEYS, "--insecure-no-auth: every process of this user may connect")
                .with_remedy("give --public-key in production")
        } else {
            Check::failed(
                checks::KEYS,
                "no public key is given, so the daemon does not start",
                "give --public-key FILE; make a key pair with `host-agent keygen`",
            )
        }];
    }
    let check = |path: &std::path::PathBuf| {
        let name = format!("{} {}", checks::KEYS, path.display());
        match read_public_keys(path) {
            Ok(keys) => {
                let keys: Vec<String> = keys.iter().map(stream_token::print_public_key).collect();
                Check::ok(name, keys.join(", "))
            }
            Err(error) => Check::failed(name, error.to_string(), "give the operator's public key"),
        }
    };
    options.public_key.iter().map(check).collect()
}

/// The key of TLS listeners, if there are any.
fn check_tls_key(options: &Options) -> Option<Check> {
    let listeners = options.listeners();
    listeners.iter().find(|endpoint| matches!(endpoint, Endpoint::Tls { .. }))?;
    let path = options.tls_key_path();
    Some(match tls_key::load(&path) {
        Ok(Some(identity)) => Check::ok(checks::TLS_KEY, format!("fingerprint {}", identity.fingerprint())),
        Ok(None) => Check::skipped(checks::TLS_KEY, format!("{} does not exist", path.display()))
            .with_remedy("start the daemon, or run `host-agent fingerprint`: both make the key"),
        Err(error) => Check::failed(
            checks::TLS_KEY,
            error.to_string(),
            "correct the file, or choose another with --tls-key",
        ),
    })
}

fn check_listener(endpoint: &Endpoint, daemon: Option<&HostAgentStatus>) -> Check {
    let name = format!("{} {endpoint}", checks::LISTEN);
    let is_this = |listener: &&Endpoint| (*listener).clone().without_fingerprint() == *endpoint;
    if let Some(listener) = daemon.and_then(|status| status.listeners.iter().find(is_this)) {
        return Check::ok(
            name,
            if listener == endpoint {
                "the daemon listens".to_owned()
            } else {
                format!("the daemon listens as {listener}")
            },
        );
    }
    let available = match endpoint {
        Endpoint::Tls { host, port, .. } | Endpoint::Tcp { host, port } => {
            TcpListener::bind((host.as_str(), *port)).map(drop).map_err(|error| error.to_string())
        }
        Endpoint::Unix(path) if UnixStream::connect(path).is_ok() => {
            Err("another process listens".to_owned())
        }
        Endpoint::Vsock { .. } if sys::HAS_VSOCK && !Path::new("/dev/vsock").exists() => {
            let remedy = "run `modprobe vhost_vsock`, or listen on tls: or unix:";
            return Check::failed(name, "/dev/vsock does not exist", remedy);
        }
        Endpoint::Unix(_) | Endpoint::Vsock { .. } => Ok(()),
    };
    match available {
        Ok(()) => Check::ok(name, "available"),
        Err(error) => {
            Check::failed(name, error, "stop the program that uses it, or choose another with --listen")
        }
    }
}

fn check_link(options: &Options, daemon: Option<&HostAgentStatus>) -> Check {
    let path = options.link_path();
    let shown = path.display().to_string();
    let name = format!("{} {shown}", checks::LINK);
    if path.exists()
        && let Err(error) = folder::check(folder::of(&path))
    {
        return Check::failed(name, error.to_string(), "correct the folder, or choose another with --link");
    }
    let accepts = UnixStream::connect(&path).is_ok();
    match (daemon, accepts) {
        (Some(status), _) if status.link != shown => Check::failed(
            name,
            format!("the daemon uses {}", status.link),
            "give the same --link to daemon, doctor and tap",
        ),
        (Some(_), true) => Check::ok(name, "the daemon accepts taps"),
        (Some(_), false) => Check::failed(
            name,
            "the daemon runs, but its socket does not accept connections",
            "restart the daemon to create the socket again",
        ),
        (None, true) => Check::failed(
            name,
            "another process listens",
            "stop the program that uses it, or choose another with --link",
        ),
        (None, false) => Check::skipped(name, "the daemon does not run").with_remedy(START_DAEMON),
    }
}

fn check_taps(daemon: Option<&HostAgentStatus>) -> Vec<Check> {
    let Some(status) = daemon else {
        return vec![Check::skipped(checks::TAPS, "the daemon does not run").with_remedy(START_DAEMON)];
    };
    if status.vms.is_empty() {
        let remedy = format!(
            "start the VM with `host-agent run`, or preload the tap and set {} to the link's path",
            env::LINK
        );
        let detail = "no tap is connected; only frame path Pixels is available";
        return vec![Check::skipped(checks::TAPS, detail).with_remedy(remedy)];
    }
    status.vms.iter().map(check_tap).collect()
}

fn check_tap(vm: &VmStatus) -> Check {
    let name = format!("{} {}", checks::TAPS, vm.name);
    let detail = format!("version {}, process {}, {} contexts", vm.tap_version, vm.pid, vm.stats.contexts);
    if vm.stats.disabled {
        let detail = format!("{detail}; disabled itself after {} faults", vm.stats.faults);
        return Check::failed(name, detail, "restart the VM, and report the fault in its log");
    }
    Check::ok(name, detail)
}

/// Checks of the encoders that were found, by `check` for a working one; at least one must work.
pub(crate) fn check_encoders(
    found: &[Found],
    check: impl Fn(String, &Found, Duration) -> Check,
) -> Vec<Check> {
    let any_works = found.iter().any(|found| found.trial.is_ok());
    let mut all: Vec<_> = found
        .iter()
        .map(|found| {
            let name = format!("encoder {}", found.name);
            match &found.trial {
                Ok(time) => check(name, found, *time),
                Err(EncodeError::Unavailable(reason)) => Check::skipped(name, reason),
                Err(error) => Check::skipped(name, error.to_string())
                    .with_remedy("check the encoder's driver: it is installed and does not work"),
            }
        })
        .collect();
    if !any_works {
        all.push(Check::failed(
            checks::ENCODERS,
            "no encoder works",
            "install gstreamer1.0-plugins-ugly for x264enc",
        ));
    }
    all
}

fn encoder_trial(name: String, _found: &Found, time: Duration) -> Check {
    Check::ok(name, format!("{} frames in {} ms", encode::open::TRIAL_PICTURES, time.as_millis()))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use contract::doctor::Outcome;
    use contract::host_agent_status::TapStats;

    use super::*;

    #[test]
    fn daemon_with_another_link_is_a_failure() {
        let options = Options { link: Some("/run/a.sock".into()), ..Options::default() };
        let daemon = HostAgentStatus { link: "/run/b.sock".to_owned(), ..HostAgentStatus::default() };
        let check = check_link(&options, Some(&daemon));
        assert_eq!(check.outcome, Outcome::Failed);
        assert!(check.detail.contains("/run/b.sock"), "{check:?}");
    }

    #[test]
    fn link_in_a_folder_that_others_can_write_to_is_a_failure() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let link = folder.path().join("link.sock");
        let _socket = std::os::unix::net::UnixListener::bind(&link).expect("listening");
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("mode set");
        let options = Options { link: Some(link), ..Options::default() };
        let check = check_link(&options, None);
        assert_eq!(check.outcome, Outcome::Failed);
        assert!(check.detail.contains("chmod go-w"), "{check:?}");
    }

    #[test]
    fn insecure_daemon_on_loopback_is_a_failure() {
        let options = Options { insecure_no_auth: true, ..Options::default() };
        assert_eq!(check_keys(&options)[0].outcome, Outcome::Failed);
        let listen = vec!["unix:/x".parse().expect("an endpoint")];
        assert_eq!(check_keys(&Options { listen, ..options })[0].outcome, Outcome::Skipped);
    }

    #[test]
    fn listener_is_compared_with_the_daemons_by_value() {
        let endpoint = |text: &str| text.parse::<Endpoint>().expect(text);
        let listeners = vec![endpoint("unix:///run/a.sock")];
        let daemon = HostAgentStatus { listeners, ..HostAgentStatus::default() };
        let check = check_listener(&endpoint("unix:/run/a.sock"), Some(&daemon));
        assert_eq!(check.detail, "the daemon listens");
    }

    #[test]
    fn tls_key_is_checked_if_a_listener_needs_it() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("tls.key");
        let options = Options { tls_key: Some(path.clone()), ..Options::default() };
        let outcome = |options: &Options| check_tls_key(options).map(|check| check.outcome);
        assert_eq!(outcome(&options), Some(Outcome::Skipped), "none yet");
        let fingerprint = tls_key::load_or_create(&path).expect("made").fingerprint().to_string();
        let check = check_tls_key(&options).expect("a check");
        assert!(check.outcome == Outcome::Ok && check.detail.contains(&fingerprint), "{check:?}");
        std::fs::write(&path, "no key").expect("written");
        assert_eq!(outcome(&options), Some(Outcome::Failed));
        let listen = vec!["unix:/x".parse().expect("an endpoint")];
        assert_eq!(outcome(&Options { listen, ..options }), None);
    }

    #[test]
    fn tls_listener_of_the_daemon_is_shown_with_its_fingerprint() {
        let shown = format!("tls://127.0.0.1:1#sha256={}", "ab".repeat(32));
        let listeners = vec![shown.parse().expect("an endpoint")];
        let daemon = HostAgentStatus { listeners, ..HostAgentStatus::default() };
        let configured = "tls://127.0.0.1:1".parse().expect("an endpoint");
        assert_eq!(
            check_listener(&configured, Some(&daemon)).detail,
            format!("the daemon listens as {shown}")
        );
    }

    #[test]
    fn disabled_tap_is_a_failure() {
        let stats = TapStats { disabled: true, faults: 3, ..TapStats::default() };
        let vm = VmStatus { name: "dev".to_owned(), stats, ..VmStatus::default() };
        let check = check_tap(&vm);
        assert_eq!((check.name.as_str(), check.outcome), ("taps dev", Outcome::Failed));
        assert!(check.detail.contains("after 3 faults"), "{check:?}");
    }

    #[test]
    fn machine_without_a_working_encoder_fails() {
        let trial = Err(EncodeError::Unavailable("not installed".to_owned()));
        let found = vec![Found { name: "x264enc", hardware: false, trial }];
        let checks = check_encoders(&found, encoder_trial);
        assert_eq!(checks[0].outcome, Outcome::Skipped);
        assert_eq!((checks[1].name.as_str(), checks[1].outcome), ("encoders", Outcome::Failed));
    }
}
