//! `./x lab cluster` and `./x demo --kubernetes`: a topology on the command line.

mod hold;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use e2e::Desktop;
use topology::{Options, Topology, Viewers, progress, stream};

/// A Kubernetes cluster whose nodes are VMs with a virtio-gpu, with the chart installed and a host-agent beside it
#[derive(Parser)]
#[command(name = "x lab cluster", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a topology and leave it running
    Up(Up),
    /// End the topology
    Down,
    /// List nodes, pods and streams
    Status,
    /// Run kubectl with the cluster's kubeconfig
    Kubectl {
        /// kubectl's arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Start a topology, stream a GNOME and a sway desktop, and end it on Ctrl-C
    Demo(Demo),
    /// Holds the topology that `up` started
    #[command(hide = true)]
    Hold(Up),
}

/// Size of the topology
#[derive(Args, Clone)]
struct Up {
    /// Number of VMs
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    vms: u8,
    /// Number of host-agents, among which the VMs are divided
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    host_agents: u8,
}

/// Options of the demo
#[derive(Args)]
struct Demo {
    #[command(flatten)]
    up: Up,
    /// End after this time of streaming
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
}

/// Name of the only topology of the command line: it takes most of a machine.
const NAME: &str = "lab";
/// Limit of a desktop's start: GNOME takes minutes on an emulated processor.
const START_TIMEOUT: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("topology: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up(Up { vms, host_agents }) => {
            hold::up(&["--vms", &vms.to_string(), "--host-agents", &host_agents.to_string()])?;
        }
        Command::Down => hold::down()?,
        Command::Status => hold::status(NAME)?,
        Command::Kubectl { arguments } => return hold::kubectl(NAME, &arguments),
        Command::Hold(up) => hold_topology(&up)?,
        Command::Demo(options) => demo(&options)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn options(up: &Up) -> Options {
    Options {
        name: NAME.to_owned(),
        vms: up.vms,
        host_agents: up.host_agents.into(),
        desktops: vec![Desktop::Pattern, Desktop::Sway, Desktop::Gnome],
    }
}

fn hold_topology(up: &Up) -> Result<()> {
    let signals = hold::handle_signals()?;
    let topology = Topology::up(&options(up))?;
    hold::HELD.ready()?;
    signals.wait(None);
    drop(topology);
    Ok(())
}

fn demo(Demo { up, seconds }: &Demo) -> Result<()> {
    let signals = hold::handle_signals()?;
    let topology = Topology::up(&options(up))?;
    let watch = topology.bed.cluster.command("kubectl")?.args(["get", "desktopstreams", "-w"]).spawn();
    let mut watch = hold::Reaped(watch?);
    let mut all = Vec::new();
    // One after the other: two desktops that start together take too long on an emulated processor.
    for (name, desktop) in [("gnome", Desktop::Gnome), ("sway", Desktop::Sway)] {
        topology.bed.cluster.apply(&stream("default", name, desktop, (1280, 720)).to_string())?;
        let took = topology.await_ready("default", name, START_TIMEOUT)?;
        let viewers = Viewers::of(&topology.bed, "default", name)?;
        progress(&format!("{name} streams after {:.0} s", took.as_secs_f64()));
        println!("\n    {name}: {}/#token={}\n", viewers.url(), viewers.token);
        all.push((name, viewers));
    }
    if seconds.is_none() {
        println!("    Press Ctrl-C to end the demo.\n");
    }
    signals.wait(seconds.map(Duration::from_secs));
    watch.end();
    for (name, viewers) in all {
        println!("{name}: {}", serde_json::to_string_pretty(&viewers.status()?)?);
    }
    Ok(())
}
