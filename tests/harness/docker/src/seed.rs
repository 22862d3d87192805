//! Engines that have our images from the start. What importing Debian roots and installing into them makes of an engine's
//! disk is kept in the cache, under the hash of what it was made from; an engine that begins with it shares those files and
//! builds anew only the layers with our programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use cluster::Daemon;
use lab::cache::{self, Recipe};
use lab::{Arch, host, repository};

use crate::bring_up::Disk;
use crate::{Engine, Version, images, tools};

/// What all entries' names begin with.
const PREFIX: &str = "docker-images";
/// Raise it when an engine is configured otherwise.
const FORMAT: u32 = 1;
/// What an engine keeps, under its `/var/lib`.
const KEPT: [&str; 2] = ["docker", "containerd"];
/// Folders whose files nobody writes into once they are whole: layers as they were unpacked, and content by its digest.
const NEVER_WRITTEN: [&str; 2] = ["blobs", "fs"];

impl Engine {
    /// Brings up a current engine that has these images (`sidecar`), with today's programs in them.
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
        // Its folder is named by what it was built from.
        let program = tools.program(program)?;
        let folder = program.parent().and_then(Path::file_name).context("a program lies in a folder")?;
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

/// Builds them once on an engine of its own, and keeps its disk.
fn make(name: &str, names: &[&str], folder: &Path) -> Result<()> {
    let mut engine = Engine::up(name, Version::Current)?;
    images::build(&engine, Arch::default(), names)?;
    engine.stop(Daemon::Dockerd)?;
    engine.stop(Daemon::Containerd(1))?;
    let from = engine.outside("/var/lib");
    // Nothing is mounted there any more.
    engine.end_daemons()?;
    for kept in KEPT {
        fs::rename(from.join(kept), folder.join(kept)).with_context(|| format!("keeping {kept}"))?;
    }
    engine.down()
}

/// Lays an entry into a new engine's `/var/lib`: files that are never written are shared, others copied.
pub(crate) fn lay(entry: &Path, var_lib: &Path) -> Result<()> {
    for kept in KEPT {
        let mut copy = Command::new("cp");
        copy.arg("--archive").arg("--link").args([entry.join(kept), var_lib.join(kept)]);
        host::run(&mut copy).with_context(|| format!("laying out {}", entry.display()))?;
        unshare(&var_lib.join(kept))?;
    }
    Ok(())
}

/// Gives a folder files of its own where somebody may write into them.
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
    fn only_what_nobody_writes_is_shared() {
        let folder = tempfile::tempdir().expect("a folder");
        let (entry, to) = (folder.path().join("entry"), folder.path().join("to"));
        let files = ["docker/meta.db", "containerd/blobs/sha256/a", "containerd/snapshots/1/fs/etc/passwd"];
        for file in files {
            let file = entry.join(file);
            fs::create_dir_all(file.parent().expect("a folder")).expect("made");
            fs::write(file, "x").expect("written");
        }
        fs::create_dir(&to).expect("made");
        lay(&entry, &to).expect("laid out");
        let links = files.map(|file| fs::metadata(to.join(file)).expect("there").nlink());
        assert_eq!(links, [1, 2, 2]);
    }
}
