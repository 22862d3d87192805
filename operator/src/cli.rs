//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::api::crds;

/// Runs DesktopStreams on Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "operator", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the CustomResourceDefinitions, for `kubectl apply -f -`
    #[command(alias = "crd")]
    Crds,
}

impl Cli {
    /// Parses the command line and does what it says.
    pub fn parse_and_run() -> ExitCode {
        let Self { command: Command::Crds } = Self::parse();
        match crds::stream() {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("operator: {error}");
                ExitCode::FAILURE
            }
        }
    }
}
