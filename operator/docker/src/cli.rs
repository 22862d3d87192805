//! Command line of `operator docker`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use contract::{Endpoint, StreamName};
use operator_api::HostAgentSpec;
use operator_discovery::gpus::Roots;
use operator_plan::duration::positive;
use operator_plan::kubernetes::SidecarImage;

use crate::commands::{Commands, LogsOptions};
use crate::machine::{Machine, RenderNode};
use crate::names::Project;
use crate::run;
use crate::state::StateFolder;

/// Run streams on a Docker Engine, without a cluster.
///
/// Reads DesktopStream files, creates their containers and reconciles them until Ctrl-C:
///
///   operator docker --dir streams/      run the streams of a folder; desktops outlive the operator
///   operator docker status              list streams with their phase and first problem
///   operator docker open NAME           open a stream in the browser
///
/// Run it on the Engine's machine, or in a container there with the Engine's socket, /dev and /sys.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = false, subcommand_negates_reqs = true, verbatim_doc_comment)]
pub struct Docker {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    run: Run,
}

/// Options of all commands.
#[derive(Debug, Clone, Args)]
struct Global {
    /// Project of the streams. Projects do not share objects [default: this folder's name]
    #[arg(long, global = true, env = "OPERATOR_PROJECT")]
    project: Option<Project>,
    /// Folder for keys, viewer tokens and statuses [default: ~/.local/state/desktopstream]
    #[arg(long, global = true, env = "OPERATOR_STATE", value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// Address of the Engine, such as unix:///var/run/docker.sock [default: DOCKER_HOST]
    #[arg(long, global = true, value_name = "ADDRESS")]
    engine: Option<String>,
}

/// Options of the operator itself.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
#[derive(Debug, Args)]
struct Run {
    /// Folder with DesktopStream files, *.yaml or *.yml; repeatable
    #[arg(long, env = "OPERATOR_DIR", value_delimiter = ',')]
    dir: Vec<PathBuf>,
    /// DesktopStream file; repeatable
    #[arg(long)]
    file: Vec<PathBuf>,
    /// Reconcile until nothing changes, then exit; exit code 1 if a stream cannot be created
    #[arg(long)]
    once: bool,
    /// Remove streams of this project that are in no file, including those of earlier runs
    #[arg(long, env = "OPERATOR_PRUNE")]
    prune: bool,
    /// On exit, remove all objects but home volumes, like `docker compose down`
    #[arg(long, env = "OPERATOR_TAKE_DOWN")]
    take_down: bool,
    /// Endpoint of a host-agent, instead of the HostAgents in files: tls://HOST:PORT#sha256=FINGERPRINT, vsock://CID:PORT, unix:/PATH or, with --plaintext-tcp, tcp://HOST:PORT; the host "gateway" is the machine's default gateway; repeatable [default: vsock://2:15937]
    #[arg(long, env = "OPERATOR_HOST_AGENT", value_delimiter = ',', value_name = "ENDPOINT")]
    host_agent: Vec<String>,
    /// Allow --host-agent tcp://HOST:PORT, and try tcp://gateway:15937 by default. Everything between a container and the host-agent can read and change video, tokens and nonces
    #[arg(long, env = "OPERATOR_PLAINTEXT_TCP")]
    plaintext_tcp: bool,
    /// Name of a container that may be recreated with the devices, groups and volume that its sidecar needs; repeatable
    #[arg(long, env = "OPERATOR_RECREATE", value_delimiter = ',', value_name = "CONTAINER")]
    recreate: Vec<String>,
    /// Render node of the Engine's machine, with its group if that is another machine, such as /dev/dri/renderD128:105; repeatable [default: all that are detected]
    #[arg(long, env = "OPERATOR_GPU", value_delimiter = ',', value_parser = RenderNode::parse, value_name = "PATH[:GID]")]
    gpu: Vec<RenderNode>,
    /// Kernel driver to accept as a GPU's, besides the known ones; repeatable
    #[arg(long = "driver", env = "OPERATOR_DRIVERS", value_delimiter = ',', value_name = "DRIVER")]
    drivers: Vec<String>,
    /// Path of the machine's /dev
    #[arg(long, env = "OPERATOR_DEV", default_value = "/dev")]
    dev: PathBuf,
    /// Path of the machine's /sys
    #[arg(long, env = "OPERATOR_SYS", default_value = "/sys")]
    sys: PathBuf,
    /// Path of the machine's /proc, which tells its default gateway
    #[arg(long, env = "OPERATOR_PROC", default_value = "/proc")]
    proc: PathBuf,
    /// Image of the sidecar; its entrypoint must be the sidecar
    #[arg(long, env = "OPERATOR_SIDECAR_IMAGE", default_value = "desktopstream/sidecar")]
    sidecar_image: String,
    /// Pull policy of the sidecar's image
    #[arg(long, env = "OPERATOR_SIDECAR_PULL_POLICY", default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    sidecar_pull_policy: String,
    /// Memory limit of a sidecar; encoding in the sidecar needs most of it
    #[arg(long, env = "OPERATOR_SIDECAR_MEMORY_LIMIT", default_value = "1Gi")]
    sidecar_memory_limit: String,
    /// Interval at which a running sidecar's status is read
    #[arg(long, env = "OPERATOR_POLL", default_value = "5s", value_parser = positive)]
    poll: Duration,
    /// Lifetime of a token for a host-agent; renewed at half of it, and a session ends with it
    #[arg(long, env = "OPERATOR_TOKEN_LIFE", default_value = "24h", value_parser = positive)]
    token_life: Duration,
    /// Number of streams to reconcile at the same time
    #[arg(long, env = "OPERATOR_CONCURRENCY", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    concurrency: u16,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List streams with their phase, frame path and first problem
    Status {
        /// Name of a DesktopStream [default: all]
        name: Option<StreamName>,
        /// Print the streams with their status as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the sidecar's log
    Logs(LogsOptions),
    /// Open a stream in the browser
    Open {
        /// Name of the DesktopStream
        name: StreamName,
        /// Use the token of viewers that may not control the desktop
        #[arg(long)]
        view_only: bool,
        /// Print the URL without starting a browser
        #[arg(long)]
        no_browser: bool,
        /// Print the URL as JSON without starting a browser
        #[arg(long)]
        json: bool,
    },
    /// Check the Engine and its machine; with a name, run that sidecar's doctor
    Doctor {
        /// Name of a DesktopStream
        name: Option<StreamName>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove the containers and volumes of streams. A running operator creates streams again that are in its files
    Rm {
        /// Names of the DesktopStreams
        #[arg(required = true)]
        names: Vec<StreamName>,
        /// Also remove home volumes that would be kept
        #[arg(long)]
        home: bool,
    },
}

impl Docker {
    /// Runs the command. Returns the exit code: that of a doctor, else 0.
    ///
    /// # Errors
    ///
    /// If the command fails.
    pub async fn run(self) -> Result<u8> {
        let Self { command, global, run: options } = self;
        let Global { project, state, engine } = global;
        let project = match project {
            Some(project) => project,
            None => project_of_current_dir()?,
        };
        let state = state.unwrap_or_else(StateFolder::default_root);
        let Some(command) = command else {
            options.start(project, state, engine).await?;
            return Ok(0);
        };
        let commands = Commands::new(project, &state, engine)?;
        match command {
            Command::Status { name, json } => commands.status(name.as_ref(), json)?,
            Command::Logs(options) => commands.logs(&options).await?,
            Command::Open { name, view_only, no_browser, json } => {
                commands.open(&name, view_only, no_browser, json).await?;
            }
            Command::Doctor { name: Some(name), json } => return commands.sidecar_doctor(&name, json).await,
            Command::Doctor { name: None, json } => {
                return commands.engine_doctor(&options.machine(), &options.sidecar_image, json).await;
            }
            Command::Rm { names, home } => commands.rm(&names, home).await?,
        }
        Ok(0)
    }
}

fn project_of_current_dir() -> Result<Project> {
    let folder = std::env::current_dir().context("cannot read the current folder's name; set --project")?;
    Ok(Project::of_folder(&folder.file_name().unwrap_or_default().to_string_lossy()))
}

/// The host-agent of the command line.
fn host_agent_spec(endpoints: Vec<String>, plaintext: bool) -> Result<HostAgentSpec> {
    for text in &endpoints {
        match text.parse::<Endpoint>().context("--host-agent")? {
            Endpoint::Tcp { .. } => anyhow::ensure!(
                plaintext,
                "--host-agent {text} is plaintext: use tls://HOST:PORT#sha256= and the output of `host-agent fingerprint`, \
                 or pass --plaintext-tcp"
            ),
            Endpoint::Tls { fingerprint, .. } => anyhow::ensure!(
                fingerprint.is_some(),
                "--host-agent {text} has no fingerprint: append #sha256= and the output of `host-agent fingerprint`"
            ),
            Endpoint::Unix(_) | Endpoint::Vsock { .. } => {}
        }
    }
    Ok(HostAgentSpec { endpoints, plaintext, ..HostAgentSpec::default() })
}

impl Run {
    fn machine(&self) -> Machine {
        let hostname = std::fs::read_to_string(self.proc.join("sys/kernel/hostname")).unwrap_or_default();
        let name = Some(hostname.trim().to_owned()).filter(|name| !name.is_empty());
        Machine {
            name: name.unwrap_or_else(|| "docker".to_owned()),
            roots: Roots { dev: self.dev.clone(), sys: self.sys.clone(), more_drivers: self.drivers.clone() },
            configured: self.gpu.clone(),
        }
    }

    async fn start(self, project: Project, state: PathBuf, engine: Option<String>) -> Result<()> {
        let machine = self.machine();
        let Self {
            dir,
            file,
            once,
            prune,
            take_down,
            host_agent,
            plaintext_tcp,
            recreate,
            gpu: _,
            drivers: _,
            dev: _,
            sys: _,
            proc,
            sidecar_image,
            sidecar_pull_policy,
            sidecar_memory_limit,
            poll,
            token_life,
            concurrency,
        } = self;
        let host_agent = host_agent_spec(host_agent, plaintext_tcp)?;
        let sources: Vec<PathBuf> = dir.into_iter().chain(file).collect();
        anyhow::ensure!(
            !sources.is_empty(),
            "no streams given: set --dir FOLDER or --file FILE; docs/samples has examples"
        );
        let sidecar = SidecarImage {
            image: sidecar_image,
            pull_policy: Some(sidecar_pull_policy),
            memory_limit: sidecar_memory_limit,
            ..SidecarImage::default()
        };
        run::run(run::Options {
            sources,
            project,
            state,
            engine,
            sidecar,
            poll,
            token_life,
            concurrency: concurrency.into(),
            machine,
            proc,
            host_agent,
            recreatable: recreate.into_iter().collect(),
            prune,
            once,
            take_down,
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(endpoint: &str, plaintext: bool) -> Result<HostAgentSpec> {
        host_agent_spec(vec![endpoint.to_owned()], plaintext)
    }

    #[test]
    fn host_agent_without_protection_is_refused_with_a_remedy() {
        let refused = |endpoint: &str| spec(endpoint, false).expect_err(endpoint).to_string();
        assert!(refused("tcp://10.0.0.1:1").contains("--plaintext-tcp"));
        assert!(refused("tcp://127.0.0.1:1").contains("--plaintext-tcp"));
        assert!(refused("tls://10.0.0.1:1").contains("#sha256="));
        spec("tcp://10.0.0.1:1", true).expect("allowed by name");
        spec(&format!("tls://gateway:1#sha256={}", "ab".repeat(32)), false).expect("pinned");
        spec("vsock://2:1", false).expect("no network");
    }
}
