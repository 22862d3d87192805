//! The command line.

mod manage;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::config::{DEFAULT_NAME, Options};
use crate::log_file::{self, LogFile};
use host_agent_setup::run::Run;
use crate::{doctor, selftest, serve, token};

/// Pairs sidecars with the GPU contexts of their VMs and encodes their pictures.
///
/// Exit codes: 0 it went well, 1 it failed, 2 the command line makes no sense.
#[derive(Debug, Parser)]
#[command(version, name = "host-agent")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Log as JSON. What is logged is said by RUST_LOG, e.g. RUST_LOG=host_agent=debug
    #[arg(long, global = true, env = "HOST_AGENT_LOG_JSON")]
    log_json: bool,
    /// Log to this file instead of stderr. It becomes FILE.1 at 8 MiB; four of those are kept
    #[arg(long, global = true, value_name = "FILE", env = "HOST_AGENT_LOG_FILE")]
    log_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon until SIGINT or SIGTERM
    Serve {
        /// A file with the same options, as TOML; flags and environment come first
        #[arg(long, value_name = "FILE", env = "HOST_AGENT_CONFIG")]
        config: Option<PathBuf>,
        #[command(flatten)]
        options: Box<Options>,
    },
    /// Walk the path leg by leg and say what fails; exits with 1 if something does
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// The daemon's file
        #[arg(long, value_name = "FILE", env = "HOST_AGENT_CONFIG")]
        config: Option<PathBuf>,
        #[command(flatten)]
        options: Box<Options>,
    },
    /// Try what can be tried without a VM: sockets, shared memory, every encoder; exits with 1 if something fails
    Selftest {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Write a report to send: what was tried, on which system and machine
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
    },
    /// Start a VMM with the tap inserted: host-agent run -- qemu-system-x86_64 …
    Run {
        /// The tap [default: beside host-agent, or in ../lib/desktopstream]
        #[arg(long, value_name = "FILE", env = "HOST_AGENT_TAP")]
        tap: Option<PathBuf>,
        /// The daemon's --link
        #[arg(long, value_name = "PATH", env = "HOST_AGENT_LINK")]
        link: Option<PathBuf>,
        /// What the VM is called, here and in status [default: QEMU's -name]
        #[arg(long)]
        name: Option<String>,
        /// The VMM and its arguments
        #[arg(last = true, required = true, value_name = "VMM")]
        command: Vec<OsString>,
    },
    /// Define the daemon as a service of this user's (launchd, systemd) and start it; again after an upgrade
    Install {
        /// What is started [default: this program]
        #[arg(long, value_name = "FILE")]
        program: Option<PathBuf>,
        /// What it reads [default: host-agent.toml in the user's own folder; see `host-agent status`]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Say what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Stop the service and forget it; config and logs stay
    Uninstall {
        /// Say what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Whether the service runs, what listens where, which VMs and sessions there are; exits with 1 if nothing runs
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// The daemon's file
        #[arg(long, value_name = "FILE", env = "HOST_AGENT_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Make or check the daemon's config file
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Put the tap into an application that takes no inserted library, or take it out
    #[command(subcommand)]
    Tap(TapCommand),
    /// Make a key pair: FILE and FILE.pub
    Keygen {
        /// Where the private key goes
        file: PathBuf,
    },
    /// Mint a token for development; in a cluster the operator does
    Token {
        /// The private key, as keygen made it
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The stream: namespace/name
        #[arg(long)]
        stream: String,
        /// The host-agent's --name
        #[arg(long, default_value = DEFAULT_NAME)]
        host_agent: String,
        /// How long it is good, seconds; less than 0 makes one that has expired
        #[arg(long, default_value_t = 3600, allow_negative_numbers = true)]
        seconds: i64,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Write a file to begin with; one that is there stays as it is
    Init {
        /// Which [default: host-agent.toml in the user's own folder]
        #[arg(long, value_name = "FILE", env = "HOST_AGENT_CONFIG")]
        config: Option<PathBuf>,
        /// A key that signs tokens; may be given again
        #[arg(long, value_name = "FILE")]
        public_key: Vec<PathBuf>,
    },
    /// Check all of it, keys included
    Check {
        /// Which [default: host-agent.toml in the user's own folder]
        #[arg(long, value_name = "FILE", env = "HOST_AGENT_CONFIG")]
        config: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct Application {
    /// Its name or path: UTM, /Applications/UTM.app
    #[arg(long, value_name = "APP")]
    app: String,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Subcommand)]
enum TapCommand {
    /// Put it in, with a backup of the application; again after an upgrade of ours
    Install {
        #[command(flatten)]
        application: Application,
        /// The drop-in [default: libvirglrenderer.1.dylib beside host-agent, or in ../lib/desktopstream]
        #[arg(long, value_name = "FILE")]
        drop_in: Option<PathBuf>,
    },
    /// Take it out: the application is again what it was
    Uninstall {
        #[command(flatten)]
        application: Application,
    },
}

impl Cli {
    /// Parses the command line and does what it says.
    pub fn parse_and_run() -> ExitCode {
        let cli = Self::parse();
        let to_file = cli.log_file.is_some();
        let done = log(cli.log_json, cli.log_file).and_then(|()| cli.command.run());
        match done {
            Ok(code) => code,
            Err(error) => {
                eprintln!("host-agent: {error:#}");
                if to_file {
                    tracing::error!("{error:#}");
                }
                ExitCode::FAILURE
            }
        }
    }
}

fn log(json: bool, file: Option<PathBuf>) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let (writer, colours) = match file {
        Some(path) => {
            log_file::shorten_stderr();
            let file = LogFile::open(&path, log_file::LARGEST, log_file::KEPT)
                .with_context(|| format!("can't log to {}", path.display()))?;
            (BoxMakeWriter::new(Arc::new(file)), false)
        }
        None => (BoxMakeWriter::new(std::io::stderr), std::io::stderr().is_terminal()),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    if json {
        builder.json().init();
    } else {
        builder.with_ansi(colours).init();
    }
    Ok(())
}

fn merged(options: Options, config: Option<PathBuf>) -> Result<Options> {
    Ok(match config {
        Some(path) => options.or(Options::read(&path)?),
        None => options,
    })
}

impl Command {
    fn run(self) -> Result<ExitCode> {
        match self {
            Self::Serve { config, options } => {
                let settings = merged(*options, config)?.settle()?;
                tokio::runtime::Runtime::new().context("can't start the runtime")?.block_on(run(settings))
            }
            Self::Doctor { json, config, options } => {
                Ok(doctor::examine(&merged(*options, config)?).print(json))
            }
            Self::Selftest { json, report: file } => {
                let report = selftest::examine();
                if let Some(file) = file {
                    selftest::Sent::new(&report).write(&file)?;
                    eprintln!("host-agent: {} is the report to send", file.display());
                }
                Ok(report.print(json))
            }
            Self::Run { tap, link, name, command } => {
                let link = Options { link, ..Options::default() }.link_path();
                Err(Run { tap, link, name, command }.exec().into())
            }
            Self::Install { program, config, dry_run } => manage::install(program, config, dry_run),
            Self::Uninstall { dry_run } => manage::uninstall(dry_run),
            Self::Status { json, config } => manage::status(json, config),
            Self::Config(ConfigCommand::Init { config, public_key }) => manage::init(config, &public_key),
            Self::Config(ConfigCommand::Check { config }) => manage::check(config),
            Self::Tap(TapCommand::Install { application, drop_in }) => {
                manage::tap_in(&application.app, drop_in, application.dry_run)
            }
            Self::Tap(TapCommand::Uninstall { application }) => {
                manage::tap_out(&application.app, application.dry_run)
            }
            Self::Keygen { file } => {
                let public = token::generate(&file)?;
                println!("{}", public.display());
                Ok(ExitCode::SUCCESS)
            }
            Self::Token { key, stream, host_agent, seconds } => {
                let key = token::read_private_key(&key)?;
                println!("{}", token::sign(&key, &token::claims(&stream, &host_agent, seconds)?)?);
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

async fn run(settings: crate::config::Settings) -> Result<ExitCode> {
    let mut running = serve::start(settings).await?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("can't listen for SIGTERM")?;
    let failed = tokio::select! {
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        task = running.failed() => Some(task),
    };
    match failed {
        None => tracing::info!("stopping"),
        Some(task) => tracing::error!(task, "ended by itself; stopping"),
    }
    running.shut_down().await;
    Ok(if failed.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests;
