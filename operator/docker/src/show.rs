//! `operator docker status|logs|open|doctor|rm`: what a person asks, answered from the state folder and the
//! Engine. None needs the operator to run.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::query_parameters::LogsOptions;
use clap::Args;
use futures_util::{Stream, StreamExt};
use serde_json::json;

use super::engine::{Engine, EngineError};
use super::machine::Machine;
use super::names::{self, Place, Role};
use super::observe::{Container, State};
use super::reconcile::View;
use super::state::Folder;
use super::teardown::{Keep, remove_network, teardown};
use kubectl_desktopstream::{find, list, open};
use operator_api::{DesktopStream, Phase};

/// How often `rm` tries where an operator puts things back.
const TRIES: u32 = 3;

/// Options of `logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// The DesktopStream
    name: String,
    /// Go on as it writes
    #[arg(short, long)]
    follow: bool,
    /// What the desktop writes instead
    #[arg(long)]
    desktop: bool,
    /// The last lines only
    #[arg(long)]
    tail: Option<u32>,
}

/// Answers for one project.
#[derive(Debug)]
pub struct Show {
    project: String,
    folder: Folder,
    engine: Engine,
}

impl Show {
    /// For this one.
    pub fn new(project: String, state: &Path, engine: Option<String>) -> Result<Self> {
        let folder = Folder::open(state, &project)?;
        Ok(Self { project, folder, engine: Engine::new(engine) })
    }

    /// The streams as objects, with the status that the operator wrote last.
    fn streams(&self, name: Option<&str>) -> Result<Vec<DesktopStream>> {
        let known = self.folder.streams();
        if let Some(name) = name
            && !known.iter().any(|it| it == name)
        {
            bail!("{}", self.unknown(name));
        }
        let read = |name: &String| {
            let record = self.folder.record(name)?;
            let object = json!({
                "apiVersion": format!("{}/{}", operator_api::GROUP, operator_api::VERSION),
                "kind": "DesktopStream",
                "metadata": {
                    "name": name, "namespace": self.project, "uid": record.uid, "generation": record.generation,
                    "creationTimestamp": record.created,
                },
                "spec": record.spec,
                "status": record.status,
            });
            serde_json::from_value(object).ok()
        };
        Ok(known.iter().filter(|it| name.is_none_or(|name| *it == name)).filter_map(read).collect())
    }

    fn unknown(&self, name: &str) -> String {
        let known = self.folder.streams();
        let there = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        format!("there is no stream {name:?} in project {}; there are: {there}", self.project)
    }

    /// `status`.
    pub fn status(&self, name: Option<&str>, json: bool) -> Result<()> {
        let streams = self.streams(name)?;
        let runs = self.folder.is_run();
        if json {
            println!("{}", serde_json::to_string_pretty(&streams)?);
        } else if streams.is_empty() {
            eprintln!("no streams in project {}; operator docker --dir FOLDER runs some", self.project);
        } else {
            let rows: Vec<list::Row> = streams.iter().map(list::row).collect();
            print!("{}", list::table(&rows, false));
        }
        if !runs && !streams.is_empty() {
            eprintln!("no operator runs for project {}: this was so when it ended", self.project);
        }
        Ok(())
    }

    async fn container(&self, name: &str, role: Role) -> Result<Container> {
        let view = self.view().await?;
        let found = view.container(&Place::new(&self.project, name), role).cloned();
        found.with_context(|| {
            let record = self.folder.record(name);
            match record.map(|it| it.status) {
                Some(status) if status.phase == Some(Phase::Suspended) => {
                    format!("{name} is suspended: set spec.lifecycle.suspended to false")
                }
                Some(_) => {
                    format!("{name} has no {} now; operator docker status {name} says why", role.text())
                }
                None => self.unknown(name),
            }
        })
    }

    async fn view(&self) -> Result<View> {
        let label = format!("{}={}", names::PROJECT, self.project);
        Ok(View::read(self.engine.list(&label).await?))
    }

    /// `logs`.
    pub async fn logs(&self, Logs { name, follow, desktop, tail }: &Logs) -> Result<()> {
        let role = if *desktop { Role::Desktop } else { Role::Sidecar };
        let container = self.container(name, role).await?;
        let options = LogsOptions {
            follow: *follow,
            stdout: true,
            stderr: true,
            tail: tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string()),
            ..LogsOptions::default()
        };
        let docker = self.engine.library().await?;
        copy(docker.logs(&container.id, Some(options))).await
    }

    /// `open`.
    pub async fn open(&self, name: &str, no_browser: bool, json: bool) -> Result<()> {
        let sidecar = self.container(name, Role::Sidecar).await?;
        let base = super::reconcile::address::url(&sidecar);
        let base =
            base.with_context(|| format!("{name}'s sidecar does not run; operator docker logs {name}"))?;
        let token = self.folder.viewer_token(name);
        let url = open::url(base.trim_end_matches('/'), token.as_deref());
        if json {
            println!("{}", json!({"url": url}));
            return Ok(());
        }
        println!("{url}");
        if !no_browser && !open::browse(&url) {
            eprintln!("no browser could be started: open the URL in yours");
        }
        Ok(())
    }

    /// `doctor NAME`: the sidecar's own, with its own options.
    pub async fn doctor(&self, name: &str, json: bool) -> Result<u8> {
        let sidecar = self.container(name, Role::Sidecar).await?;
        if sidecar.state != State::Running {
            bail!("{name}'s sidecar does not run; operator docker logs {name}");
        }
        let args = self.engine.inspect(&sidecar.id).await?.config.and_then(|config| config.cmd);
        let mut words: Vec<String> = ["sidecar", "doctor"].map(str::to_owned).into();
        words.extend(find::doctors(args.unwrap_or_default()));
        words.extend(json.then(|| "--json".to_owned()));
        let docker = self.engine.library().await?;
        let options = CreateExecOptions {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(words),
            ..CreateExecOptions::default()
        };
        let exec =
            docker.create_exec(&sidecar.id, options).await.context("can't run the sidecar's doctor")?;
        match docker.start_exec(&exec.id, None).await.context("can't run the sidecar's doctor")? {
            StartExecResults::Attached { output, .. } => copy(output).await?,
            StartExecResults::Detached => bail!("the Engine did not say what the sidecar's doctor said"),
        }
        let ended = docker.inspect_exec(&exec.id).await?;
        Ok(u8::try_from(ended.exit_code.unwrap_or(1)).unwrap_or(1))
    }

    /// `doctor`: the Engine and its machine.
    pub async fn machine(&self, machine: &Machine, image: &str, json: bool) -> Result<u8> {
        let engine = self.engine.version().await;
        let reached = engine.is_ok();
        let gpus = machine.gpus();
        let gpu = if gpus.is_empty() {
            Err("no GPU that we know in /sys/class/drm; give one by --gpu, or set spec.gpu.count to 0"
                .to_owned())
        } else {
            let said =
                gpus.iter().map(|gpu| format!("{} ({}, group {})", gpu.render, gpu.driver, gpu.render_gid));
            Ok(said.collect::<Vec<_>>().join(", "))
        };
        let sidecar = match self.engine.has_image(image).await {
            Ok(true) => Ok(image.to_owned()),
            Ok(false) => Err(format!(
                "{image} is not here and will be pulled; build or pull it, or give --sidecar-image"
            )),
            Err(error) => Err(error.to_string()),
        };
        let runs = if self.folder.is_run() {
            Ok(format!("runs for project {}", self.project))
        } else {
            Err(format!("none runs for project {}: operator docker --dir FOLDER", self.project))
        };
        let legs = [
            ("engine", engine.map_err(|it| it.to_string())),
            ("gpu", gpu),
            ("sidecar", sidecar),
            ("operator", runs),
        ];
        if json {
            let leg = |(name, found): &(&str, std::result::Result<String, String>)| {
                let text = found.as_ref().map_or_else(Clone::clone, Clone::clone);
                json!({"leg": name, "ok": found.is_ok(), "text": text})
            };
            println!("{}", serde_json::to_string_pretty(&legs.iter().map(leg).collect::<Vec<_>>())?);
        } else {
            for (name, found) in &legs {
                match found {
                    Ok(text) => println!("ok    {name}: {text}"),
                    Err(text) if *name == "engine" => println!("FAIL  {name}: {text}"),
                    Err(text) => println!("note  {name}: {text}"),
                }
            }
        }
        Ok(u8::from(!reached))
    }

    /// `rm`.
    pub async fn rm(&self, names: &[String], home: bool) -> Result<()> {
        let known = self.folder.streams();
        let keep = if home { Keep::Nothing } else { Keep::KeptHome };
        for name in names {
            let did = self.tear_down(name, keep).await?;
            if !did && !known.contains(name) {
                return Err(anyhow!("{}", self.unknown(name)));
            }
            println!("{name}");
        }
        let view = self.view().await?;
        if view.is_empty() {
            remove_network(&self.engine, &view, &self.project).await?;
        }
        if self.folder.is_run() {
            eprintln!("an operator runs: what its files have comes back; remove it there");
        }
        Ok(())
    }

    /// An operator that runs may put things back meanwhile: what was taken away has been, then.
    async fn tear_down(&self, name: &str, keep: Keep) -> Result<bool> {
        let place = Place::new(&self.project, name);
        let mut tries = 0;
        loop {
            match teardown(&self.engine, &self.view().await?, &place, keep).await {
                Err(EngineError::Refused { .. }) if self.folder.is_run() && tries < TRIES => tries += 1,
                Err(EngineError::Refused { .. }) if self.folder.is_run() => return Ok(true),
                Err(error) => return Err(error.into()),
                // The operator that runs keeps its own record.
                Ok(did) if self.folder.is_run() => return Ok(did),
                Ok(did) => {
                    self.folder.forget(name);
                    return Ok(did);
                }
            }
        }
    }
}

async fn copy(
    output: impl Stream<Item = std::result::Result<LogOutput, bollard::errors::Error>>,
) -> Result<()> {
    let mut output = std::pin::pin!(output);
    while let Some(part) = output.next().await {
        let written = match part.context("the Engine ended it")? {
            LogOutput::StdErr { message } => std::io::stderr().write_all(&message),
            LogOutput::StdOut { message } | LogOutput::Console { message } => {
                std::io::stdout().write_all(&message)
            }
            LogOutput::StdIn { .. } => Ok(()),
        };
        // Whoever reads has had enough.
        if written.is_err() {
            break;
        }
    }
    Ok(())
}
