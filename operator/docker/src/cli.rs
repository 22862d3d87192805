//! `operator docker`: its command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};

use super::machine::{Given, Machine};
use super::state::Folder;
use super::{names, run, show};
use operator_discovery::gpus::Roots;
use operator_plan::duration::positive;
use operator_plan::kubernetes::SidecarImage;

/// Run streams on a Docker Engine, without a cluster.
///
/// Reads DesktopStream files, makes their containers, keeps them as the files say, and says how they do:
///
///   operator docker --dir streams/      run what is in a folder, until Ctrl-C; desktops go on
///   operator docker status              how they do, and what to do about those that don't
///   operator docker open NAME           watch one in the browser
///
/// Run it on the Engine's machine, or in a container there with the Engine's socket, /dev and /sys.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = false, subcommand_negates_reqs = true, verbatim_doc_comment)]
pub struct Docker {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    run: Run,
}

/// Which streams, and where.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// Whose streams these are: projects don't touch each other [default: this folder's name]
    #[arg(long, global = true, env = "OPERATOR_PROJECT", value_parser = names::check_project)]
    project: Option<String>,
    /// Where keys, viewers' tokens and statuses are kept [default: ~/.local/state/desktopstream]
    #[arg(long, global = true, env = "OPERATOR_STATE")]
    state: Option<PathBuf>,
    /// The Engine, such as unix:///var/run/docker.sock [default: DOCKER_HOST]
    #[arg(long, global = true)]
    engine: Option<String>,
}

/// Options of the operator itself.
#[derive(Debug, Args)]
struct Run {
    /// A folder with DesktopStream files, *.yaml or *.yml; may be given again
    #[arg(long, env = "OPERATOR_DIR", value_delimiter = ',')]
    dir: Vec<PathBuf>,
    /// A DesktopStream file; may be given again
    #[arg(long)]
    file: Vec<PathBuf>,
    /// Bring all about once, and end; exit code 1 if something can't be
    #[arg(long)]
    once: bool,
    /// Take away streams of this project that no file has, also those of earlier runs
    #[arg(long, env = "OPERATOR_PRUNE")]
    prune: bool,
    /// At the end, take down all but home folders, as `docker compose down` is meant
    #[arg(long, env = "OPERATOR_TAKE_DOWN")]
    take_down: bool,
    /// Where a host-agent is, instead of HostAgents in files: tcp://HOST:PORT, vsock://CID:PORT, unix:/PATH; may be given again [default: vsock://2:15937, tcp://gateway:15937]
    #[arg(long, env = "OPERATOR_HOST_AGENT", value_delimiter = ',')]
    host_agent: Vec<String>,
    /// A render node of the Engine's machine, with its group where that is another machine: /dev/dri/renderD128:105; may be given again [default: all that are found]
    #[arg(long, env = "OPERATOR_GPU", value_delimiter = ',', value_parser = Given::read)]
    gpu: Vec<Given>,
    /// A driver that counts as a GPU's besides those that we know; may be given again
    #[arg(long = "driver", env = "OPERATOR_DRIVERS", value_delimiter = ',')]
    drivers: Vec<String>,
    /// The machine's /dev
    #[arg(long, env = "OPERATOR_DEV", default_value = "/dev")]
    dev: PathBuf,
    /// The machine's /sys
    #[arg(long, env = "OPERATOR_SYS", default_value = "/sys")]
    sys: PathBuf,
    /// The machine's /proc, for its default gateway
    #[arg(long, env = "OPERATOR_PROC", default_value = "/proc")]
    proc: PathBuf,
    /// The sidecar's image; its entrypoint is the sidecar
    #[arg(long, env = "OPERATOR_SIDECAR_IMAGE", default_value = "desktopstream/sidecar")]
    sidecar_image: String,
    /// When the sidecar's image is pulled: Always, IfNotPresent, Never
    #[arg(long, env = "OPERATOR_SIDECAR_PULL_POLICY", default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    sidecar_pull_policy: String,
    /// Memory that a sidecar may use: encoding in the sidecar needs some
    #[arg(long, env = "OPERATOR_SIDECAR_MEMORY_LIMIT", default_value = "1Gi")]
    sidecar_memory_limit: String,
    /// How often a running sidecar is asked how it does
    #[arg(long, env = "OPERATOR_POLL", default_value = "5s", value_parser = positive)]
    poll: Duration,
    /// How long a token for a host-agent is good; renewed at half of it
    #[arg(long, env = "OPERATOR_TOKEN_LIFE", default_value = "1h", value_parser = positive)]
    token_life: Duration,
    /// Streams at once
    #[arg(long, env = "OPERATOR_CONCURRENCY", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    concurrency: u16,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Streams, how they do, and what to do about those that don't
    Status {
        /// This one only
        name: Option<String>,
        /// Print JSON: the streams with the status that a cluster would show
        #[arg(long)]
        json: bool,
    },
    /// What the sidecar writes
    Logs(show::Logs),
    /// Watch a stream: prints its URL, and starts the browser
    Open {
        /// The DesktopStream
        name: String,
        /// Print the URL only
        #[arg(long)]
        no_browser: bool,
        /// Print the URL as JSON, and start no browser
        #[arg(long)]
        json: bool,
    },
    /// Look at the Engine and this machine; with a name, have its sidecar walk the picture's path leg by leg
    Doctor {
        /// The DesktopStream
        name: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Take a stream's containers, network and volumes away. A stream that a file has comes back
    Rm {
        /// The DesktopStreams
        #[arg(required = true)]
        names: Vec<String>,
        /// Also a home folder that would be kept
        #[arg(long)]
        home: bool,
    },
}

impl Docker {
    /// Does what it says; the exit code is 0 unless a doctor's says otherwise.
    pub async fn run(self) -> Result<u8> {
        let Self { command, place, run: options } = self;
        let Place { project, state, engine } = place;
        let project = match project {
            Some(project) => project,
            None => here()?,
        };
        let state = state.unwrap_or_else(Folder::usual);
        let Some(command) = command else {
            options.start(project, state, engine).await?;
            return Ok(0);
        };
        let show = show::Show::new(project, &state, engine)?;
        match command {
            Command::Status { name, json } => show.status(name.as_deref(), json)?,
            Command::Logs(options) => show.logs(&options).await?,
            Command::Open { name, no_browser, json } => show.open(&name, no_browser, json).await?,
            Command::Doctor { name: Some(name), json } => return show.doctor(&name, json).await,
            Command::Doctor { name: None, json } => {
                return show.machine(&options.machine(), &options.sidecar_image, json).await;
            }
            Command::Rm { names, home } => show.rm(&names, home).await?,
        }
        Ok(0)
    }
}

/// This folder's name, as a project.
fn here() -> Result<String> {
    let folder = std::env::current_dir().context("can't tell this folder's name; give --project")?;
    Ok(names::project(&folder.file_name().unwrap_or_default().to_string_lossy()))
}

impl Run {
    fn machine(&self) -> Machine {
        let name = std::fs::read_to_string(self.proc.join("sys/kernel/hostname")).unwrap_or_default();
        Machine {
            name: Some(name.trim().to_owned())
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| "docker".to_owned()),
            roots: Roots { dev: self.dev.clone(), sys: self.sys.clone(), more_drivers: self.drivers.clone() },
            given: self.gpu.clone(),
        }
    }

    async fn start(self, project: String, state: PathBuf, engine: Option<String>) -> Result<()> {
        let machine = self.machine();
        let Self {
            dir,
            file,
            once,
            prune,
            take_down,
            host_agent,
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
        let sources: Vec<PathBuf> = dir.into_iter().chain(file).collect();
        anyhow::ensure!(
            !sources.is_empty(),
            "where are the streams? Give --dir FOLDER or --file FILE; docs/samples has some to begin with"
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
            host_agents: host_agent,
            prune,
            once,
            take_down,
        })
        .await
    }
}
