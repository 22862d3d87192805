//! Command line of the plugin.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use operator_api::names;

use crate::kubectl::Kubectl;
use crate::{list, open, snapshot, target};

/// List, open and diagnose DesktopStreams.
///
/// Exit codes: 0 success, 1 failure, 2 invalid command line. `doctor` and `logs` return kubectl's exit code.
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
    /// List streams with their phase, frame path and first problem
    List {
        /// List the streams of all namespaces
        #[arg(short = 'A', long)]
        all_namespaces: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Forward a local port to a stream and open it in the browser, until Ctrl-C
    Open(Open),
    /// Run the sidecar's doctor, which checks the frame path from compositor to viewer
    Doctor {
        #[command(flatten)]
        stream: Stream,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the sidecar's log
    Logs {
        #[command(flatten)]
        stream: Stream,
        /// Keep printing new lines
        #[arg(short, long)]
        follow: bool,
        /// Print the desktop's log instead
        #[arg(long)]
        desktop: bool,
        /// Print the log of the container's previous run
        #[arg(short, long)]
        previous: bool,
        /// Number of lines to print, from the end
        #[arg(long, value_name = "LINES")]
        tail: Option<u32>,
    },
    /// Save the current frame as PNG
    Snapshot {
        #[command(flatten)]
        stream: Stream,
        /// Output file; `-` is standard output [default: NAME.png]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// A stream and, if it has several pods, one of them.
#[derive(Debug, Clone, Args)]
pub(crate) struct Stream {
    /// Name of the DesktopStream
    pub(crate) name: String,
    /// Pod of the stream, if `spec.attach` gives it several
    #[arg(long)]
    pub(crate) pod: Option<String>,
}

/// Options of `open`.
#[derive(Debug, Args)]
pub(crate) struct Open {
    #[command(flatten)]
    pub(crate) stream: Stream,
    /// Use the token of viewers that may not control the desktop
    #[arg(long)]
    pub(crate) view_only: bool,
    /// Local port; 0 picks a free one
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    /// Print the URL without starting a browser
    #[arg(long)]
    pub(crate) no_browser: bool,
    /// Print the URL as JSON without starting a browser
    #[arg(long)]
    pub(crate) json: bool,
}

impl Plugin {
    /// Parses the command line, runs the command and returns the process' exit code.
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
                let target = target::find(kubectl, &stream)?;
                let mut args = target.pod_args("exec");
                args.extend(["-c", names::SIDECAR_CONTAINER, "--", "sidecar", "doctor"].map(str::to_owned));
                args.extend(target.doctor_options());
                args.extend(json.then(|| "--json".to_owned()));
                return kubectl.run_attached(&args);
            }
            Self::Logs { stream, follow, desktop, previous, tail } => {
                let target = target::find(kubectl, &stream)?;
                let mut args = target.pod_args("logs");
                args.push("-c".to_owned());
                args.push(if desktop {
                    target.desktop_container()
                } else {
                    names::SIDECAR_CONTAINER.to_owned()
                });
                args.extend(follow.then(|| "--follow".to_owned()));
                args.extend(previous.then(|| "--previous".to_owned()));
                args.extend(tail.map(|lines| format!("--tail={lines}")));
                return kubectl.run_attached(&args);
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
    fn kubectl_options_are_accepted_at_any_position() {
        use clap::CommandFactory as _;
        Plugin::command().debug_assert();
        for line in ["-n team snapshot desk -o -", "snapshot -n team desk -o -", "snapshot desk -o - -n team"]
        {
            let words = ["kubectl-desktopstream"].into_iter().chain(line.split(' '));
            let plugin = Plugin::try_parse_from(words).expect("parses");
            assert_eq!(plugin.kubectl.namespace.as_deref(), Some("team"), "{line}");
        }
        assert!(Plugin::try_parse_from(["kubectl-desktopstream", "open"]).is_err(), "NAME is required");
    }
}
