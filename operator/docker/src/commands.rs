//! `operator docker status|logs|open|doctor|rm`. They read the state folder and the Engine; the operator need not run.

mod doctor;

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use bollard::container::LogOutput;
use bollard::query_parameters;
use clap::Args;
use contract::StreamName;
use futures_util::{Stream, StreamExt};
use operator_api::summary::{Summary, table};
use operator_api::{AuthKind, DesktopStream, Phase};
use operator_sidecar_client::{open_browser, viewer_url};
use serde_json::json;

use crate::container::Container;
use crate::engine::{Engine, EngineError};
use crate::names::{Project, Role, StreamKey};
use crate::state::StateFolder;
use crate::teardown::{Home, remove_network, teardown};
use crate::view::View;

/// Attempts of `rm` while a running operator creates objects again.
const MAX_ATTEMPTS: u32 = 3;

/// Options of `logs`.
#[derive(Debug, Args)]
pub struct LogsOptions {
    /// Name of the DesktopStream
    name: StreamName,
    /// Keep printing new lines
    #[arg(short, long)]
    follow: bool,
    /// Print the desktop's log instead
    #[arg(long)]
    desktop: bool,
    /// Number of lines to print, from the end
    #[arg(long, value_name = "LINES")]
    tail: Option<u32>,
}

/// Commands on one project.
#[derive(Debug)]
pub struct Commands {
    project: Project,
    folder: StateFolder,
    engine: Engine,
}

impl Commands {
    /// Opens the project's state. `engine` is the Engine's address, by default `DOCKER_HOST`.
    pub fn new(project: Project, state: &Path, engine: Option<String>) -> Result<Self> {
        let folder = StateFolder::open(state, &project)?;
        Ok(Self { project, folder, engine: Engine::new(engine) })
    }

    /// The streams as objects, with the status that the operator wrote last.
    fn streams(&self, name: Option<&StreamName>) -> Result<Vec<DesktopStream>> {
        let names = self.folder.streams();
        if let Some(name) = name
            && !names.contains(name)
        {
            return Err(self.unknown(name));
        }
        let read = |name: &StreamName| {
            let record = self.folder.record(name)?;
            let object = json!({
                "apiVersion": format!("{}/{}", operator_api::GROUP, operator_api::VERSION),
                "kind": "DesktopStream",
                "metadata": {
                    "name": name.as_str(), "namespace": self.project.as_str(), "uid": record.uid, "generation": record.generation,
                    "creationTimestamp": record.created,
                },
                "spec": record.spec,
                "status": record.status,
            });
            serde_json::from_value(object).ok()
        };
        Ok(names.iter().filter(|it| name.is_none_or(|name| *it == name)).filter_map(read).collect())
    }

    fn unknown(&self, name: &StreamName) -> anyhow::Error {
        let names: Vec<String> = self.folder.streams().iter().map(ToString::to_string).collect();
        let existing = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        anyhow!("no stream \"{name}\" in project {}; existing streams: {existing}", self.project)
    }

    /// Prints one stream, or all, as a table or as JSON: `docker status`.
    pub fn status(&self, name: Option<&StreamName>, json: bool) -> Result<()> {
        let streams = self.streams(name)?;
        if json {
            println!("{}", serde_json::to_string_pretty(&streams)?);
        } else if streams.is_empty() {
            eprintln!(
                "no streams in project {}; start some with `operator docker --dir FOLDER`",
                self.project
            );
        } else {
            let rows: Vec<Summary> = streams.iter().map(Summary::of).collect();
            print!("{}", table(&rows, false));
        }
        if !self.folder.is_locked() && !streams.is_empty() {
            eprintln!("no operator runs for project {}; this is the last status that it wrote", self.project);
        }
        Ok(())
    }

    async fn container(&self, name: &StreamName, role: Role) -> Result<Container> {
        let view = self.view().await?;
        let found = view.container(&StreamKey::new(&self.project, name), role).cloned();
        found.with_context(|| match self.folder.record(name).map(|it| it.status.phase) {
            Some(Some(Phase::Suspended)) => {
                anyhow!("{name} is suspended; set spec.operatingMode to Running to resume")
            }
            Some(_) => {
                anyhow!("{name} has no {} now; see `operator docker status {name}`", role.as_str())
            }
            None => self.unknown(name),
        })
    }

    async fn view(&self) -> Result<View> {
        Ok(View::from(self.engine.list(&self.project.filter()).await?))
    }

    /// Prints or follows the logs of a stream's containers: `docker logs`.
    pub async fn logs(&self, options: &LogsOptions) -> Result<()> {
        let LogsOptions { name, follow, desktop, tail } = options;
        let role = if *desktop { Role::Desktop } else { Role::Sidecar };
        let container = self.container(name, role).await?;
        let options = query_parameters::LogsOptions {
            follow: *follow,
            stdout: true,
            stderr: true,
            tail: tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string()),
            ..query_parameters::LogsOptions::default()
        };
        let docker = self.engine.client().await?;
        print_output(docker.logs(&container.id, Some(options))).await
    }

    /// The token of a stream's viewers that may not control the desktop.
    fn view_only_token(&self, name: &StreamName) -> Result<String> {
        let streams = self.streams(Some(name))?;
        anyhow::ensure!(
            streams.iter().all(|stream| stream.spec.viewers.auth.kind == AuthKind::Token),
            "{name} does not authenticate viewers, so all of them may control the desktop; set \
             spec.viewers.auth.type to Token, or spec.viewers.control to None"
        );
        self.folder.view_only_token(name).with_context(|| {
            format!("{name} has no view-only token; start the operator, which creates one with the sidecar")
        })
    }

    /// Prints the address of a stream's viewer and opens it in a browser: `docker open`.
    pub async fn open(&self, name: &StreamName, view_only: bool, no_browser: bool, json: bool) -> Result<()> {
        let sidecar = self.container(name, Role::Sidecar).await?;
        let base = sidecar.local_url();
        let base = base
            .with_context(|| format!("{name}'s sidecar does not run; see `operator docker logs {name}`"))?;
        let token =
            if view_only { Some(self.view_only_token(name)?) } else { self.folder.viewer_token(name) };
        let url = viewer_url(&base, token.as_deref());
        if json {
            println!("{}", json!({"url": url}));
            return Ok(());
        }
        println!("{url}");
        if !no_browser && !open_browser(&url) {
            eprintln!("cannot start a browser; open the URL yourself");
        }
        Ok(())
    }

    /// Removes streams and their containers: `docker rm`. Removes nothing if one of them does not exist.
    pub async fn rm(&self, names: &[StreamName], remove_home: bool) -> Result<()> {
        let known = self.folder.streams();
        let view = self.view().await?;
        let exists = |name: &StreamName| {
            known.contains(name) || view.has_objects(&StreamKey::new(&self.project, name))
        };
        if let Some(unknown) = names.iter().find(|name| !exists(name)) {
            return Err(self.unknown(unknown));
        }
        let home = if remove_home { Home::Remove } else { Home::KeepIfLabelled };
        for name in names {
            self.remove(name, home).await?;
            println!("{name}");
        }
        let view = self.view().await?;
        if view.is_empty() {
            remove_network(&self.engine, &view, &self.project).await?;
        }
        if self.folder.is_locked() {
            eprintln!("an operator runs and creates the streams in its files again; remove them there, too");
        }
        Ok(())
    }

    /// Removes a stream's objects. A running operator may create them again at the same time: then the Engine refuses a
    /// removal, and the objects that we saw first have been removed.
    async fn remove(&self, name: &StreamName, home: Home) -> Result<()> {
        let key = StreamKey::new(&self.project, name);
        let mut attempts = 0;
        loop {
            match teardown(&self.engine, &self.view().await?, &key, home).await {
                Err(EngineError::Refused { .. }) if self.folder.is_locked() && attempts < MAX_ATTEMPTS => {
                    attempts += 1;
                }
                // The running operator removes its own state.
                Err(EngineError::Refused { .. }) | Ok(_) if self.folder.is_locked() => return Ok(()),
                Err(error) => return Err(error.into()),
                Ok(_) => {
                    self.folder.remove(name);
                    return Ok(());
                }
            }
        }
    }
}

/// Copies a container's output to ours, until it ends or ours is closed.
async fn print_output(
    output: impl Stream<Item = std::result::Result<LogOutput, bollard::errors::Error>>,
) -> Result<()> {
    let mut output = std::pin::pin!(output);
    while let Some(part) = output.next().await {
        let written = match part.context("the Engine closed the stream")? {
            LogOutput::StdErr { message } => std::io::stderr().write_all(&message),
            LogOutput::StdOut { message } | LogOutput::Console { message } => {
                std::io::stdout().write_all(&message)
            }
            LogOutput::StdIn { .. } => Ok(()),
        };
        if written.is_err() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use operator_plan::testing::stream;
    use serde_json::Value;

    use super::*;
    use crate::state::Record;

    #[test]
    fn view_only_token_is_the_stored_one_and_a_missing_one_is_reported_with_a_remedy() {
        let root = tempfile::tempdir().expect("a folder");
        let project = "p".parse().expect("a project");
        let commands = Commands::new(project, root.path(), None).expect("opens");
        let desk: StreamName = "desk".parse().expect("a name");
        let write = |object: &Value| {
            let record = Record::next(&stream(object), None, Timestamp::UNIX_EPOCH).expect("a record");
            commands.folder.write_record(&desk, &record).expect("written");
        };
        let error = || commands.view_only_token(&desk).expect_err("none").to_string();
        assert!(error().contains("no stream"), "{}", error());
        write(&json!({}));
        assert!(error().contains("start the operator"), "{}", error());
        let tokens = commands.folder.ensure_viewer_tokens(&desk).expect("tokens");
        assert_eq!(commands.view_only_token(&desk).expect("a token"), tokens.view_only);
        write(&json!({"spec": {"viewers": {"auth": {"type": "None"}}}}));
        assert!(error().contains("spec.viewers.auth.type"), "{}", error());
    }
}
