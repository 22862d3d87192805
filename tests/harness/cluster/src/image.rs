//! Container images made of folders and programs, without a registry: `imagePullPolicy: Never`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What holds a pod's namespaces; in each node from the start.
pub(crate) const PAUSE: &str = "docker.io/local/pause:1";
/// A small program that tests run in pods (`tools/images/probe`); in each node from the start.
pub const PROBE: &str = "docker.io/local/probe:1";

/// In a layer that stands for a folder of the VM: names that folder.
const MOUNTED: &str = ".mounted-from";
/// Mounts these folders, in the VM.
const MOUNT_LAYERS: &str = include_str!("image/mount-layers.sh");
/// Where a VM has its image disks.
const DISKS: &str = "/images";
/// In a VM's payload: the folders that layers stand for.
const LAYERS: &str = "layers";

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

    /// What is on an image disk of a VM, which isn't copied: see [`Self::write_for_vm`]. In VMs only.
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
        Self::write_layers(images, archive, Self::layers)
    }

    /// Writes all for a VM: `images.tar` in `folder`, which is `in_guest` there, whose layers only name folders. Whoever
    /// imports it there runs the `mount-layers.sh` beside it, which mounts them over the layers, so that nothing is unpacked
    /// by an emulated processor.
    pub fn write_for_vm(images: &[Self], folder: &Path, in_guest: &str) -> Result<()> {
        fs::write(folder.join("mount-layers.sh"), MOUNT_LAYERS)?;
        let mut number = 0;
        Self::write_layers(images, &folder.join("images.tar"), |image, scratch| {
            let mut folders: Vec<String> = image.disk.iter().map(|disk| format!("{DISKS}/{disk}")).collect();
            if !matches!(image.content, Content::Nothing) {
                let name = format!("{LAYERS}/{number}");
                number += 1;
                image
                    .content
                    .place(&folder.join(&name))
                    .with_context(|| format!("placing {}", image.reference))?;
                folders.push(format!("{in_guest}/{name}"));
            }
            let markers = folders.iter().enumerate().map(|(layer, folder)| {
                let name = |layer: &mut Layer| append(layer, MOUNTED, 0o444, folder.as_bytes());
                write_layer(&scratch.join(layer.to_string()), name)
            });
            markers.collect()
        })
    }

    fn write_layers(
        images: &[Self],
        archive: &Path,
        mut layers: impl FnMut(&Self, &Path) -> Result<Vec<(PathBuf, String)>>,
    ) -> Result<()> {
        let scratch = tempfile::tempdir_in(archive.parent().context("an archive lies in a folder")?)?;
        let mut out = tar::Builder::new(File::create(archive)?);
        let mut manifest = Vec::new();
        for (number, image) in images.iter().enumerate() {
            image.check_name()?;
            let layers = layers(image, scratch.path())?;
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

    fn check_name(&self) -> Result<()> {
        let full = self.reference.split_once('/').is_some_and(|(host, _)| host.contains(['.', ':']));
        let tagged = self.reference.rsplit('/').next().is_some_and(|name| name.contains(':'));
        ensure!(full && tagged, "{}: write it out, as docker.io/local/NAME:TAG", self.reference);
        Ok(())
    }

    /// Its layers as files in that folder, lowest first, with their digests.
    fn layers(&self, folder: &Path) -> Result<Vec<(PathBuf, String)>> {
        ensure!(self.disk.is_none(), "{}: only VMs have image disks", self.reference);
        if matches!(self.content, Content::Nothing) {
            return Ok(Vec::new());
        }
        let layer = write_layer(&folder.join("layer"), |layer| self.content.append_to(layer));
        Ok(vec![layer.with_context(|| format!("packing image {}", self.reference))?])
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
    /// As files in a new folder.
    fn place(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        match self {
            Self::Nothing => {}
            Self::Folder(from) => {
                lab::host::run(Command::new("cp").arg("-a").arg(from.join(".")).arg(folder))?;
            }
            Self::Programs(programs) => {
                for (path, program) in programs {
                    let to = folder.join(path);
                    fs::create_dir_all(to.parent().context("it lies in the folder")?)?;
                    fs::copy(program, &to).with_context(|| format!("copying {}", program.display()))?;
                    fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
                }
            }
        }
        Ok(())
    }

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
    fn a_vms_archive_names_folders() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = folder.path().join("program");
        fs::write(&program, vec![1; 100_000]).expect("writable");
        let payload = folder.path().join("payload");
        fs::create_dir(&payload).expect("writable");
        let image = |name: &str| Image::of_disk(&format!("docker.io/local/{name}:1"), "sidecar");
        let images = [image("a"), image("b").with_programs(&[("usr/bin/program", &program)])];
        Image::write_for_vm(&images, &payload, "/payload/x").expect("written");
        assert_eq!(fs::metadata(payload.join("layers/0/usr/bin/program")).expect("placed").len(), 100_000);
        let script = fs::read_to_string(payload.join("mount-layers.sh")).expect("written");
        assert!(script.contains(MOUNTED), "both speak of one name");
        let archive = fs::read(payload.join("images.tar")).expect("written");
        assert!(archive.len() < 50_000, "{}", archive.len());
        let text = String::from_utf8_lossy(&archive);
        assert_eq!(
            (text.matches("/images/sidecar").count(), text.matches("/payload/x/layers/0").count()),
            (2, 1)
        );
        let error = Image::write_all(&images, &folder.path().join("all.tar")).expect_err("no VM has it");
        assert!(error.to_string().contains("only VMs"), "{error}");
    }

    #[test]
    fn half_a_name_is_refused() {
        for name in ["probe", "local/probe:1", "docker.io/local/probe"] {
            let image = Image::of_program(name, Path::new("/bin/true"));
            let error = image.check_name().unwrap_err();
            assert!(error.to_string().contains("docker.io/local/NAME:TAG"), "{error}");
        }
    }
}
