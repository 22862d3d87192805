//! Engines that have the images from the start. The cache keeps the disk of an engine on which Debian's roots were imported and
//! packages installed, under the hash of its inputs. A new engine shares those files, and builds only the layers with the
//! programs again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use cluster::Daemon;
use lab::cache::{self, Recipe};
use lab::{Arch, host, repository};

use crate::bring_up::Disk;
use crate::{Engine, Version, images, tools};

/// Prefix of the entries' names.
const PREFIX: &str = "docker-images";
/// Version of the engine's configuration: raise it when a change of the configuration changes the disk.
const FORMAT: u32 = 1;
/// Folders below `/var/lib` that are kept.
const KEPT: [&str; 2] = ["docker", "containerd"];
/// Folders whose files are never written again: unpacked layers, and content by digest.
const NEVER_WRITTEN: [&str; 2] = ["blobs", "fs"];

impl Engine {
    /// Starts a current engine with these images (`sidecar`), which hold the current programs.
    pub fn up_with_images(name: &str, names: &[&str]) -> Result<Self> {
        let entry = entry(name, names)?;
        let engine = crate::bring_up::run(name, Version::Current, &Disk::Like(entry))?;
        images::build(&engine, Arch::default(), names)?;
        Ok(engine)
    }
}

fn entry(name: &str, names: &[&str]) -> Result<PathBuf> {
    let tools = tools::build(Version::Current)?;
    let docker = repository().join("docker");
    let mut recipe =
        Recipe::new(PREFIX, FORMAT).path(&docker.join("bake.hcl"))?.path(&docker.join("common"))?;
    for program in ["dockerd", "containerd"] {
        // The folder's name holds the hash of the program's inputs.
        let program = tools.program(program)?;
        let folder =
            program.parent().and_then(Path::file_name).context("the program's path has no folder")?;
        recipe = recipe.input("program", folder.as_encoded_bytes());
    }
    for (image, root, _) in images::wanted(names)? {
        let made_from = lab::image::Image::named(root)?.recipe(Arch::default())?.id();
        recipe = recipe.input("image", image.as_bytes()).input("root", made_from.as_bytes());
        let file = if root.starts_with("desktop-") && root != "desktop-pattern" { "desktop" } else { image };
        recipe = recipe.path(&docker.join(format!("{file}.Dockerfile")))?;
        recipe = recipe.path(&docker.join(format!("{image}.packages")))?;
    }
    let id = recipe.id();
    let entry = recipe.build(|folder| make(&format!("{name}-images"), names, folder))?;
    for old in cache::entries()? {
        if old.id.starts_with(PREFIX) && old.id != id && !old.unfinished {
            old.remove()?;
        }
    }
    Ok(entry)
}

/// Builds the images on an engine, and keeps the engine's disk.
fn make(name: &str, names: &[&str], folder: &Path) -> Result<()> {
    let mut engine = Engine::up(name, Version::Current)?;
    images::build(&engine, Arch::default(), names)?;
    engine.stop(Daemon::Dockerd)?;
    engine.stop(Daemon::Containerd(1))?;
    let from = engine.outside("/var/lib");
    // Unmounts everything below the folder.
    engine.end()?;
    for kept in KEPT {
        fs::rename(from.join(kept), folder.join(kept)).with_context(|| format!("keeping {kept}"))?;
    }
    engine.down()
}

/// Copies an entry to a new engine's `/var/lib`. Files that are never written are hard links.
pub(crate) fn copy(entry: &Path, var_lib: &Path) -> Result<()> {
    for kept in KEPT {
        let mut copy = Command::new("cp");
        copy.arg("--archive").arg("--link").args([entry.join(kept), var_lib.join(kept)]);
        host::run(&mut copy).with_context(|| format!("copying {}", entry.display()))?;
        unshare(&var_lib.join(kept))?;
    }
    Ok(())
}

/// Replaces hard links by copies where files may be written.
fn unshare(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            if !NEVER_WRITTEN.iter().any(|name| entry.file_name() == *name) {
                unshare(&path)?;
            }
        } else if kind.is_file() {
            let own = path.with_extension("own");
            fs::copy(&path, &own)?;
            fs::rename(&own, &path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn only_files_that_are_never_written_are_shared() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (entry, to) = (folder.path().join("entry"), folder.path().join("to"));
        let files = ["docker/meta.db", "containerd/blobs/sha256/a", "containerd/snapshots/1/fs/etc/passwd"];
        for file in files {
            let file = entry.join(file);
            fs::create_dir_all(file.parent().expect("temporary folder")).expect("folder is created");
            fs::write(file, "x").expect("file is written");
        }
        fs::create_dir(&to).expect("folder is created");
        copy(&entry, &to).expect("copied");
        let links = files.map(|file| fs::metadata(to.join(file)).expect("file exists").nlink());
        assert_eq!(links, [1, 2, 2]);
    }
}
