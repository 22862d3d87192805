//! The plugin's command line.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use super::kubectl::Kubectl;
use super::{find, list, open, snapshot};
use operator_api::names;

/// Watch DesktopStreams, and look after them.
///
/// Exit codes: 0 it went well, 1 it failed, 2 the command line makes no sense; `doctor` and `logs` have kubectl's.
#[derive(Debug, Parser)]
#[command(name = "kubectl-desktopstream", bin_name = "kubectl desktopstream", version, max_term_width = 100)]
pub struct Plugin {
    #[command(flatten)]
    kubectl: Kubectl,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Streams, how they do, and what to do about those that don't
    List {
        /// Of all namespaces
        #[arg(short = 'A', long)]
        all_namespaces: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Watch a stream: a way to it from here until Ctrl-C, and the browser at its end
    Open(Open),
    /// Have the sidecar walk the picture's path leg by leg, with the stream's own options
    Doctor {
        #[command(flatten)]
        stream: Stream,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// What the sidecar writes
    Logs {
        #[command(flatten)]
        stream: Stream,
        /// Go on as it writes
        #[arg(short, long)]
        follow: bool,
        /// What the desktop writes instead
        #[arg(long)]
        desktop: bool,
        /// What it wrote before its last restart
        #[arg(short, long)]
        previous: bool,
        /// The last lines only
        #[arg(long)]
        tail: Option<u32>,
    },
    /// The picture of now, as PNG
    Snapshot {
        #[command(flatten)]
        stream: Stream,
        /// The file, `-` for stdout [default: NAME.png]
        #[arg(short, long)]
        output: Option<PathBuf>,
    },
}

/// Which stream, and which of its pods.
#[derive(Debug, Clone, Args)]
pub struct Stream {
    /// The DesktopStream
    pub name: String,
    /// One of its pods, where `spec.attach` gives it several
    #[arg(long)]
    pub pod: Option<String>,
}

/// Options of `open`.
#[derive(Debug, Args)]
pub struct Open {
    #[command(flatten)]
    pub stream: Stream,
    /// The port here; any if left out
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Print the URL only
    #[arg(long)]
    pub no_browser: bool,
    /// Print the URL as JSON, and start no browser
    #[arg(long)]
    pub json: bool,
}

impl Plugin {
    /// Parses the command line and does what it says.
    pub fn parse_and_run() -> ExitCode {
        let Self { kubectl, command } = Self::parse();
        match command.run(&kubectl) {
            Ok(code) => code,
            Err(error) => {
                eprintln!("kubectl desktopstream: {error:#}");
                ExitCode::FAILURE
            }
        }
    }
}

impl Command {
    fn run(self, kubectl: &Kubectl) -> Result<ExitCode> {
        match self {
            Self::List { all_namespaces, json } => list::run(kubectl, all_namespaces, json)?,
            Self::Open(options) => open::run(kubectl, &options)?,
            Self::Doctor { stream, json } => {
                let found = find::target(kubectl, &stream)?;
                let mut words = found.in_pod("exec");
                words.extend(["-c", names::SIDECAR_CONTAINER, "--", "sidecar", "doctor"].map(str::to_owned));
                words.extend(found.doctor_options());
                words.extend(json.then(|| "--json".to_owned()));
                return kubectl.hand_over(&words);
            }
            Self::Logs { stream, follow, desktop, previous, tail } => {
                let found = find::target(kubectl, &stream)?;
                let mut words = found.in_pod("logs");
                words.push("-c".to_owned());
                words.push(if desktop {
                    found.desktop_container()
                } else {
                    names::SIDECAR_CONTAINER.to_owned()
                });
                words.extend(follow.then(|| "--follow".to_owned()));
                words.extend(previous.then(|| "--previous".to_owned()));
                words.extend(tail.map(|lines| format!("--tail={lines}")));
                return kubectl.hand_over(&words);
            }
            Self::Snapshot { stream, output } => snapshot::run(kubectl, &stream, output)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectls_options_may_stand_anywhere() {
        use clap::CommandFactory as _;
        Plugin::command().debug_assert();
        for line in ["-n team snapshot desk -o -", "snapshot -n team desk -o -", "snapshot desk -o - -n team"]
        {
            let words = ["kubectl-desktopstream"].into_iter().chain(line.split(' '));
            let plugin = Plugin::try_parse_from(words).expect("parses");
            assert_eq!(plugin.kubectl.namespace.as_deref(), Some("team"), "{line}");
        }
        assert!(Plugin::try_parse_from(["kubectl-desktopstream", "open"]).is_err(), "which one?");
    }
}
