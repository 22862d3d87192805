//! Compiled dependencies, kept in the cache by the hash of `Cargo.lock` and the toolchain, so that the first build in a
//! new clone compiles only the workspace's own crates. `./x` copies the entry into a clone without a target folder and
//! passes its path in [`ENTRY`]; a whole test run that passed writes it. Files are hard links: cargo replaces files and
//! never writes into them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use lab::cache;

use crate::workspace;

/// Environment variable with the entry's path, set by `./x`.
const ENTRY: &str = "DESKTOPSTREAM_CRATES";
/// Prefix of all entries' names.
const PREFIX: &str = "crates-";

/// Name of the entry for this `Cargo.lock`; `None` if `./x` did not start this program.
pub fn current_id() -> Option<String> {
    let path = PathBuf::from(std::env::var_os(ENTRY)?);
    Some(path.file_name()?.to_string_lossy().into_owned())
}

/// True if a cache entry holds compiled dependencies.
pub fn is_entry(id: &str) -> bool {
    id.starts_with(PREFIX)
}

/// Writes the entry if it does not exist, and removes older ones.
pub fn keep() -> Result<()> {
    let Some(entry) = std::env::var_os(ENTRY).map(PathBuf::from).filter(|it| !it.exists()) else {
        return Ok(());
    };
    let own = OwnCrates::of_the_workspace()?;
    let target = workspace::target()?;
    let unfinished = entry.with_file_name(format!(".unfinished-{}", current_id().unwrap_or_default()));
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    fs::create_dir_all(&unfinished)?;
    link_if_present(&target, &unfinished, OsStr::new(".rustc_info.json"))?;
    for profile in ["release", "aarch64-apple-darwin/release"] {
        let from = target.join(profile);
        for part in ["deps", "build", ".fingerprint"] {
            own.link_others(&from.join(part), &unfinished.join(profile).join(part))?;
        }
    }
    fs::rename(&unfinished, &entry)?;
    for old in cache::entries()? {
        if is_entry(&old.id) && Some(&old.id) != current_id().as_ref() {
            old.remove()?;
        }
    }
    println!("x: kept compiled dependencies in {}", entry.display());
    Ok(())
}

/// Names of the workspace's packages and targets, whose build results are not kept.
struct OwnCrates(BTreeSet<String>);

impl OwnCrates {
    fn of_the_workspace() -> Result<Self> {
        let metadata = workspace::metadata()?;
        let packages = metadata.packages.iter().map(|package| package.name.to_string());
        let targets = metadata.packages.iter().flat_map(|package| &package.targets);
        Ok(Self(
            packages
                .chain(targets.map(|target| target.name.clone()))
                .map(|name| name.replace('-', "_"))
                .collect(),
        ))
    }

    /// True if a file or folder in the target folder belongs to one of our crates: `NAME-HASH…`, `libNAME-HASH…`,
    /// `libNAME.so`.
    fn contain(&self, file: &str) -> bool {
        let stem = file.rsplit_once('-').map_or_else(|| file.split('.').next().unwrap_or(file), |it| it.0);
        let name = stem.replace('-', "_");
        self.0.contains(&name) || name.strip_prefix("lib").is_some_and(|name| self.0.contains(name))
    }

    fn link_others(&self, from: &Path, to: &Path) -> Result<()> {
        if !from.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            if !self.contain(&name.to_string_lossy()) {
                link_if_present(from, to, &name)?;
            }
        }
        Ok(())
    }
}

/// Links a file, or all files of a folder; copies where the cache is on another file system.
fn link_if_present(from: &Path, to: &Path, name: &OsStr) -> Result<()> {
    let (from, to) = (from.join(name), to.join(name));
    if from.is_dir() {
        fs::create_dir_all(&to)?;
        for entry in fs::read_dir(&from)? {
            link_if_present(&from, &to, &entry?.file_name())?;
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
    fn build_result_of_an_own_crate_is_recognised() {
        let own = OwnCrates(["host_agent", "tap", "path"].map(str::to_owned).into());
        for ours in ["host-agent-0123abcd", "libtap-0123abcd.rlib", "libtap.so", "path-0123abcd.d", "tap.d"] {
            assert!(own.contain(ours), "{ours}");
        }
        for other in ["libtap_dance-0123abcd.rlib", "serde-0123abcd", "pathdiff-0123abcd", "lib-0123abcd"] {
            assert!(!own.contain(other), "{other}");
        }
    }

    #[test]
    fn folder_is_linked_with_its_contents() {
        let folder = tempfile::tempdir().expect("a folder");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("build/serde-1/out")).expect("created");
        fs::create_dir_all(&to).expect("created");
        fs::write(from.join("build/serde-1/out/file"), "text").expect("written");
        link_if_present(&from, &to, OsStr::new("build")).expect("linked");
        link_if_present(&from, &to, OsStr::new("absent")).expect("ignored");
        assert_eq!(fs::read_to_string(to.join("build/serde-1/out/file")).expect("linked"), "text");
    }
}
