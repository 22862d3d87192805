//! The state folder: the signing key of all projects, and per stream a record, the viewer token and the status.
//!
//! Readable by its owner only. If it is lost, the next run creates it again: desktops keep running, with new tokens.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use k8s_openapi::jiff::Timestamp;
use operator_api::{DesktopStream, DesktopStreamStatus};
use operator_plan::workload::hex;
use serde::{Deserialize, Serialize};
use stream_token::Signer;

/// Default state folder if neither `XDG_STATE_HOME` nor `HOME` is set.
const SYSTEM_STATE: &str = "/var/lib/desktopstream";
/// Random bytes in a viewer token.
const TOKEN_BYTES: usize = 32;
/// Random bytes in a stream's UID.
const UID_BYTES: usize = 16;

/// State of one project.
#[derive(Debug, Clone)]
pub struct StateFolder {
    root: PathBuf,
    project: PathBuf,
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
    pub fn open(root: &Path, project: &str) -> Result<Self> {
        let folder = Self { root: root.to_owned(), project: root.join(project) };
        create_dir(&folder.project)?;
        Ok(folder)
    }

    /// Default root: `$XDG_STATE_HOME/desktopstream`, by default `~/.local/state/desktopstream`.
    pub fn default_root() -> PathBuf {
        let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let base = var("XDG_STATE_HOME").or_else(|| Some(var("HOME")?.join(".local/state")));
        base.map_or_else(|| PathBuf::from(SYSTEM_STATE), |base| base.join("desktopstream"))
    }

    /// Takes the project's lock until the file is dropped.
    ///
    /// # Errors
    ///
    /// If another operator holds it.
    pub fn lock(&self) -> Result<fs::File> {
        let file = self.lock_file()?;
        let operation = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        rustix::fs::flock(&file, operation).map_err(|_| {
            let name = self.project.file_name().unwrap_or_default().display();
            anyhow::anyhow!(
                "another `operator docker` runs project {name}; stop it, or choose another --project"
            )
        })?;
        Ok(file)
    }

    /// Whether an operator of this project runs.
    pub fn is_locked(&self) -> bool {
        self.lock().is_err()
    }

    fn lock_file(&self) -> Result<fs::File> {
        let path = self.project.join("lock");
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        options.open(&path).with_context(|| format!("cannot open {}", path.display()))
    }

    /// The signer of all projects. Creates its key if there is none, and writes the public key beside it for
    /// `host-agent --public-key`.
    pub fn signer(&self) -> Result<Signer> {
        let path = self.root.join("signing-key.pem");
        if !path.exists() {
            write(&path, 0o600, Signer::generate()?.private_pem()?.as_bytes())?;
        }
        let pem = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let remedy = || format!("{}: remove this file to create a new key", path.display());
        let signer = Signer::from_pem(&pem).with_context(remedy)?;
        let public = self.root.join("signing-key.pem.pub");
        // A host-agent of another user reads the public key.
        write(&public, 0o644, signer.public_pem()?.as_bytes())?;
        Ok(signer)
    }

    /// Names of the streams that have a record.
    pub fn streams(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.project).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter(|entry| entry.path().join("record.json").exists())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// A stream's record; `None` if it is missing or unreadable.
    pub fn record(&self, stream: &str) -> Option<Record> {
        let text = fs::read_to_string(self.project.join(stream).join("record.json")).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Writes a stream's record.
    pub fn write_record(&self, stream: &str, record: &Record) -> Result<()> {
        let folder = self.project.join(stream);
        create_dir(&folder)?;
        write(&folder.join("record.json"), 0o600, &serde_json::to_vec_pretty(record)?)
    }

    /// Path of a stream's viewer token.
    pub fn viewer_token_file(&self, stream: &str) -> PathBuf {
        self.project.join(stream).join("viewer-token")
    }

    /// The viewer token of a stream; `None` if it has none.
    pub fn viewer_token(&self, stream: &str) -> Option<String> {
        let token = fs::read_to_string(self.viewer_token_file(stream)).ok()?;
        Some(token.trim().to_owned()).filter(|token| !token.is_empty())
    }

    /// The viewer token of a stream, created if it has none.
    pub fn ensure_viewer_token(&self, stream: &str) -> Result<String> {
        if let Some(token) = self.viewer_token(stream) {
            return Ok(token);
        }
        let token = random_hex::<TOKEN_BYTES>()?;
        create_dir(&self.project.join(stream))?;
        write(&self.viewer_token_file(stream), 0o600, token.as_bytes())?;
        Ok(token)
    }

    /// Removes the state of a stream. A file that cannot be removed is overwritten by the next stream of that name.
    pub fn remove(&self, stream: &str) {
        let _ignored = fs::remove_dir_all(self.project.join(stream));
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
    Ok(hex(&bytes))
}

fn create_dir(folder: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("cannot create {}; choose another folder with --state", folder.display()))
}

/// Replaces a file atomically.
fn write(path: &Path, mode: u32, content: &[u8]) -> Result<()> {
    let context = || format!("cannot write {}", path.display());
    let next = path.with_added_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&next)
        .with_context(context)?;
    file.write_all(content).with_context(context)?;
    file.set_permissions(fs::Permissions::from_mode(mode)).with_context(context)?;
    fs::rename(&next, path).with_context(context)
}

#[cfg(test)]
mod tests {
    use operator_plan::testing::stream;
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_and_tokens_persist_and_are_private_to_their_owner() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = StateFolder::open(root.path(), "p").expect("opens");
        let public = || folder.signer().expect("a key").public_pem().expect("PEM");
        assert_eq!(public(), public());
        let token = folder.ensure_viewer_token("desk").expect("a token");
        assert_eq!(token.len(), 2 * TOKEN_BYTES);
        assert_eq!(folder.ensure_viewer_token("desk").expect("a token"), token);
        for file in [root.path().join("signing-key.pem"), folder.viewer_token_file("desk")] {
            let mode = fs::metadata(&file).expect("exists").permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", file.display());
        }
        let public = fs::metadata(root.path().join("signing-key.pem.pub")).expect("exists");
        assert_eq!(public.permissions().mode() & 0o777, 0o644, "readable by the host-agent's user");
        folder.remove("desk");
        assert_eq!(folder.viewer_token("desk"), None);
    }

    #[test]
    fn lock_admits_one_operator_per_project() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = StateFolder::open(root.path(), "p").expect("opens");
        let held = folder.lock().expect("free");
        assert!(folder.is_locked());
        let error = folder.lock().expect_err("held").to_string();
        assert!(error.contains("--project"), "{error}");
        assert!(StateFolder::open(root.path(), "q").expect("opens").lock().is_ok());
        drop(held);
        assert!(!folder.is_locked());
    }

    #[test]
    fn changed_spec_increments_the_generation_and_restarts_an_ended_stream() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = StateFolder::open(root.path(), "p").expect("opens");
        let at = |second| Timestamp::from_second(second).expect("a time");
        let first = Record::next(&stream(&json!({})), None, at(1)).expect("a record");
        folder.write_record("desk", &first).expect("writes");
        assert_eq!(folder.streams(), ["desk"]);
        let read = folder.record("desk");
        assert_eq!(read.as_ref(), Some(&first));
        let same = Record::next(&stream(&json!({})), read.clone(), at(2)).expect("a record");
        assert_eq!(same, first);
        let changed = stream(&json!({"spec": {"gpu": {"count": 0}}}));
        let next = Record::next(&changed, read, at(3)).expect("a record");
        assert_eq!((next.generation, next.created, &next.uid), (2, at(1), &first.uid));
        let ended = Record { ended: true, ..next };
        let restarted = Record::next(&stream(&json!({})), Some(ended), at(4)).expect("a record");
        assert_eq!((restarted.created, restarted.ended), (at(4), false));
    }
}
