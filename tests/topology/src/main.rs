//! `./x lab cluster` and `./x demo --kubernetes`: a topology for people.

mod keep;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use e2e::Desktop;
use topology::pieces::{Viewers, say, stream};
use topology::{Options, Topology};

/// A Kubernetes whose nodes are VMs with a virtio-gpu, our chart in it, and a host-agent beside it
#[derive(Parser)]
#[command(name = "x lab cluster", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Put it up, and leave it running
    Up(Up),
    /// End it
    Down,
    /// Nodes, pods, streams
    Status,
    /// kubectl in it: what follows is its command line
    Kubectl {
        /// kubectl's arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Put it up, apply a GNOME and a sway desktop, show them until Ctrl-C
    Demo(Demo),
    /// Holds one that `up` left
    #[command(hide = true)]
    Hold(Up),
}

/// What to put up
#[derive(Args, Clone)]
struct Up {
    /// How many VMs
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    vms: u8,
    /// How many host-agents beside them: VMs take turns with them
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    host_agents: u8,
}

/// What to show
#[derive(Args)]
struct Demo {
    #[command(flatten)]
    up: Up,
    /// End by itself after so many seconds of streaming
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
}

/// One at a time: it takes most of a machine.
const NAME: &str = "lab";
/// GNOME takes minutes on an emulated processor.
const PATIENCE: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Up(up) => {
            keep::up(&["--vms", &up.vms.to_string(), "--host-agents", &up.host_agents.to_string()])
        }
        Command::Down => keep::down(),
        Command::Status => keep::status(NAME),
        Command::Kubectl { arguments } => return keep::kubectl(NAME, &arguments),
        Command::Hold(up) => hold(&up),
        Command::Demo(options) => demo(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("topology: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options(up: &Up) -> Options {
    Options {
        name: NAME.to_owned(),
        vms: up.vms,
        host_agents: up.host_agents.into(),
        desktops: vec![Desktop::Pattern, Desktop::Sway, Desktop::Gnome],
    }
}

fn hold(up: &Up) -> Result<()> {
    let ended = keep::until_told()?;
    let topology = Topology::up(&options(up))?;
    keep::HELD.ready()?;
    ended.wait(None);
    drop(topology);
    Ok(())
}

fn demo(Demo { up, seconds }: &Demo) -> Result<()> {
    let ended = keep::until_told()?;
    let topology = Topology::up(&options(up))?;
    let watch = topology.bed.cluster.command("kubectl")?.args(["get", "desktopstreams", "-w"]).spawn();
    let mut watch = keep::Reaped(watch?);
    let mut ways = Vec::new();
    // One after the other: two that start at once keep an emulated processor from either.
    for (name, desktop) in [("gnome", Desktop::Gnome), ("sway", Desktop::Sway)] {
        topology.bed.cluster.apply(&stream("default", name, desktop, (1280, 720)).to_string())?;
        let took = topology.ready("default", name, PATIENCE)?;
        let viewers = Viewers::of(&topology.bed, "default", name)?;
        say(&format!("{name} streams after {:.0} s", took.as_secs_f64()));
        println!("\n    {name}: {}/?token={}\n", viewers.url(), viewers.token);
        ways.push((name, viewers));
    }
    if seconds.is_none() {
        println!("    Ctrl-C ends it.\n");
    }
    ended.wait(seconds.map(Duration::from_secs));
    watch.end();
    for (name, viewers) in ways {
        let status = viewers.status()?;
        println!("{name}: {}", serde_json::to_string_pretty(&status)?);
    }
    Ok(())
}
