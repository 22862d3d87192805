//! `./x lab docker`: an engine in a VM, on the command line.

use std::process::ExitCode;
use std::sync::mpsc::channel;

use anyhow::{Context as _, ensure};
use clap::Subcommand;
use e2e::Desktop;
use engine::Result;
use engine::vm::{DockerVm, GuestEngine};
use lab::hold::Held;

/// A Docker Engine in a VM with a GPU, with the images and docker/compose.yaml
///
/// Any other command is passed to docker, which runs in the VM in a folder with docker/compose.yaml: ./x lab docker compose
/// up --detach, ./x lab docker ps. The host-agent runs on the host.
#[derive(Subcommand)]
#[command(name = "x lab docker")]
pub enum Command {
    /// Start the VM and leave it running
    Up,
    /// End the VM
    Down,
    /// List containers and streams
    Status,
    /// Forward a port of this host to a stream's viewers, and print the URL
    Open {
        /// Name of the stream
        name: String,
    },
    /// Holds the VM that `up` started
    #[command(hide = true)]
    Hold,
    #[command(external_subcommand)]
    Docker(Vec<String>),
}

/// The only VM of this kind: it takes most of a machine.
const NAME: &str = "docker";
const HELD: Held = Held("lab-docker");

/// Runs a command; the exit status of a docker command is docker's.
pub fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Up => {
            HELD.up(&["lab", "hold"])?;
            println!(
                "The VM is up. Start the example with ./x lab docker compose up --detach, print its URL with \
                 ./x lab docker open sway, end the VM with ./x lab docker down."
            );
        }
        Command::Down => println!("{}", if HELD.down()? { "ended" } else { "not running" }),
        Command::Status => {
            ensure!(HELD.is_up()?, "the VM is not running: start it with ./x lab docker up");
            let engine = GuestEngine::attach(NAME)?;
            print!("{}", engine.docker(&["ps", "--all"])?);
            if !engine.docker(&["compose", "ps", "--quiet"])?.trim().is_empty() {
                print!("{}", engine.operator(&["status"])?);
            }
        }
        Command::Open { name } => {
            let (url, token) = GuestEngine::attach(NAME)?.viewers(name)?;
            println!("{url}/#token={token}");
        }
        Command::Hold => hold()?,
        Command::Docker(arguments) => {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let status = GuestEngine::attach(NAME)?.interact(&arguments)?;
            return Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn hold() -> Result<()> {
    let (sender, ended) = channel();
    ctrlc::set_handler(move || {
        // The receiver is gone after the first signal.
        let _ = sender.send(());
    })
    .context("listening for signals")?;
    let vm = DockerVm::up(NAME, &[Desktop::Sway, Desktop::Pattern])?;
    HELD.ready()?;
    // An error means that no sender is left, which ends the VM, too.
    let _ = ended.recv();
    drop(vm);
    Ok(())
}
