//! `./x cluster`: test clusters on the command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use cluster::{Cluster, Config, Image, Result};

/// A real Kubernetes on this machine, in its own network namespaces
#[derive(Parser)]
#[command(name = "x cluster")]
struct Arguments {
    /// Name of the cluster
    #[arg(long, global = true, default_value = "main")]
    name: String,
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start a cluster and leave it running
    Up {
        /// Number of nodes, 1 to 8
        #[arg(long, default_value_t = 1)]
        nodes: u8,
    },
    /// End the cluster and remove its state
    Down,
    /// Build the cluster's programs
    Build,
    /// List the running clusters
    Status,
    /// Run kubectl with the cluster's kubeconfig
    #[command(disable_help_flag = true)]
    Kubectl {
        /// kubectl's arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run helm with the cluster's kubeconfig
    #[command(disable_help_flag = true)]
    Helm {
        /// helm's arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run a command, or a shell, with KUBECONFIG set and kubectl and helm in PATH
    Exec {
        /// The command and its arguments [default: $SHELL]
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Import an image on all nodes
    Import {
        /// The image's reference: docker.io/local/NAME:TAG
        reference: String,
        /// A folder with a root file system, or a static program
        from: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(Arguments { name, command }: Arguments) -> Result<ExitCode> {
    match command {
        Action::Up { nodes } => Cluster::up(&Config::new(&name).nodes(nodes))?.detach()?,
        Action::Down => Cluster::attach(&name)?.down()?,
        Action::Build => drop(cluster::tools::Tools::build()?),
        Action::Status => Cluster::running()?.iter().for_each(|name| println!("{name}")),
        Action::Kubectl { arguments } => return run_command(&name, "kubectl", &arguments),
        Action::Helm { arguments } => return run_command(&name, "helm", &arguments),
        Action::Exec { arguments } => {
            let shell = [std::env::var("SHELL").unwrap_or_else(|_| "sh".to_owned())];
            let command = if arguments.is_empty() { &shell[..] } else { &arguments };
            return run_command(&name, &command[0], &command[1..]);
        }
        Action::Import { reference, from } => {
            let image = if from.is_dir() {
                Image::of_folder(&reference, &from)
            } else {
                Image::of_program(&reference, &from)
            };
            Cluster::attach(&name)?.import(&image)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a command on this process's terminal and returns its exit status.
fn run_command(name: &str, program: &str, arguments: &[String]) -> Result<ExitCode> {
    let cluster = Cluster::attach(name)?;
    let status = cluster.command(program)?.args(arguments).status()?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
