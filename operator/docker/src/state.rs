//! What outlives the operator: a folder with its signing key, and per stream a record, the viewers' token and
//! the status. Only its user may read it. Lost, it is made anew: desktops go on, tokens are new.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

use operator_api::{DesktopStream, DesktopStreamStatus};
use operator_controller::keys::{self, Signer};

/// The state of a project.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
    project: PathBuf,
}

/// What the apiserver would keep of a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Its UID.
    pub uid: String,
    /// Counts the changes of its spec.
    pub generation: i64,
    /// The spec that was counted last.
    pub spec: serde_json::Value,
    /// When it was first seen.
    pub created: Timestamp,
    /// Its time is up: it stays away until its spec changes.
    #[serde(default)]
    pub ended: bool,
    /// Its status.
    #[serde(default)]
    pub status: DesktopStreamStatus,
}

impl Folder {
    /// The one at `root`, for a project.
    pub fn open(root: &Path, project: &str) -> Result<Self> {
        let folder = Self { root: root.to_owned(), project: root.join(project) };
        make(&folder.project)?;
        Ok(folder)
    }

    /// Where it is unless somebody says otherwise.
    pub fn usual() -> PathBuf {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let base = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")));
        base.map_or_else(|| PathBuf::from("/var/lib/desktopstream"), |base| base.join("desktopstream"))
    }

    /// Held as long as the operator of this project runs; an error says that one does.
    pub fn lock(&self) -> Result<fs::File> {
        let file = self.lock_file()?;
        let operation = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        rustix::fs::flock(&file, operation).map_err(|_| {
            let name = self.project.file_name().unwrap_or_default().display();
            anyhow::anyhow!(
                "another `operator docker` runs project {name}; end it, or take another --project"
            )
        })?;
        Ok(file)
    }

    /// Whether an operator of this project runs.
    pub fn is_run(&self) -> bool {
        self.lock().is_err()
    }

    fn lock_file(&self) -> Result<fs::File> {
        let path = self.project.join("lock");
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        options.open(&path).with_context(|| format!("can't open {}", path.display()))
    }

    /// The signer of all projects: the one that is there, or a new one. Its public key lies beside it, for
    /// host-agent's `--public-key`.
    pub fn signer(&self) -> Result<Signer> {
        let path = self.root.join("signing-key.pem");
        if !path.exists() {
            write(&path, keys::generate()?.as_bytes())?;
        }
        let pem = fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
        let remedy = || format!("{} is no key; remove it, and another is made", path.display());
        let signer = Signer::from_pem(&pem).with_context(remedy)?;
        let public = self.root.join("signing-key.pem.pub");
        write_as(0o644, &public, signer.public_pem().as_bytes())?;
        Ok(signer)
    }

    /// Streams that there is something of.
    pub fn streams(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.project).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter(|entry| entry.path().join("record.json").exists())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// A stream's record, if there is one that can be read.
    pub fn record(&self, stream: &str) -> Option<Record> {
        let text = fs::read_to_string(self.project.join(stream).join("record.json")).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Keeps it.
    pub fn keep(&self, stream: &str, record: &Record) -> Result<()> {
        let folder = self.project.join(stream);
        make(&folder)?;
        write(&folder.join("record.json"), &serde_json::to_vec_pretty(record)?)
    }

    /// The file of a stream's viewers' token.
    pub fn viewer_token_file(&self, stream: &str) -> PathBuf {
        self.project.join(stream).join("viewer-token")
    }

    /// The viewers' token of a stream, if it has one.
    pub fn viewer_token(&self, stream: &str) -> Option<String> {
        let token = fs::read_to_string(self.viewer_token_file(stream)).ok()?;
        Some(token.trim().to_owned()).filter(|token| !token.is_empty())
    }

    /// The viewers' token of a stream, a new one if need be.
    pub fn ensure_viewer_token(&self, stream: &str) -> Result<String> {
        if let Some(token) = self.viewer_token(stream) {
            return Ok(token);
        }
        let token = keys::viewer_token()?;
        make(&self.project.join(stream))?;
        write(&self.viewer_token_file(stream), token.as_bytes())?;
        Ok(token)
    }

    /// Forgets a stream.
    pub fn forget(&self, stream: &str) {
        // What can't be removed is made over by the next stream of that name.
        let _left = fs::remove_dir_all(self.project.join(stream));
    }
}

impl Record {
    /// Of a stream as its file has it now: a changed spec counts as the apiserver counts it, and begins anew
    /// what had ended.
    pub fn of(stream: &DesktopStream, before: Option<Self>, now: Timestamp) -> Result<Self> {
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
                // As long as a UID is unique, nobody asks how it is made.
                uid: keys::viewer_token()?.chars().take(32).collect(),
                generation: 1,
                spec,
                created: now,
                ended: false,
                status: DesktopStreamStatus::default(),
            }),
        }
    }
}

fn make(folder: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("can't make {}; choose another folder by --state", folder.display()))
}

/// Whole or not at all, and nobody else's to read.
fn write(path: &Path, content: &[u8]) -> Result<()> {
    write_as(0o600, path, content)
}

fn write_as(mode: u32, path: &Path, content: &[u8]) -> Result<()> {
    let what = || format!("can't write {}", path.display());
    let next = path.with_added_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&next)
        .with_context(what)?;
    file.write_all(content).with_context(what)?;
    file.set_permissions(fs::Permissions::from_mode(mode)).with_context(what)?;
    fs::rename(&next, path).with_context(what)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use operator_plan::testing::stream;

    #[test]
    fn keys_and_tokens_stay_and_are_nobody_elses() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = Folder::open(root.path(), "p").expect("opens");
        let public = folder.signer().expect("a key").public_pem().to_owned();
        assert_eq!(folder.signer().expect("a key").public_pem(), public);
        let token = folder.ensure_viewer_token("desk").expect("a token");
        assert_eq!(folder.ensure_viewer_token("desk").expect("a token"), token);
        for file in [root.path().join("signing-key.pem"), folder.viewer_token_file("desk")] {
            let mode = fs::metadata(&file).expect("is there").permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", file.display());
        }
        let public = fs::metadata(root.path().join("signing-key.pem.pub")).expect("is there");
        assert_eq!(public.permissions().mode() & 0o777, 0o644, "a host-agent of another user reads it");
        folder.forget("desk");
        assert_eq!(folder.viewer_token("desk"), None);
    }

    #[test]
    fn one_operator_a_project() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = Folder::open(root.path(), "p").expect("opens");
        let held = folder.lock().expect("free");
        assert!(folder.is_run());
        let says = folder.lock().expect_err("held").to_string();
        assert!(says.contains("--project"), "{says}");
        assert!(Folder::open(root.path(), "q").expect("opens").lock().is_ok());
        drop(held);
        assert!(!folder.is_run());
    }

    #[test]
    fn changes_of_the_spec_are_counted() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = Folder::open(root.path(), "p").expect("opens");
        let at = |second| Timestamp::from_second(second).expect("a time");
        let first = Record::of(&stream(&json!({})), None, at(1)).expect("a record");
        folder.keep("desk", &first).expect("writes");
        assert_eq!(folder.streams(), ["desk"]);
        let read = folder.record("desk");
        assert_eq!(read.as_ref(), Some(&first));
        let same = Record::of(&stream(&json!({})), read.clone(), at(2)).expect("a record");
        assert_eq!(same, first);
        let changed = stream(&json!({"spec": {"gpu": {"count": 0}}}));
        let next = Record::of(&changed, read, at(3)).expect("a record");
        assert_eq!((next.generation, next.created, &next.uid), (2, at(1), &first.uid));
        let again =
            Record::of(&stream(&json!({})), Some(Record { ended: true, ..next }), at(4)).expect("a record");
        assert_eq!((again.created, again.ended), (at(4), false), "a new life");
    }
}
