//! What cargo has made of other people's crates, kept in the cache by the hash of `Cargo.lock` and the toolchain: a new
//! clone's first build then compiles ours only. `./x` lays it into a clone that has no target folder yet, and names it
//! to us; we make it after the first whole test run that passed. Hard links, as cargo replaces files and never writes
//! into them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use lab::cache;

/// The variable by which `./x` names the entry.
const ENTRY: &str = "DESKTOPSTREAM_CRATES";
/// What all entries' names begin with.
const PREFIX: &str = "crates-";

/// The entry's name in the cache, if this was started by `./x`.
pub fn current_id() -> Option<String> {
    let path = PathBuf::from(std::env::var_os(ENTRY)?);
    Some(path.file_name()?.to_string_lossy().into_owned())
}

/// Whether an entry of the cache is one of these.
pub fn is_one(id: &str) -> bool {
    id.starts_with(PREFIX)
}

/// Where cargo puts what it makes.
pub fn target() -> Result<PathBuf> {
    Ok(Workspace::ask()?.target)
}

/// Makes the entry if it isn't there; older ones go.
pub fn keep() -> Result<()> {
    let Some(entry) = std::env::var_os(ENTRY).map(PathBuf::from).filter(|it| !it.exists()) else {
        return Ok(());
    };
    let workspace = Workspace::ask()?;
    let unfinished = entry.with_file_name(format!(".unfinished-{}", current_id().unwrap_or_default()));
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    fs::create_dir_all(&unfinished)?;
    link_if_there(&workspace.target, &unfinished, OsStr::new(".rustc_info.json"))?;
    for profile in ["release", "aarch64-apple-darwin/release"] {
        let from = workspace.target.join(profile);
        for part in ["deps", "build", ".fingerprint"] {
            workspace.link_others(&from.join(part), &unfinished.join(profile).join(part))?;
        }
    }
    fs::rename(&unfinished, &entry)?;
    for old in cache::entries()? {
        if is_one(&old.id) && Some(&old.id) != current_id().as_ref() {
            old.remove()?;
        }
    }
    println!("x: kept what cargo made of other people's crates in {}", entry.display());
    Ok(())
}

/// Ours: what is not kept, as every clone has its own.
struct Workspace {
    target: PathBuf,
    names: BTreeSet<String>,
}

impl Workspace {
    fn ask() -> Result<Self> {
        let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .current_dir(lab::repository())
            .args(["metadata", "--no-deps", "--format-version=1", "--offline"])
            .output()
            .context("starting cargo metadata")?;
        ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let text = |value: &serde_json::Value| value.as_str().map(|name| name.replace('-', "_"));
        let packages = || metadata["packages"].as_array().into_iter().flatten();
        let targets = packages().flat_map(|it| it["targets"].as_array().into_iter().flatten());
        let names = packages().chain(targets).filter_map(|it| text(&it["name"])).collect();
        let target = metadata["target_directory"].as_str().context("cargo names no target folder")?;
        Ok(Self { target: target.into(), names })
    }

    /// Whether a file or folder of cargo's belongs to one of our crates: `NAME-HASH…`, `libNAME-HASH…`, `libNAME.so`.
    fn owns(&self, file: &str) -> bool {
        let stem = file.rsplit_once('-').map_or_else(|| file.split('.').next().unwrap_or(file), |it| it.0);
        let name = stem.replace('-', "_");
        self.names.contains(&name) || name.strip_prefix("lib").is_some_and(|name| self.names.contains(name))
    }

    fn link_others(&self, from: &Path, to: &Path) -> Result<()> {
        if !from.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            if !self.owns(&name.to_string_lossy()) {
                link_if_there(from, to, &name)?;
            }
        }
        Ok(())
    }
}

/// A file by a hard link, or by a copy where the cache is on another disk; a folder with all that is in it.
fn link_if_there(from: &Path, to: &Path, name: &OsStr) -> Result<()> {
    let (from, to) = (from.join(name), to.join(name));
    if from.is_dir() {
        fs::create_dir_all(&to)?;
        for entry in fs::read_dir(&from)? {
            link_if_there(&from, &to, &entry?.file_name())?;
        }
    } else if from.exists() && fs::hard_link(&from, &to).is_err() {
        fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_are_told_from_others() {
        let names = ["host_agent", "tap", "path"].map(str::to_owned).into();
        let workspace = Workspace { target: PathBuf::new(), names };
        for ours in ["host-agent-0123abcd", "libtap-0123abcd.rlib", "libtap.so", "path-0123abcd.d", "tap.d"] {
            assert!(workspace.owns(ours), "{ours}");
        }
        for other in ["libtap_dance-0123abcd.rlib", "serde-0123abcd", "pathdiff-0123abcd", "lib-0123abcd"] {
            assert!(!workspace.owns(other), "{other}");
        }
    }

    #[test]
    fn folders_are_linked_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("build/serde-1/out")).expect("made");
        fs::create_dir_all(&to).expect("made");
        fs::write(from.join("build/serde-1/out/file"), "text").expect("written");
        link_if_there(&from, &to, OsStr::new("build")).expect("linked");
        link_if_there(&from, &to, OsStr::new("absent")).expect("nothing to do");
        assert_eq!(fs::read_to_string(to.join("build/serde-1/out/file")).expect("there"), "text");
    }
}
