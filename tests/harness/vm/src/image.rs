//! Disks: the guest's root, and one read-only disk for each container image.
//!
//! An image is a folder under `docker/` (`packages`, `root/`), the guest's is `tests/harness/vm/guest`. Made in two halves, as one
//! takes minutes and seldom changes: `image/root.sh` installs the packages, `image/disk.sh` lays our files over them and
//! makes the disk. This module says from what, and where the results are kept. The suite is named here, the mirror is not:
//! it is whichever the machine's own apt uses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::arch::Arch;
use crate::cache::Recipe;
use crate::{emulator, host, repository, sysroot};

pub(crate) const SUITE: &str = "trixie";
/// Raise it when what is in an entry, or what `vm` and `container` expect of it, changes.
const FORMAT: u32 = 1;
/// What the cache calls the first half of an image.
const ROOT_PREFIX: &str = "root-";

/// A container image that the lab can build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    name: String,
}

impl Image {
    /// All that have a recipe under `docker/`, by name.
    pub fn all() -> Result<Vec<Self>> {
        let folder = repository().join("docker");
        let mut images = Vec::new();
        for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let entry = entry?;
            if entry.path().join("packages").is_file() {
                images.push(Self { name: entry.file_name().to_string_lossy().into_owned() });
            }
        }
        images.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(images)
    }

    /// The one of that name.
    pub fn named(name: &str) -> Result<Self> {
        let mut all = Self::all()?;
        let Some(index) = all.iter().position(|image| image.name == name) else {
            let known: Vec<&str> = all.iter().map(Self::name).collect();
            bail!("no image {name} under docker/; there are: {}", known.join(", "));
        };
        Ok(all.swap_remove(index))
    }

    /// Its folder's name; also its disk's serial and its mount point under `/images` in the guest.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the cache calls it.
    pub fn recipe(&self, arch: Arch) -> Result<Recipe> {
        self.source(arch)?.recipe()
    }

    /// Its disk, built if need be.
    pub fn disk(&self, arch: Arch) -> Result<PathBuf> {
        Ok(self.source(arch)?.build()?.join("disk.ext4"))
    }

    /// Its packages as a Debian root, without our files: `root.tar.zst`, built if need be.
    pub fn root(&self, arch: Arch) -> Result<PathBuf> {
        let source = self.source(arch)?;
        Ok(source.root_recipe()?.build(|out| source.make_root(out))?.join("root.tar.zst"))
    }

    fn source(&self, arch: Arch) -> Result<Source> {
        let docker = repository().join("docker");
        let folder = docker.join(&self.name);
        Ok(Source {
            name: self.name.clone(),
            arch,
            packages: packages(&folder.join("packages"))?,
            overlays: vec![docker.join("common/root"), folder.join("root")],
            modules: None,
        })
    }
}

/// What a VM boots from.
pub struct GuestImage {
    /// The root disk.
    pub disk: PathBuf,
    /// The kernel.
    pub kernel: PathBuf,
    /// busybox and the modules for the initramfs.
    pub boot: PathBuf,
}

impl GuestImage {
    /// What the cache calls it.
    pub fn recipe(arch: Arch) -> Result<Recipe> {
        Self::source(arch)?.recipe()
    }

    /// Built if need be.
    pub fn build(arch: Arch) -> Result<Self> {
        let entry = Self::source(arch)?.build()?;
        Ok(Self {
            disk: entry.join("disk.ext4"),
            kernel: entry.join("boot/vmlinuz"),
            boot: entry.join("boot"),
        })
    }

    fn source(arch: Arch) -> Result<Source> {
        let folder = guest_folder();
        Ok(Source {
            name: "guest".to_owned(),
            arch,
            packages: packages(&folder.join("packages"))?,
            // Its own files come with each boot's initramfs: changing a script mustn't cost a build.
            overlays: Vec::new(),
            modules: Some(folder.join("modules")),
        })
    }
}

/// The names that today's recipes have in the cache, for any processor.
pub fn current_ids() -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for arch in Arch::ALL {
        let mut sources = vec![GuestImage::source(arch)?];
        for image in Image::all()? {
            sources.push(image.source(arch)?);
        }
        for source in sources {
            ids.extend([source.root_recipe()?.id(), source.recipe()?.id()]);
        }
        ids.extend([sysroot::recipe(arch)?.id(), emulator::recipe(arch)?.id()]);
    }
    Ok(ids)
}

/// Whether an entry of the cache is an image, half of one, or a sysroot, by its name.
pub fn is_image(id: &str) -> bool {
    let name = id.rsplit_once('-').map_or(id, |(name, _)| name);
    let name = name.strip_prefix(ROOT_PREFIX).unwrap_or(name);
    ["guest", "sidecar", "desktop", sysroot::NAME, emulator::NAME]
        .contains(&name.split('-').next().unwrap_or_default())
}

/// Where the guest's recipe and files are.
pub(crate) fn guest_folder() -> PathBuf {
    repository().join("tests/harness/vm/guest")
}

/// One disk's inputs.
struct Source {
    name: String,
    arch: Arch,
    packages: Vec<String>,
    overlays: Vec<PathBuf>,
    /// The list of kernel modules, if it is to have a kernel.
    modules: Option<PathBuf>,
}

impl Source {
    fn root_recipe(&self) -> Result<Recipe> {
        let name = self.arch.entry_name(&format!("{ROOT_PREFIX}{}", self.name));
        let recipe = Recipe::new(&name, FORMAT)
            .input("suite", SUITE.as_bytes())
            .input("arch", self.arch.debian().as_bytes())
            .input("packages", self.packages.join(" ").as_bytes())
            .path(&scripts().join("root.sh"))?;
        if self.modules.is_none() {
            return Ok(recipe);
        }
        recipe.input("kernel", self.arch.kernel_package().as_bytes()).path(&scripts().join("fetch-kernel.sh"))
    }

    fn recipe(&self) -> Result<Recipe> {
        let mut recipe = Recipe::new(&self.arch.entry_name(&self.name), FORMAT)
            .input("root", self.root_recipe()?.id().as_bytes())
            .path(&finish())?
            .path(&scripts().join("disk.sh"))?;
        if let Some(script) = self.arch.finish() {
            recipe = recipe.path(&scripts().join(script))?;
        }
        for overlay in &self.overlays {
            recipe = recipe.path(overlay)?;
        }
        if let Some(modules) = &self.modules {
            recipe = recipe.path(modules)?.path(&scripts().join("install-kernel.sh"))?;
        }
        Ok(recipe)
    }

    fn build(&self) -> Result<PathBuf> {
        self.recipe()?.build(|out| {
            emulate(self.arch, out)?;
            let root = self.root_recipe()?.build(|out| self.make_root(out))?;
            self.make_disk(&root, out)
        })
    }

    fn make_root(&self, out: &Path) -> Result<()> {
        emulate(self.arch, out)?;
        let mut environment = bootstrap_environment(self.arch, &self.packages);
        if self.modules.is_some() {
            environment.push(("KERNEL", self.arch.kernel_package().to_owned()));
        }
        run_script("root.sh", environment, out)
    }

    fn make_disk(&self, root: &Path, out: &Path) -> Result<()> {
        let overlays: Vec<String> = self.overlays.iter().map(|path| path.display().to_string()).collect();
        let mut environment = vec![
            ("ROOT_TAR", root.join("root.tar.zst").display().to_string()),
            ("OVERLAYS", overlays.join("\n")),
            ("FINISH", self.arch.finish().map_or_else(finish, |it| scripts().join(it)).display().to_string()),
        ];
        if let Some(modules) = &self.modules {
            environment.push(("KERNEL_DEB", root.join("kernel.deb").display().to_string()));
            environment.push(("MODULES", modules.display().to_string()));
        }
        run_script("disk.sh", environment, out)
    }
}

/// Sees to it that this machine runs programs for `arch`; its log goes to the folder `out`. Needs root, or sudo.
pub fn emulate(arch: Arch, out: &Path) -> Result<()> {
    if arch.is_native() {
        return Ok(());
    }
    run_script("emulate.sh", vec![("ARCH", arch.debian().to_owned())], out)
}

/// What `root.sh` and `sysroot.sh` take a Debian from.
pub(crate) fn bootstrap_environment(arch: Arch, packages: &[String]) -> Vec<(&'static str, String)> {
    let apt = Apt::of_this_machine();
    vec![
        ("SUITE", SUITE.to_owned()),
        ("ARCH", arch.debian().to_owned()),
        ("PACKAGES", packages.join(",")),
        ("MIRROR", apt.mirror),
        ("KEYRING", apt.keyring),
        ("APT_OPTIONS", apt.options),
    ]
}

/// As root, by sudo if need be: other users' files can't be made otherwise.
pub(crate) fn run_script(script: &str, mut environment: Vec<(&str, String)>, out: &Path) -> Result<()> {
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    environment.push(("OUT", out.display().to_string()));
    environment.push(("OWNER", format!("{}:{}", uid.as_raw(), gid.as_raw())));
    let mut command = Command::new(if uid.is_root() { "env" } else { "sudo" });
    if !uid.is_root() {
        command.arg("env");
    }
    command.args(environment.iter().map(|(name, value)| format!("{name}={value}")));
    command.arg("sh").arg(scripts().join(script));
    host::run_logged(&mut command, &out.join("build.log"))
}

/// How the machine's own apt reaches Debian.
struct Apt {
    mirror: String,
    keyring: String,
    options: String,
}

impl Apt {
    fn of_this_machine() -> Self {
        let targets = Command::new("apt-get")
            .args(["indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)"])
            .output();
        let targets =
            targets.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        // Empty on a machine that isn't Debian: mmdebstrap then takes Debian's own.
        let mirror = targets
            .lines()
            .find_map(|line| line.strip_prefix("Debian|Debian|"))
            .unwrap_or_default()
            .to_owned();
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let keyring = if Path::new(keyring).exists() { keyring } else { "" }.to_owned();
        // Proxies and the like. The builder removes them from the image.
        let settings = [
            "Acquire::http",
            "Acquire::https",
            "Acquire::Retries",
            "Acquire::Check-Valid-Until",
            "Acquire::Check-Date",
        ];
        let options = Command::new("apt-config").arg("dump").args(settings).output();
        let options =
            options.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let options: Vec<&str> = options.lines().filter(|line| !line.ends_with(" \"\";")).collect();
        Self { mirror, keyring, options: options.join("\n") }
    }
}

pub(crate) fn scripts() -> PathBuf {
    repository().join("tests/harness/vm/image")
}

fn finish() -> PathBuf {
    repository().join("docker/common/finish.sh")
}

/// A package list: one a line, `#` begins a comment.
pub(crate) fn packages(file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    Ok(lines.filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_has_a_recipe() {
        let images = Image::all().expect("docker/ is readable");
        let names: Vec<&str> = images.iter().map(Image::name).collect();
        assert_eq!(names, ["desktop-gnome", "desktop-pattern", "desktop-sway", "sidecar"]);
        for image in &images {
            assert!(image.name().len() <= 20, "{}: virtio-blk serials end there", image.name());
            let [amd64, arm64] =
                Arch::ALL.map(|arch| image.recipe(arch).expect("all its inputs are readable").id());
            assert_ne!(amd64, arm64);
        }
        assert!(Image::named("nothing").is_err());
    }

    #[test]
    fn images_are_known_by_their_names_in_the_cache() {
        for id in current_ids().expect("all inputs are readable") {
            assert!(is_image(&id), "{id}");
        }
        assert!(!is_image("ssh-keys-3c417758bcc3aa2a"));
    }
}
