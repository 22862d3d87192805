//! The test cluster for people: up, look around, down.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use cluster::{Cluster, Config, Image, Result};

/// A real Kubernetes on this machine, in network namespaces of its own
#[derive(Parser)]
struct Arguments {
    /// Which cluster
    #[arg(long, global = true, default_value = "main")]
    name: String,
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Bring it up and leave it running
    Up {
        /// How many nodes
        #[arg(long, default_value_t = 1)]
        nodes: u8,
    },
    /// End it
    Down,
    /// Build the programs ahead
    Build,
    /// Which ones run
    Status,
    /// kubectl, with this cluster's kubeconfig
    #[command(disable_help_flag = true)]
    Kubectl {
        /// What kubectl is told
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// helm, with this cluster's kubeconfig
    #[command(disable_help_flag = true)]
    Helm {
        /// What helm is told
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Any command, with KUBECONFIG set and kubectl and helm in PATH: a shell, if none is named
    Exec {
        /// The command
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Give an image, made of a folder, to all nodes
    Import {
        /// Its name: docker.io/local/NAME:TAG
        reference: String,
        /// A root file system, or one static program
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
        Action::Kubectl { arguments } => return hand_over(&name, "kubectl", &arguments),
        Action::Helm { arguments } => return hand_over(&name, "helm", &arguments),
        Action::Exec { arguments } => match arguments.split_first() {
            Some((program, arguments)) => return hand_over(&name, program, arguments),
            None => {
                return hand_over(&name, &std::env::var("SHELL").unwrap_or_else(|_| "sh".to_owned()), &[]);
            }
        },
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

/// Runs it with our terminal; its exit status is ours.
fn hand_over(name: &str, program: &str, arguments: &[String]) -> Result<ExitCode> {
    let cluster = Cluster::attach(name)?;
    let status = cluster.command(program)?.args(arguments).status()?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
