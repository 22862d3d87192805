//! Container images of folders and programs, imported without a registry. Pods use them with `imagePullPolicy: Never`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Image of the process that holds a pod's namespaces. Present on each node.
pub(crate) const PAUSE: &str = "docker.io/local/pause:1";
/// Image of the test program `tools/images/probe`. Present on each node.
pub const PROBE: &str = "docker.io/local/probe:1";

/// Name of the file that marks a layer as a placeholder; its content is the path of the folder in the VM.
const MOUNTED: &str = ".mounted-from";
/// Script that mounts those folders in the VM.
const MOUNT_LAYERS: &str = include_str!("image/mount-layers.sh");
/// Mount point of a VM's image disks.
const DISKS: &str = "/images";
/// Folder in a VM's payload that holds the layers' content.
const LAYERS: &str = "layers";

/// A container image.
#[derive(Debug, Clone)]
pub struct Image {
    reference: String,
    /// Image disk of a VM that is the lowest layer.
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
    /// Path in the image and path on the host of each program.
    Programs(Vec<(String, PathBuf)>),
}

impl Image {
    /// An image whose root file system is a folder on the host, with its owners and modes.
    pub fn of_folder(reference: &str, folder: &Path) -> Self {
        Self::new(reference, Content::Folder(folder.to_owned()), Vec::new())
    }

    /// An image that holds one static program, `/NAME`, which is its entrypoint.
    pub fn of_program(reference: &str, program: &Path) -> Self {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let content = Content::Programs(vec![(name.to_string(), program.to_owned())]);
        Self::new(reference, content, vec![format!("/{name}")])
    }

    /// An image whose root file system is an image disk of a VM, which is mounted and not copied. Only for
    /// [`Self::write_for_vm`].
    pub fn of_disk(reference: &str, disk: &str) -> Self {
        Self { disk: Some(disk.to_owned()), ..Self::new(reference, Content::Nothing, Vec::new()) }
    }

    /// Adds a layer with a program, `/NAME`, and makes it the entrypoint.
    #[must_use]
    pub fn with_program(self, program: &Path) -> Self {
        let Self { content, entrypoint, .. } = Self::of_program(&self.reference, program);
        Self { content, entrypoint, ..self }
    }

    /// Adds a layer with programs, each at a path without a leading slash. The entrypoint stays.
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

    /// Sets the entrypoint.
    #[must_use]
    pub fn entrypoint(mut self, words: &[&str]) -> Self {
        self.entrypoint = words.iter().map(ToString::to_string).collect();
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// Sets the user ID. Kubernetes cannot check `runAsNonRoot` on user names.
    #[must_use]
    pub fn user(mut self, uid: u32) -> Self {
        self.user = uid.to_string();
        self
    }

    /// The image's reference.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// Writes the image in the format of `docker save`.
    pub fn write(&self, archive: &Path) -> Result<()> {
        Self::write_all(std::slice::from_ref(self), archive)
    }

    /// Writes several images into one archive, which imports faster than an archive per image.
    pub fn write_all(images: &[Self], archive: &Path) -> Result<()> {
        Self::write_layers(images, archive, Self::layers)
    }

    /// Writes `images.tar` and `mount-layers.sh` for a VM to `folder`, which is `in_guest` in the VM. The layers in the archive
    /// are placeholders: after the import, `mount-layers.sh` mounts the real folders over them. An emulated processor would take
    /// minutes to unpack the content.
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
        let scratch = tempfile::tempdir_in(archive.parent().context("the archive's path has no folder")?)?;
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
        ensure!(full && tagged, "{}: write the full reference, docker.io/local/NAME:TAG", self.reference);
        Ok(())
    }

    /// Writes the layers to `folder`; returns files and digests, lowest layer first.
    fn layers(&self, folder: &Path) -> Result<Vec<(PathBuf, String)>> {
        ensure!(self.disk.is_none(), "{}: image disks can be used in VMs only", self.reference);
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
    /// Writes the content as files to a new folder.
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
                    fs::create_dir_all(to.parent().context("the path has no folder")?)?;
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

/// Writes a layer to `file`; returns the file and its digest.
fn write_layer(file: &Path, fill: impl FnOnce(&mut Layer) -> io::Result<()>) -> Result<(PathBuf, String)> {
    let mut layer = tar::Builder::new(Hashing { file: File::create(file)?, hash: Sha256::new() });
    layer.follow_symlinks(false);
    fill(&mut layer)?;
    let Hashing { hash, .. } = layer.into_inner()?;
    Ok((file.to_owned(), format!("sha256:{}", hex::encode(hash.finalize()))))
}

fn append(out: &mut tar::Builder<impl Write>, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    header.set_cksum();
    out.append_data(&mut header, name, bytes)
}

type Layer = tar::Builder<Hashing>;

/// A file, and the hash of the bytes written to it.
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
    fn image_of_folder_has_layer_with_declared_digest() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("bin")).expect("folder is created");
        fs::write(root.join("bin/program"), "program").expect("file is written");
        std::os::unix::fs::symlink("program", root.join("bin/link")).expect("file is written");
        let archive = folder.path().join("image.tar");
        let image = Image::of_folder("docker.io/local/t:1", &root).entrypoint(&["/bin/link"]).user(7);
        image.write(&archive).expect("image is packed");

        let mut files = std::collections::BTreeMap::new();
        for entry in
            tar::Archive::new(File::open(&archive).expect("file exists")).entries().expect("a tar archive")
        {
            let mut entry = entry.expect("entry is readable");
            let name = entry.path().expect("entry has a path").display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("entry is readable");
            files.insert(name, bytes);
        }
        let digest = hex::encode(Sha256::digest(&files["layer0.0.tar"]));
        let config: Value = serde_json::from_slice(&files["config0.json"]).expect("JSON");
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{digest}"));
        assert_eq!(config["config"]["User"], "7");
        let mut layer = tar::Archive::new(&files["layer0.0.tar"][..]);
        let link = layer
            .entries()
            .expect("a tar archive")
            .flatten()
            .find(|it| it.path().is_ok_and(|p| p.ends_with("link")));
        assert!(link.expect("the link is in the layer").header().entry_type().is_symlink());
    }

    #[test]
    fn archive_for_vm_holds_placeholder_layers() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let program = folder.path().join("program");
        fs::write(&program, vec![1; 100_000]).expect("file is written");
        let payload = folder.path().join("payload");
        fs::create_dir(&payload).expect("file is written");
        let image = |name: &str| Image::of_disk(&format!("docker.io/local/{name}:1"), "sidecar");
        let images = [image("a"), image("b").with_programs(&[("usr/bin/program", &program)])];
        Image::write_for_vm(&images, &payload, "/payload/x").expect("images are packed");
        assert_eq!(
            fs::metadata(payload.join("layers/0/usr/bin/program")).expect("file exists").len(),
            100_000
        );
        let script = fs::read_to_string(payload.join("mount-layers.sh")).expect("file exists");
        assert!(script.contains(MOUNTED), "the script looks for another marker: {script}");
        let archive = fs::read(payload.join("images.tar")).expect("file exists");
        assert!(archive.len() < 50_000, "{}", archive.len());
        let text = String::from_utf8_lossy(&archive);
        assert_eq!(
            (text.matches("/images/sidecar").count(), text.matches("/payload/x/layers/0").count()),
            (2, 1)
        );
        let error =
            Image::write_all(&images, &folder.path().join("all.tar")).expect_err("an image needs a VM");
        assert!(error.to_string().contains("VMs only"), "{error}");
    }

    #[test]
    fn reference_without_host_or_tag_is_refused() {
        for name in ["probe", "local/probe:1", "docker.io/local/probe"] {
            let image = Image::of_program(name, Path::new("/bin/true"));
            let error = image.check_name().unwrap_err();
            assert!(error.to_string().contains("docker.io/local/NAME:TAG"), "{error}");
        }
    }
}
