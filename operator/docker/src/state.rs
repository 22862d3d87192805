//! The state folder: the signing key of all projects, and per stream a record, the viewers' tokens and the status.
//!
//! ```text
//!  ROOT/signing-key.pem, signing-key.pem.pub      of all projects
//!  ROOT/PROJECT/operator.{lock,id}                lock of the running operator, and the folder's ID
//!  ROOT/PROJECT/recreation.json                   the recreation that is under way
//!  ROOT/PROJECT/STREAM/{record.json,viewer-token,view-only-token}
//! ```
//! Readable by its owner only. If it is lost, the next run creates it again: desktops keep running, with new tokens. Paths
//! are made of validated names only, and no symbolic link below the root is followed.

mod dir;

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use contract::StreamName;
use k8s_openapi::jiff::Timestamp;
use operator_api::{DesktopStream, DesktopStreamStatus};
use operator_plan::kubernetes::ViewerTokens;
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};
use stream_token::Signer;

use self::dir::Dir;
use crate::names::Project;
use crate::recreate::Recreation;

/// Default state folder if neither `XDG_STATE_HOME` nor `HOME` is set.
const SYSTEM_STATE: &str = "/var/lib/desktopstream";
/// Random bytes in a viewer token.
const TOKEN_BYTES: usize = 32;
/// Random bytes in the UID of a stream or of a state folder.
const UID_BYTES: usize = 16;

/// Private key of all projects.
const KEY_FILE: &str = "signing-key.pem";
/// Its public key.
const PUBLIC_KEY_FILE: &str = "signing-key.pem.pub";
// No file of a project has the name of a stream, which contains no dot.
const LOCK_FILE: &str = "operator.lock";
const ID_FILE: &str = "operator.id";
const RECREATION_FILE: &str = "recreation.json";
/// Files of a stream.
const RECORD_FILE: &str = "record.json";
const VIEWER_TOKEN_FILE: &str = "viewer-token";
const VIEW_ONLY_TOKEN_FILE: &str = "view-only-token";

/// Mode of files for their owner only.
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Mode of files for all users.
const PUBLIC: Mode = PRIVATE.union(Mode::RGRP).union(Mode::ROTH);

/// State of one project.
#[derive(Debug, Clone)]
pub struct StateFolder {
    root: PathBuf,
    project: Project,
}

/// The part of a stream that an API server would store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// UID of the stream.
    pub uid: String,
    /// Number of the spec's version, from 1.
    pub generation: i64,
    /// Spec of this generation.
    pub spec: serde_json::Value,
    /// First time that the stream was seen.
    pub created: Timestamp,
    /// The stream's time to live is over; it is not started again before its spec changes.
    #[serde(default)]
    pub ended: bool,
    /// Status of the last pass.
    #[serde(default)]
    pub status: DesktopStreamStatus,
}

impl StateFolder {
    /// Opens or creates the state of `project` below `root`.
    pub fn open(root: &Path, project: &Project) -> Result<Self> {
        let folder = Self { root: root.to_owned(), project: project.clone() };
        folder.project()?;
        Ok(folder)
    }

    /// Default root: `$XDG_STATE_HOME/desktopstream`, by default `~/.local/state/desktopstream`.
    pub fn default_root() -> PathBuf {
        let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let base = var("XDG_STATE_HOME").or_else(|| Some(var("HOME")?.join(".local/state")));
        base.map_or_else(|| PathBuf::from(SYSTEM_STATE), |base| base.join("desktopstream"))
    }

    /// Path of the root.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Opens the root, which is created if it is missing.
    fn root(&self) -> Result<Dir> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.root);
        let opened = made.and_then(|()| Dir::open(&self.root));
        let path = self.root.display();
        opened.with_context(|| format!("cannot create {path}; choose another folder with --state"))
    }

    /// Opens the project's folder, which is created if it is missing.
    fn project(&self) -> Result<Dir> {
        let path = || format!("cannot open {}", self.project_path().display());
        self.root()?.create_folder(self.project.as_ref()).with_context(path)
    }

    fn project_path(&self) -> PathBuf {
        self.root.join(&self.project)
    }

    /// Opens a stream's folder, which is created if it is missing.
    fn create_stream(&self, stream: &StreamName) -> Result<Dir> {
        let path = || format!("cannot open {}", self.project_path().join(stream).display());
        self.project()?.create_folder(stream.as_ref()).with_context(path)
    }

    /// Opens a stream's folder; `None` if it has none.
    fn stream(&self, stream: &StreamName) -> Option<Dir> {
        self.project().ok()?.folder(stream.as_ref()).ok()
    }

    /// Takes the project's lock until the file is dropped.
    ///
    /// # Errors
    ///
    /// If another operator holds it.
    pub fn lock(&self) -> Result<fs::File> {
        let path = || format!("cannot open {}", self.project_path().join(LOCK_FILE).display());
        let file = self.project()?.lock_file(LOCK_FILE).with_context(path)?;
        let operation = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        rustix::fs::flock(&file, operation).map_err(|_| {
            let name = &self.project;
            anyhow::anyhow!(
                "another `operator docker` runs project {name}; stop it, or choose another --project"
            )
        })?;
        Ok(file)
    }

    /// Whether an operator of this project runs with this state folder.
    pub fn is_locked(&self) -> bool {
        self.lock().is_err()
    }

    /// ID of the project's folder, created with the first call. Call it with the lock held.
    pub fn id(&self) -> Result<String> {
        let context = || format!("cannot use {}", self.project_path().join(ID_FILE).display());
        let project = self.project()?;
        match project.read(ID_FILE) {
            Ok(id) if !id.trim().is_empty() => return Ok(id.trim().to_owned()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(context),
            Ok(_) | Err(_) => {}
        }
        let id = random_hex::<UID_BYTES>()?;
        project.write(ID_FILE, PRIVATE, id.as_bytes()).with_context(context)?;
        Ok(id)
    }

    /// The signer of all projects. Creates its key if there is none, and writes the public key beside it for
    /// `host-agent --public-key`.
    pub fn signer(&self) -> Result<Signer> {
        let root = self.root()?;
        let path = self.root.join(KEY_FILE);
        let written = || format!("cannot write {}", path.display());
        if !path.exists() {
            root.write(KEY_FILE, PRIVATE, Signer::generate()?.private_pem()?.as_bytes())
                .with_context(written)?;
        }
        // The user may have replaced the key by a symbolic link to one.
        let pem = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let remedy = || format!("{}: remove this file to create a new key", path.display());
        let signer = Signer::from_pem(&pem).with_context(remedy)?;
        // A host-agent of another user reads the public key.
        root.write(PUBLIC_KEY_FILE, PUBLIC, signer.public_pem()?.as_bytes()).with_context(written)?;
        Ok(signer)
    }

    /// Names of the streams that have a record.
    pub fn streams(&self) -> Vec<StreamName> {
        let entries = fs::read_dir(self.project_path()).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let has_record = |name: &StreamName| self.stream(name).is_some_and(|dir| dir.has_file(RECORD_FILE));
        let mut names: Vec<StreamName> = names.filter(has_record).collect();
        names.sort();
        names
    }

    /// A stream's record; `None` if it is missing or unreadable.
    pub fn record(&self, stream: &StreamName) -> Option<Record> {
        serde_json::from_str(&self.stream(stream)?.read(RECORD_FILE).ok()?).ok()
    }

    /// Writes a stream's record.
    pub fn write_record(&self, stream: &StreamName, record: &Record) -> Result<()> {
        let written =
            self.create_stream(stream)?.write(RECORD_FILE, PRIVATE, &serde_json::to_vec_pretty(record)?);
        written.with_context(|| format!("cannot write the record of stream {stream}"))
    }

    /// Path of a stream's viewer token.
    pub fn viewer_token_file(&self, stream: &StreamName) -> PathBuf {
        self.project_path().join(stream).join(VIEWER_TOKEN_FILE)
    }

    /// The viewer token of a stream; `None` if it has none.
    pub fn viewer_token(&self, stream: &StreamName) -> Option<String> {
        self.token(stream, VIEWER_TOKEN_FILE)
    }

    /// The token of a stream's viewers that may not control the desktop; `None` if it has none.
    pub fn view_only_token(&self, stream: &StreamName) -> Option<String> {
        self.token(stream, VIEW_ONLY_TOKEN_FILE)
    }

    /// The tokens of a stream's viewers, each created if it has none.
    pub fn ensure_viewer_tokens(&self, stream: &StreamName) -> Result<ViewerTokens> {
        let control = self.ensure_token(stream, VIEWER_TOKEN_FILE)?;
        Ok(ViewerTokens { control, view_only: self.ensure_token(stream, VIEW_ONLY_TOKEN_FILE)? })
    }

    fn token(&self, stream: &StreamName, file: &str) -> Option<String> {
        let token = self.stream(stream)?.read(file).ok()?;
        Some(token.trim().to_owned()).filter(|token| !token.is_empty())
    }

    fn ensure_token(&self, stream: &StreamName, file: &str) -> Result<String> {
        if let Some(token) = self.token(stream, file) {
            return Ok(token);
        }
        let token = random_hex::<TOKEN_BYTES>()?;
        let written = self.create_stream(stream)?.write(file, PRIVATE, token.as_bytes());
        written.with_context(|| format!("cannot write the {file} of stream {stream}"))?;
        Ok(token)
    }

    /// Removes the state of a stream: our files, and its folder if nothing else is in it. A file that cannot be removed is
    /// overwritten by the next stream of that name.
    pub fn remove(&self, stream: &StreamName) {
        let Some(folder) = self.stream(stream) else { return };
        for file in [RECORD_FILE, VIEWER_TOKEN_FILE, VIEW_ONLY_TOKEN_FILE] {
            let _ignored = folder.remove_file(file);
            let _ignored = folder.remove_file(&format!("{file}.new"));
        }
        let _ignored = self.project().map(|project| project.remove_folder(stream.as_ref()));
    }

    /// The recreation that is under way; `None` if there is none.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn recreation(&self) -> Result<Option<Recreation>> {
        let context = || format!("cannot read {}", self.project_path().join(RECREATION_FILE).display());
        match self.project()?.read(RECREATION_FILE) {
            Ok(text) => serde_json::from_str(&text).map(Some).with_context(context),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(context),
        }
    }

    /// Records that a recreation begins, or that it has ended.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written.
    pub fn set_recreation(&self, recreation: Option<&Recreation>) -> Result<()> {
        let project = self.project()?;
        let written = match recreation {
            Some(begun) => project.write(RECREATION_FILE, PRIVATE, &serde_json::to_vec_pretty(begun)?),
            None => match project.remove_file(RECREATION_FILE) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                done => done,
            },
        };
        written
            .with_context(|| format!("cannot write {}", self.project_path().join(RECREATION_FILE).display()))
    }
}

impl Record {
    /// The record of a stream as its file has it now. A changed spec increments the generation and starts an ended
    /// stream's life again.
    pub fn next(stream: &DesktopStream, before: Option<Self>, now: Timestamp) -> Result<Self> {
        let spec = serde_json::to_value(&stream.spec)?;
        match before {
            Some(before) if before.spec == spec => Ok(before),
            Some(before) => Ok(Self {
                generation: before.generation + 1,
                created: if before.ended { now } else { before.created },
                ended: false,
                spec,
                ..before
            }),
            None => Ok(Self {
                uid: random_hex::<UID_BYTES>()?,
                generation: 1,
                spec,
                created: now,
                ended: false,
                status: DesktopStreamStatus::default(),
            }),
        }
    }
}

/// `BYTES` random bytes in hexadecimal, which needs no escaping in URLs.
fn random_hex<const BYTES: usize>() -> Result<String> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow::anyhow!("{error}"))
        .context("cannot get random bytes")?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests;
