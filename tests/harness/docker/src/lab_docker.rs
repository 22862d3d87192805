//! `./x lab docker`: an engine inside a VM, for people.

use std::process::ExitCode;
use std::sync::mpsc::channel;

use anyhow::{Context as _, ensure};
use clap::Subcommand;
use e2e::Desktop;
use engine::Result;
use engine::vm::{DockerVm, GuestEngine};
use lab::hold::Held;

/// A Docker Engine in a VM with a GPU, with our images and docker/compose.yaml
///
/// Any other command is docker's, run in the VM in a folder with docker/compose.yaml: ./x lab docker compose up --detach,
/// ./x lab docker ps. The host-agent is on this computer.
#[derive(Subcommand)]
#[command(name = "x lab docker")]
pub enum Command {
    /// Bring it up and leave it running
    Up,
    /// End it, VM and all
    Down,
    /// What runs in it
    Status,
    /// Lead a port of this computer to a stream's viewers: prints the URL
    Open {
        /// The stream
        name: String,
    },
    /// Holds one that `up` left
    #[command(hide = true)]
    Hold,
    #[command(external_subcommand)]
    Docker(Vec<String>),
}

/// One at a time: it takes most of a machine.
const NAME: &str = "docker";
const HELD: Held = Held("lab-docker");

/// Does what it says; docker's exit status is its own.
pub fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Up => {
            HELD.up(&["lab", "hold"])?;
            println!(
                "It is up. ./x lab docker compose up --detach; ./x lab docker open sway; ./x lab docker down ends it."
            );
        }
        Command::Down => println!("{}", if HELD.down()? { "ended" } else { "nothing is up" }),
        Command::Status => {
            ensure!(HELD.is_up()?, "nothing is up: ./x lab docker up");
            let engine = GuestEngine::attach(NAME)?;
            print!("{}", engine.docker(&["ps", "--all"])?);
            if !engine.docker(&["compose", "ps", "--quiet"])?.trim().is_empty() {
                print!("{}", engine.operator(&["status"])?);
            }
        }
        Command::Open { name } => {
            let (url, token) = GuestEngine::attach(NAME)?.viewers(name)?;
            println!("{url}/?token={token}");
        }
        Command::Hold => hold()?,
        Command::Docker(words) => {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let status = GuestEngine::attach(NAME)?.interact(&words)?;
            return Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn hold() -> Result<()> {
    let (tell, told) = channel();
    ctrlc::set_handler(move || {
        // Told once is told.
        let _ = tell.send(());
    })
    .context("listening for signals")?;
    let it = DockerVm::up(NAME, &[Desktop::Sway, Desktop::Pattern])?;
    HELD.ready()?;
    // No sender is left: the end, too.
    let _ = told.recv();
    drop(it);
    Ok(())
}
