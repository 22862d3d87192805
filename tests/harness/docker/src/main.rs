//! The test engine for people: up, use it, down.

mod lab_docker;

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use engine::{Engine, Result, Version};

/// A real Docker Engine on this machine, in namespaces of its own
///
/// Any other command is docker's, told to this engine: ./x docker ps, ./x docker compose up.
#[derive(Parser)]
struct Arguments {
    /// Which engine
    #[arg(long, default_value = "main")]
    name: String,
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Bring it up and leave it running
    Up {
        /// Debian's docker.io, not the newest
        #[arg(long)]
        debian: bool,
    },
    /// End it, with all containers, images and volumes
    Down,
    /// Build the programs ahead
    Build,
    /// Build our images on it, by docker/bake.hcl; it is brought up if need be
    Images {
        /// For which processor: amd64, arm64 (what a Mac's VM runs) [default: this machine's]
        #[arg(long, default_value_t, hide_default_value = true)]
        arch: lab::Arch,
        /// Which [default: all]
        names: Vec<String>,
    },
    /// Which ones run
    Status,
    /// Lead a port of this computer's loopback to a published one, until Ctrl-C
    Forward {
        /// What a container publishes on 127.0.0.1
        port: u16,
    },
    /// One inside a VM of the lab: `./x lab docker`
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
            println!("./x docker down ends the engine, and its images with it");
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
