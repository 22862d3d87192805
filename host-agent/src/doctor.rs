//! `host-agent doctor`: walks the path leg by leg and says which one fails and what to do. Asks a running
//! daemon where there is one and tries things itself where there is none; changes nothing.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use encode::EncodeError;
use protocol::endpoint::Endpoint;
use serde::Serialize;

use crate::auth;
use crate::config::Options;
use crate::status::Status;

/// How a leg fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It works.
    Ok,
    /// It does not.
    Failed,
    /// It could not be tried, or need not work.
    Skipped,
}

/// One leg of the path.
#[derive(Debug, Clone, Serialize)]
pub struct Leg {
    /// Which.
    pub name: String,
    /// How it fared.
    pub outcome: Outcome,
    /// What was seen.
    pub detail: String,
    /// What to do; empty if nothing.
    pub remedy: String,
}

/// All legs.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whether no leg failed.
    pub ok: bool,
    /// The legs, in order.
    pub legs: Vec<Leg>,
}

fn leg(
    name: impl Into<String>,
    outcome: Outcome,
    detail: impl Into<String>,
    remedy: impl Into<String>,
) -> Leg {
    Leg { name: name.into(), outcome, detail: detail.into(), remedy: remedy.into() }
}

/// Walks the path. Blocks for as long as the encoders take.
pub fn examine(options: &Options) -> Report {
    let daemon = ask(options);
    let mut legs = keys(options);
    legs.push(match &daemon {
        Ok(status) => {
            leg("daemon", Outcome::Ok, format!("{} runs, up {} s", status.version, status.uptime_s), "")
        }
        Err(why) => leg("daemon", Outcome::Skipped, why, "start it with `host-agent serve`"),
    });
    let daemon = daemon.ok();
    legs.extend(options.listeners().iter().map(|endpoint| listener(endpoint, daemon.as_ref())));
    legs.push(link(options, daemon.as_ref()));
    legs.extend(taps(daemon.as_ref()));
    legs.extend(encoders());
    Report { ok: legs.iter().all(|leg| leg.outcome != Outcome::Failed), legs }
}

/// The running daemon's `/status`.
fn ask(options: &Options) -> Result<Status, String> {
    let url = format!("http://{}/status", options.admin_address());
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(3))).build().into();
    let answer = agent.get(&url).call().map_err(|error| format!("nothing answers at {url}: {error}"));
    answer?.body_mut().read_json().map_err(|error| format!("{url} is not a host-agent's: {error}"))
}

fn keys(options: &Options) -> Vec<Leg> {
    if options.public_key.is_empty() {
        return vec![if options.insecure_no_auth {
            leg(
                "keys",
                Outcome::Skipped,
                "--insecure-no-auth: anyone on this machine may connect",
                "for production give --public-key",
            )
        } else {
            leg(
                "keys",
                Outcome::Failed,
                "no key is given: serve would not start",
                "give --public-key FILE; make one with `host-agent keygen`",
            )
        }];
    }
    let check = |path: &std::path::PathBuf| {
        let name = format!("key {}", path.display());
        match auth::read_public_key(path) {
            Ok(key) => leg(name, Outcome::Ok, auth::print_public_key(&key), ""),
            Err(error) => leg(name, Outcome::Failed, error.to_string(), "give the operator's public key"),
        }
    };
    options.public_key.iter().map(check).collect()
}

fn listener(endpoint: &Endpoint, daemon: Option<&Status>) -> Leg {
    let name = format!("listen {endpoint}");
    if daemon.is_some_and(|status| status.listeners.contains(&endpoint.to_string())) {
        return leg(name, Outcome::Ok, "the daemon listens there", "");
    }
    let free = match endpoint {
        Endpoint::Tcp { host, port } => {
            TcpListener::bind((host.as_str(), *port)).map(drop).map_err(|error| error.to_string())
        }
        Endpoint::Unix(path) if UnixStream::connect(path).is_ok() => Err("somebody answers there".to_owned()),
        Endpoint::Vsock { .. }
            if cfg!(target_os = "linux") && !std::path::Path::new("/dev/vsock").exists() =>
        {
            return leg(
                name,
                Outcome::Failed,
                "there is no /dev/vsock",
                "modprobe vhost_vsock, or listen on tcp: or unix:",
            );
        }
        Endpoint::Unix(_) | Endpoint::Vsock { .. } => Ok(()),
    };
    match free {
        Ok(()) => leg(name, Outcome::Ok, "free", ""),
        Err(why) => leg(name, Outcome::Failed, why, "stop what has it, or choose another with --listen"),
    }
}

fn link(options: &Options, daemon: Option<&Status>) -> Leg {
    let path = options.link_path();
    let shown = path.display().to_string();
    let name = format!("link {shown}");
    let answers = UnixStream::connect(&path).is_ok();
    match (daemon, answers) {
        (Some(status), _) if status.link != shown => leg(
            name,
            Outcome::Failed,
            format!("the daemon has {} instead", status.link),
            "give the same --link to daemon, doctor and tap",
        ),
        (Some(_), true) => leg(name, Outcome::Ok, "the daemon takes taps there", ""),
        (Some(_), false) => {
            leg(name, Outcome::Failed, "nobody answers there", "restart the daemon: its socket was removed")
        }
        (None, true) => {
            leg(name, Outcome::Failed, "another program has it", "stop it, or choose another with --link")
        }
        (None, false) => leg(name, Outcome::Skipped, "no daemon", "start it with `host-agent serve`"),
    }
}

fn taps(daemon: Option<&Status>) -> Vec<Leg> {
    const REMEDY: &str = "start the VM with the tap preloaded and DESKTOPSTREAM_LINK set to the link's path";
    let Some(status) = daemon else {
        return vec![leg("taps", Outcome::Skipped, "no daemon to ask", "start it with `host-agent serve`")];
    };
    if status.vms.is_empty() {
        return vec![leg(
            "taps",
            Outcome::Skipped,
            "no VM's tap is connected: only rung Pixels works",
            REMEDY,
        )];
    }
    let tap = |vm: &crate::status::VmStatus| {
        let name = format!("tap of {}", vm.name);
        let detail = format!("version {}, pid {}, {} contexts", vm.tap_version, vm.pid, vm.stats.contexts);
        if vm.stats.disabled {
            let detail = format!("{detail}: switched itself off after {} faults", vm.stats.faults);
            return leg(name, Outcome::Failed, detail, "restart the VM, and report the fault from its log");
        }
        leg(name, Outcome::Ok, detail, "")
    };
    status.vms.iter().map(tap).collect()
}

fn encoders() -> Vec<Leg> {
    let found = encode::available();
    let works = found.iter().any(|found| found.trial.is_ok());
    let mut legs: Vec<_> = found
        .into_iter()
        .map(|found| {
            let name = format!("encoder {}", found.name);
            match found.trial {
                Ok(time) => leg(name, Outcome::Ok, format!("three pictures in {} ms", time.as_millis()), ""),
                Err(EncodeError::Unavailable(why)) => leg(name, Outcome::Skipped, why, ""),
                Err(error) => leg(
                    name,
                    Outcome::Skipped,
                    error.to_string(),
                    "it is there and does not work: see its driver",
                ),
            }
        })
        .collect();
    if !works {
        legs.push(leg(
            "encoders",
            Outcome::Failed,
            "none works",
            "install gstreamer1.0-plugins-ugly for x264enc",
        ));
    }
    legs
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for leg in &self.legs {
            let outcome = match leg.outcome {
                Outcome::Ok => "ok     ",
                Outcome::Failed => "FAILED ",
                Outcome::Skipped => "skipped",
            };
            writeln!(f, "{outcome} {}: {}", leg.name, leg.detail)?;
            if !leg.remedy.is_empty() {
                writeln!(f, "        -> {}", leg.remedy)?;
            }
        }
        let failed = self.legs.iter().filter(|leg| leg.outcome == Outcome::Failed).count();
        if failed == 0 { write!(f, "nothing failed") } else { write!(f, "{failed} failed") }
    }
}
