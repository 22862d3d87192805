//! `./x docker`: test engines on the command line.

mod lab_docker;

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use engine::{Engine, Result, Version};

/// A real Docker Engine on this machine, in its own namespaces
///
/// Any other command is passed to docker: ./x docker ps, ./x docker compose up.
#[derive(Parser)]
#[command(name = "x docker")]
struct Arguments {
    /// Name of the engine
    #[arg(long, default_value = "main")]
    name: String,
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start an engine and leave it running
    Up {
        /// Use Debian's docker.io instead of the newest version
        #[arg(long)]
        debian: bool,
    },
    /// End the engine with all containers, images and volumes
    Down,
    /// Build the engine's programs
    Build,
    /// Build the images of docker/bake.hcl, on an engine that is started if it is not running
    Images {
        /// Architecture: amd64, arm64 (VMs on a Mac) [default: this machine's]
        #[arg(long, default_value_t, hide_default_value = true)]
        arch: lab::Arch,
        /// Names of images [default: all]
        names: Vec<String>,
    },
    /// List the running engines
    Status,
    /// Forward a port of this host's loopback to a published port, until Ctrl-C
    Forward {
        /// A port that a container publishes on 127.0.0.1
        port: u16,
    },
    /// An engine in a VM of the lab: `./x lab docker`
    #[command(subcommand, hide = true)]
    Lab(lab_docker::Command),
    #[command(external_subcommand)]
    Docker(Vec<OsString>),
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("docker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(Arguments { name, command }: Arguments) -> Result<ExitCode> {
    match command {
        Action::Up { debian } => {
            let version = if debian { Version::Debian } else { Version::Current };
            let engine = Engine::up(&name, version)?;
            println!("DOCKER_HOST={}", engine.host());
            engine.detach()?;
        }
        Action::Down => Engine::attach(&name)?.down()?,
        Action::Build => drop(engine::tools::build(Version::Current)?),
        Action::Images { arch, names } => {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            if !Engine::running()?.contains(&name) {
                Engine::up(&name, Version::Current)?.detach()?;
            }
            engine::images::build(&Engine::attach(&name)?, arch, &names)?;
            println!("./x docker down ends the engine and removes its images");
        }
        Action::Status => {
            for name in Engine::running()? {
                println!("{name}  DOCKER_HOST={}", Engine::attach(&name)?.host());
            }
        }
        Action::Forward { port } => {
            let forward = Engine::attach(&name)?.forward((Ipv4Addr::LOCALHOST, port).into())?;
            println!("http://{}/", forward.address());
            loop {
                std::thread::park();
            }
        }
        Action::Lab(command) => return lab_docker::run(&command),
        Action::Docker(arguments) => {
            let status = Engine::attach(&name)?.command("docker")?.args(arguments).status();
            let status = status.context("starting docker")?;
            return Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)));
        }
    }
    Ok(ExitCode::SUCCESS)
}
