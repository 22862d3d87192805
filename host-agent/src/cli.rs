//! The command line.

mod manage;
mod overview;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use contract::doctor::Report;
use host_agent_setup::launch::Launch;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::config::{DEFAULT_NAME, Options, Settings};
use crate::log_file::{self, LogFile};
use crate::{doctor, keys, selftest, serve, sys};

/// Encodes the desktops of Linux VMs on their host and streams them back to the VMs' sidecars.
///
/// Exit status: 0 success, 1 failure, 2 invalid command line.
#[derive(Debug, Parser)]
#[command(version, name = "host-agent")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Log as JSON. RUST_LOG selects the messages: RUST_LOG=host_agent=debug
    #[arg(long, global = true, env = "HOST_AGENT_LOG_JSON")]
    log_json: bool,
    /// Log to this file instead of stderr. At 8 MiB it is renamed to FILE.1; FILE.1 to FILE.4 are kept
    #[arg(long, global = true, value_name = "FILE", env = "HOST_AGENT_LOG_FILE")]
    log_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon until SIGINT or SIGTERM
    Serve {
        /// Configuration file (TOML); flags and environment variables override it
        #[arg(long, value_name = "FILE", env = "HOST_AGENT_CONFIG")]
        config: Option<PathBuf>,
        #[command(flatten)]
        options: Box<Options>,
    },
    /// Check each part of the frame path and print remedies; exits with 1 if a check fails
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// The daemon's configuration file
        #[arg(long, value_name = "FILE", env = "HOST_AGENT_CONFIG")]
        config: Option<PathBuf>,
        #[command(flatten)]
        options: Box<Options>,
    },
    /// Test this machine without a VM: sockets, shared memory, every encoder; exits with 1 if a check fails
    Selftest {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Write a report of the checks and the machine to this file
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
    },
    /// Start a VMM with the tap preloaded: host-agent run -- qemu-system-x86_64 …
    Run {
        /// The tap [default: in ../lib/desktopstream beside host-agent, or in its own folder]
        #[arg(long, value_name = "FILE", env = "HOST_AGENT_TAP")]
        tap: Option<PathBuf>,
        /// Socket of the daemon's link; the same as the daemon's --link
        #[arg(long, value_name = "PATH", env = "HOST_AGENT_LINK")]
        link: Option<PathBuf>,
        /// Name of the VM in logs and status [default: QEMU's -name]
        #[arg(long)]
        name: Option<String>,
        /// The VMM and its arguments
        #[arg(last = true, required = true, value_name = "VMM")]
        command: Vec<OsString>,
    },
    /// Install and start the daemon as a service of this user (launchd, systemd); repeat after an upgrade
    Install {
        /// Program to start [default: this program]
        #[arg(long, value_name = "FILE")]
        program: Option<PathBuf>,
        /// Configuration file of the daemon [default: host-agent.toml in the user's configuration folder]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print the actions without executing them
        #[arg(long)]
        dry_run: bool,
    },
    /// Stop and remove the service; configuration and logs are kept
    Uninstall {
        /// Print the actions without executing them
        #[arg(long)]
        dry_run: bool,
    },
    /// Print the state of the service, its listeners, VMs and sessions; exits with 1 if the daemon does not
    /// run
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// The daemon's configuration file
        #[arg(long, value_name = "FILE", env = "HOST_AGENT_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Create or check the daemon's configuration file
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Install the tap into an application that ignores preloaded libraries, or remove it
    #[command(subcommand)]
    Tap(TapCommand),
    /// Print the fingerprint of tls:// endpoints, for sidecars and spec.fingerprint of a HostAgent; make the key if there is
    /// none
    Fingerprint {
        /// The daemon's configuration file [default: host-agent.toml in the user's configuration folder, if it exists]
        #[arg(long, value_name = "FILE", env = "HOST_AGENT_CONFIG")]
        config: Option<PathBuf>,
        /// The key, instead of the configured one
        #[arg(long, value_name = "FILE", env = "HOST_AGENT_TLS_KEY")]
        tls_key: Option<PathBuf>,
    },
    /// Generate an Ed25519 key pair: FILE and FILE.pub
    Keygen {
        /// File for the private key
        file: PathBuf,
    },
    /// Sign a token for development; in a cluster the operator does
    Token {
        /// Private key, as generated by keygen
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The stream: NAMESPACE/NAME
        #[arg(long)]
        stream: String,
        /// The host-agent's --name
        #[arg(long, default_value = DEFAULT_NAME)]
        host_agent: String,
        /// Validity in seconds; a negative number makes an expired token
        #[arg(long, default_value_t = 3600, allow_negative_numbers = true)]
        seconds: i64,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Create a file with all options as comments; an existing file is not changed
    Init {
        /// The file [default: host-agent.toml in the user's configuration folder]
        #[arg(long, value_name = "FILE", env = "HOST_AGENT_CONFIG")]
        config: Option<PathBuf>,
        /// Public key that tokens must be signed with; may be repeated
        #[arg(long, value_name = "FILE")]
        public_key: Vec<PathBuf>,
    },
    /// Check all options, including the keys
    Check {
        /// The file [default: host-agent.toml in the user's configuration folder]
        #[arg(long, value_name = "FILE", env = "HOST_AGENT_CONFIG")]
        config: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct ApplicationArgs {
    /// Name or path of the application: UTM, /Applications/UTM.app
    #[arg(long, value_name = "APP")]
    app: String,
    /// Print the actions without executing them
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Subcommand)]
enum TapCommand {
    /// Back up the application and install the drop-in; repeat after an upgrade of host-agent
    Install {
        #[command(flatten)]
        application: ApplicationArgs,
        /// The drop-in: libvirglrenderer.1.dylib [default: in ../lib/desktopstream beside host-agent, or in
        /// its own folder]
        #[arg(long, value_name = "FILE")]
        drop_in: Option<PathBuf>,
    },
    /// Restore the application from its backup
    Uninstall {
        #[command(flatten)]
        application: ApplicationArgs,
    },
}

impl Cli {
    /// Parses the command line and executes the command.
    pub fn parse_and_run() -> ExitCode {
        let Self { command, log_json, log_file } = Self::parse();
        let logs_to_file = log_file.is_some();
        match init_logging(log_json, log_file).and_then(|()| command.run()) {
            Ok(code) => code,
            Err(error) => {
                eprintln!("host-agent: {error:#}");
                if logs_to_file {
                    tracing::error!("{error:#}");
                }
                ExitCode::FAILURE
            }
        }
    }
}

fn init_logging(json: bool, file: Option<PathBuf>) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let (writer, colors) = match file {
        Some(path) => {
            log_file::truncate_long_stderr();
            let file = LogFile::open(&path, log_file::MAX_BYTES, log_file::ROTATED_FILES)
                .with_context(|| format!("cannot log to {}", path.display()))?;
            (BoxMakeWriter::new(Arc::new(file)), false)
        }
        None => (BoxMakeWriter::new(std::io::stderr), std::io::stderr().is_terminal()),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    if json {
        builder.json().init();
    } else {
        builder.with_ansi(colors).init();
    }
    Ok(())
}

fn with_config_file(options: Options, config: Option<PathBuf>) -> Result<Options> {
    Ok(match config {
        Some(path) => options.or(Options::read(&path)?),
        None => options,
    })
}

impl Command {
    fn run(self) -> Result<ExitCode> {
        match self {
            Self::Serve { config, options } => {
                let settings = with_config_file(*options, config)?.resolve()?;
                let descriptors = sys::raise_descriptor_limit();
                tracing::debug!(descriptors, "limit of descriptors");
                let runtime = tokio::runtime::Runtime::new().context("cannot start the tokio runtime")?;
                runtime.block_on(run_daemon(settings))
            }
            Self::Doctor { json, config, options } => {
                print(&doctor::examine(&with_config_file(*options, config)?), json)
            }
            Self::Selftest { json, report: file } => {
                let report = selftest::examine();
                if let Some(file) = file {
                    selftest::MachineReport::new(&report).write(&file)?;
                    eprintln!("host-agent: wrote the report to {}", file.display());
                }
                print(&report, json)
            }
            Self::Run { tap, link, name, command } => {
                let link = Options { link, ..Options::default() }.link_path();
                Err(Launch { tap, link, name, command }.exec().into())
            }
            Self::Install { program, config, dry_run } => manage::install(program, config, dry_run),
            Self::Uninstall { dry_run } => manage::uninstall(dry_run),
            Self::Status { json, config } => manage::status(json, config),
            Self::Config(ConfigCommand::Init { config, public_key }) => {
                manage::init_config(config, &public_key)
            }
            Self::Config(ConfigCommand::Check { config }) => manage::check_config(config),
            Self::Tap(TapCommand::Install { application, drop_in }) => {
                manage::install_tap(&application.app, drop_in, application.dry_run)
            }
            Self::Tap(TapCommand::Uninstall { application }) => {
                manage::uninstall_tap(&application.app, application.dry_run)
            }
            Self::Fingerprint { config, tls_key } => manage::fingerprint(config, tls_key),
            Self::Keygen { file } => {
                println!("{}", keys::generate_key_pair(&file)?.display());
                Ok(ExitCode::SUCCESS)
            }
            Self::Token { key, stream, host_agent, seconds } => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let signer = keys::read_private_key(&key)?;
                println!("{}", signer.token(&stream, &host_agent, now.as_secs(), seconds)?);
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// Prints a report and returns its exit status.
fn print(report: &Report, json: bool) -> Result<ExitCode> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        println!("{report}");
    }
    Ok(report.exit_code())
}

/// Runs the daemon until a signal arrives or one of its tasks ends.
async fn run_daemon(settings: Settings) -> Result<ExitCode> {
    let mut daemon = serve::start(settings).await?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let failed_task = tokio::select! {
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        task = daemon.task_ended() => Some(task),
    };
    match failed_task {
        None => tracing::info!("shutting down"),
        Some(task) => tracing::error!(task, "task ended unexpectedly; shutting down"),
    }
    daemon.shut_down().await;
    Ok(if failed_task.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests;
