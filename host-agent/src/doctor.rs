//! `host-agent doctor`: walks the path leg by leg and says which one fails and what to do. Asks a running
//! daemon where there is one and tries things itself where there is none; changes nothing.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use doctor::{Leg, Report};
use encode::EncodeError;
use protocol::endpoint::Endpoint;

use crate::auth;
use crate::config::Options;
use crate::status::Status;

/// Walks the path. Blocks for as long as the encoders take.
pub fn examine(options: &Options) -> Report {
    let daemon = ask(options);
    let mut legs = keys(options);
    legs.push(match &daemon {
        Ok(status) => Leg::ok("daemon", format!("{} runs, up {} s", status.version, status.uptime_s)),
        Err(why) => Leg::skipped("daemon", why).but("start it with `host-agent serve`"),
    });
    let daemon = daemon.ok();
    legs.extend(options.listeners().iter().map(|endpoint| listener(endpoint, daemon.as_ref())));
    legs.push(link(options, daemon.as_ref()));
    legs.extend(taps(daemon.as_ref()));
    legs.extend(encoders());
    Report::new(legs)
}

/// The running daemon's `/status`.
pub(crate) fn ask(options: &Options) -> Result<Status, String> {
    let url = format!("http://{}/status", options.admin_address());
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(3))).build().into();
    let answer = agent.get(&url).call().map_err(|error| format!("nothing answers at {url}: {error}"));
    answer?.body_mut().read_json().map_err(|error| format!("{url} is not a host-agent's: {error}"))
}

fn keys(options: &Options) -> Vec<Leg> {
    if options.public_key.is_empty() {
        return vec![if options.insecure_no_auth {
            Leg::skipped("keys", "--insecure-no-auth: anyone on this machine may connect")
                .but("for production give --public-key")
        } else {
            Leg::failed(
                "keys",
                "no key is given: serve would not start",
                "give --public-key FILE; make one with `host-agent keygen`",
            )
        }];
    }
    let check = |path: &std::path::PathBuf| {
        let name = format!("key {}", path.display());
        match auth::read_public_key(path) {
            Ok(key) => Leg::ok(name, auth::print_public_key(&key)),
            Err(error) => Leg::failed(name, error.to_string(), "give the operator's public key"),
        }
    };
    options.public_key.iter().map(check).collect()
}

fn listener(endpoint: &Endpoint, daemon: Option<&Status>) -> Leg {
    let name = format!("listen {endpoint}");
    if daemon.is_some_and(|status| status.listeners.contains(&endpoint.to_string())) {
        return Leg::ok(name, "the daemon listens there");
    }
    let free = match endpoint {
        Endpoint::Tcp { host, port } => {
            TcpListener::bind((host.as_str(), *port)).map(drop).map_err(|error| error.to_string())
        }
        Endpoint::Unix(path) if UnixStream::connect(path).is_ok() => Err("somebody answers there".to_owned()),
        Endpoint::Vsock { .. }
            if cfg!(target_os = "linux") && !std::path::Path::new("/dev/vsock").exists() =>
        {
            return Leg::failed(
                name,
                "there is no /dev/vsock",
                "modprobe vhost_vsock, or listen on tcp: or unix:",
            );
        }
        Endpoint::Unix(_) | Endpoint::Vsock { .. } => Ok(()),
    };
    match free {
        Ok(()) => Leg::ok(name, "free"),
        Err(why) => Leg::failed(name, why, "stop what has it, or choose another with --listen"),
    }
}

fn link(options: &Options, daemon: Option<&Status>) -> Leg {
    let path = options.link_path();
    let shown = path.display().to_string();
    let name = format!("link {shown}");
    let answers = UnixStream::connect(&path).is_ok();
    match (daemon, answers) {
        (Some(status), _) if status.link != shown => Leg::failed(
            name,
            format!("the daemon has {} instead", status.link),
            "give the same --link to daemon, doctor and tap",
        ),
        (Some(_), true) => Leg::ok(name, "the daemon takes taps there"),
        (Some(_), false) => {
            Leg::failed(name, "nobody answers there", "restart the daemon: its socket was removed")
        }
        (None, true) => Leg::failed(name, "another program has it", "stop it, or choose another with --link"),
        (None, false) => Leg::skipped(name, "no daemon").but("start it with `host-agent serve`"),
    }
}

fn taps(daemon: Option<&Status>) -> Vec<Leg> {
    const REMEDY: &str = "start the VM with the tap preloaded and DESKTOPSTREAM_LINK set to the link's path";
    let Some(status) = daemon else {
        return vec![Leg::skipped("taps", "no daemon to ask").but("start it with `host-agent serve`")];
    };
    if status.vms.is_empty() {
        return vec![Leg::skipped("taps", "no VM's tap is connected: only rung Pixels works").but(REMEDY)];
    }
    let tap = |vm: &crate::status::VmStatus| {
        let name = format!("tap of {}", vm.name);
        let detail = format!("version {}, pid {}, {} contexts", vm.tap_version, vm.pid, vm.stats.contexts);
        if vm.stats.disabled {
            let detail = format!("{detail}: switched itself off after {} faults", vm.stats.faults);
            return Leg::failed(name, detail, "restart the VM, and report the fault from its log");
        }
        Leg::ok(name, detail)
    };
    status.vms.iter().map(tap).collect()
}

fn encoders() -> Vec<Leg> {
    let found = crate::encoders::available();
    let works = found.iter().any(|found| found.trial.is_ok());
    let mut legs: Vec<_> = found
        .into_iter()
        .map(|found| {
            let name = format!("encoder {}", found.name);
            match found.trial {
                Ok(time) => Leg::ok(name, format!("three pictures in {} ms", time.as_millis())),
                Err(EncodeError::Unavailable(why)) => Leg::skipped(name, why),
                Err(error) => {
                    Leg::skipped(name, error.to_string()).but("it is there and does not work: see its driver")
                }
            }
        })
        .collect();
    if !works {
        legs.push(Leg::failed("encoders", "none works", "install gstreamer1.0-plugins-ugly for x264enc"));
    }
    legs
}
