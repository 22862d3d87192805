//! Container images made of folders and programs, without a registry: `imagePullPolicy: Never`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What holds a pod's namespaces; in each node from the start.
pub(crate) const PAUSE: &str = "docker.io/local/pause:1";
/// A small program that tests run in pods (`tools/images/probe`); in each node from the start.
pub const PROBE: &str = "docker.io/local/probe:1";

/// In the layer that stands for a VM's image disk: names it.
pub(crate) const DISK: &str = ".image-disk";

/// An image to import.
#[derive(Debug, Clone)]
pub struct Image {
    reference: String,
    /// The image disk of a VM under it.
    disk: Option<String>,
    content: Content,
    entrypoint: Vec<String>,
    env: Vec<String>,
    user: String,
}

#[derive(Debug, Clone)]
enum Content {
    Nothing,
    Folder(PathBuf),
    /// Where each is in the image, and here.
    Programs(Vec<(String, PathBuf)>),
}

impl Image {
    /// A root file system as it lies there, owners included.
    pub fn of_folder(reference: &str, folder: &Path) -> Self {
        Self::new(reference, Content::Folder(folder.to_owned()), Vec::new())
    }

    /// Nothing but one static program, `/NAME`, which is the entrypoint.
    pub fn of_program(reference: &str, program: &Path) -> Self {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let content = Content::Programs(vec![(name.to_string(), program.to_owned())]);
        Self::new(reference, content, vec![format!("/{name}")])
    }

    /// What is on an image disk of a VM, which isn't copied: the image's lowest layer names the disk, and whoever imports
    /// it there mounts that over the layer. In VMs only.
    pub fn of_disk(reference: &str, disk: &str) -> Self {
        Self { disk: Some(disk.to_owned()), ..Self::new(reference, Content::Nothing, Vec::new()) }
    }

    /// Puts a program over it, at `/NAME`, as the entrypoint.
    #[must_use]
    pub fn with_program(self, program: &Path) -> Self {
        let Self { content, entrypoint, .. } = Self::of_program(&self.reference, program);
        Self { content, entrypoint, ..self }
    }

    /// Puts programs over it, each at a path that has no leading slash; what is run stays as it is.
    #[must_use]
    pub fn with_programs(mut self, programs: &[(&str, &Path)]) -> Self {
        let programs = programs.iter().map(|(path, program)| ((*path).to_owned(), (*program).to_owned()));
        self.content = Content::Programs(programs.collect());
        self
    }

    fn new(reference: &str, content: Content, entrypoint: Vec<String>) -> Self {
        let reference = reference.to_owned();
        Self { reference, disk: None, content, entrypoint, env: Vec::new(), user: String::new() }
    }

    /// Sets what is run.
    #[must_use]
    pub fn entrypoint(mut self, words: &[&str]) -> Self {
        self.entrypoint = words.iter().map(ToString::to_string).collect();
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// Sets who runs it: a number, as `runAsNonRoot` can't judge names.
    #[must_use]
    pub fn user(mut self, uid: u32) -> Self {
        self.user = uid.to_string();
        self
    }

    /// What pods call it.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// Writes it as `docker save` would.
    pub fn write(&self, archive: &Path) -> Result<()> {
        Self::write_all(std::slice::from_ref(self), archive)
    }

    /// Writes all into one archive, as `docker save A B …` would: importing one is quicker than importing each.
    pub fn write_all(images: &[Self], archive: &Path) -> Result<()> {
        let scratch = tempfile::tempdir_in(archive.parent().context("an archive lies in a folder")?)?;
        let mut out = tar::Builder::new(File::create(archive)?);
        let mut manifest = Vec::new();
        for (number, image) in images.iter().enumerate() {
            let layers = image.layers(scratch.path())?;
            let config = format!("config{number}.json");
            let digests: Vec<&str> = layers.iter().map(|(_, digest)| digest.as_str()).collect();
            append(&mut out, &config, 0o644, &serde_json::to_vec(&image.config(&digests))?)?;
            let names: Vec<String> =
                (0..layers.len()).map(|layer| format!("layer{number}.{layer}.tar")).collect();
            for (name, (file, _)) in names.iter().zip(&layers) {
                out.append_file(name, &mut File::open(file)?)?;
                fs::remove_file(file)?;
            }
            manifest.push(json!({"Config": config, "RepoTags": [image.reference], "Layers": names}));
        }
        append(&mut out, "manifest.json", 0o644, &serde_json::to_vec(&manifest)?)?;
        Ok(out.into_inner()?.flush()?)
    }

    /// Its layers as files in that folder, lowest first, with their digests.
    fn layers(&self, folder: &Path) -> Result<Vec<(PathBuf, String)>> {
        let full = self.reference.split_once('/').is_some_and(|(host, _)| host.contains(['.', ':']));
        let tagged = self.reference.rsplit('/').next().is_some_and(|name| name.contains(':'));
        ensure!(full && tagged, "{}: write it out, as docker.io/local/NAME:TAG", self.reference);

        let mut layers = Vec::new();
        if let Some(disk) = &self.disk {
            let name = |layer: &mut Layer| append(layer, DISK, 0o444, disk.as_bytes());
            layers.push(write_layer(&folder.join("disk"), name)?);
        }
        if !matches!(self.content, Content::Nothing) {
            let all = |layer: &mut Layer| self.content.append_to(layer);
            let layer = write_layer(&folder.join("layer"), all);
            layers.push(layer.with_context(|| format!("packing image {}", self.reference))?);
        }
        Ok(layers)
    }

    fn config(&self, digests: &[&str]) -> Value {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "Env": self.env, "User": self.user},
            "rootfs": {"type": "layers", "diff_ids": digests},
        })
    }
}

impl Content {
    fn append_to(&self, layer: &mut Layer) -> io::Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::Folder(folder) => layer.append_dir_all(".", folder).map_err(|error| {
                io::Error::new(error.kind(), format!("reading {}: {error}", folder.display()))
            }),
            Self::Programs(programs) => programs.iter().try_for_each(|(path, program)| {
                let bytes = fs::read(program).map_err(|error| {
                    io::Error::new(error.kind(), format!("reading {}: {error}", program.display()))
                })?;
                append(layer, path, 0o755, &bytes)
            }),
        }
    }
}

/// The layer in `file`, and its digest.
fn write_layer(file: &Path, fill: impl FnOnce(&mut Layer) -> io::Result<()>) -> Result<(PathBuf, String)> {
    let mut layer = tar::Builder::new(Hashing { file: File::create(file)?, hash: Sha256::new() });
    layer.follow_symlinks(false);
    fill(&mut layer)?;
    let Hashing { hash, .. } = layer.into_inner()?;
    Ok((file.to_owned(), format!("sha256:{}", hex(&hash.finalize()))))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn append(out: &mut tar::Builder<impl Write>, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    header.set_cksum();
    out.append_data(&mut header, name, bytes)
}

type Layer = tar::Builder<Hashing>;

/// A file that knows the hash of what was written.
struct Hashing {
    file: File,
    hash: Sha256,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn a_folder_becomes_an_archive_whose_layer_has_the_hash_it_claims() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("bin")).expect("writable");
        fs::write(root.join("bin/program"), "program").expect("writable");
        std::os::unix::fs::symlink("program", root.join("bin/link")).expect("writable");
        let archive = folder.path().join("image.tar");
        let image = Image::of_folder("docker.io/local/t:1", &root).entrypoint(&["/bin/link"]).user(7);
        image.write(&archive).expect("it is packed");

        let mut files = std::collections::BTreeMap::new();
        for entry in tar::Archive::new(File::open(&archive).expect("written")).entries().expect("a tar") {
            let mut entry = entry.expect("whole");
            let name = entry.path().expect("a name").display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("whole");
            files.insert(name, bytes);
        }
        let digest = hex(&Sha256::digest(&files["layer0.0.tar"]));
        let config: Value = serde_json::from_slice(&files["config0.json"]).expect("JSON");
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{digest}"));
        assert_eq!(config["config"]["User"], "7");
        let mut layer = tar::Archive::new(&files["layer0.0.tar"][..]);
        let link =
            layer.entries().expect("a tar").flatten().find(|it| it.path().is_ok_and(|p| p.ends_with("link")));
        assert!(link.expect("it is there").header().entry_type().is_symlink());
    }

    #[test]
    fn half_a_name_is_refused() {
        for name in ["probe", "local/probe:1", "docker.io/local/probe"] {
            let image = Image::of_program(name, Path::new("/bin/true"));
            let error = image.layers(Path::new("/nowhere")).unwrap_err();
            assert!(error.to_string().contains("docker.io/local/NAME:TAG"), "{error}");
        }
    }
}
