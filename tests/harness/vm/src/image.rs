//! Builds the guest's root disk and one read-only disk per container image.
//!
//! An image is a folder under `docker/` (`packages`, `root/`); that of the guest is `tests/harness/vm/guest`. `image/root.sh`
//! installs the packages, which takes minutes and changes rarely; `image/disk.sh` adds our files and builds the disk. Both
//! results are cached. The Debian mirror is that of the machine's apt.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::arch::Arch;
use crate::cache::Recipe;
use crate::{emulator, host, repository, sysroot};

pub(crate) const SUITE: &str = "trixie";
/// Version of the entry layout, including what `vm` and `container` expect of it.
const FORMAT: u32 = 1;
/// Prefix of cache entries that contain the installed packages of an image.
const ROOT_PREFIX: &str = "root-";

/// A container image that the lab can build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    name: String,
}

impl Image {
    /// All images with a recipe under `docker/`, sorted by name.
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

    /// The image of this name.
    ///
    /// # Errors
    /// Fails with a list of known images.
    pub fn named(name: &str) -> Result<Self> {
        let mut all = Self::all()?;
        let Some(index) = all.iter().position(|image| image.name == name) else {
            let known: Vec<&str> = all.iter().map(Self::name).collect();
            bail!("unknown image {name}; images under docker/: {}", known.join(", "));
        };
        Ok(all.swap_remove(index))
    }

    /// Folder name, also the serial of the disk and the mount point under `/images` in the guest.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Recipe of the cache entry.
    pub fn recipe(&self, arch: Arch) -> Result<Recipe> {
        self.source(arch)?.recipe()
    }

    /// True if the disk is built.
    pub fn is_cached(&self, arch: Arch) -> Result<bool> {
        Ok(self.recipe(arch)?.location()?.exists())
    }

    /// Disk; built if needed.
    pub fn disk(&self, arch: Arch) -> Result<PathBuf> {
        Ok(self.source(arch)?.build()?.join("disk.ext4"))
    }

    /// Debian root with the packages and without our files, `root.tar.zst`; built if needed.
    pub fn root(&self, arch: Arch) -> Result<PathBuf> {
        let source = self.source(arch)?;
        Ok(source.root_recipe()?.build(|out| source.make_root(out))?.join("root.tar.zst"))
    }

    fn source(&self, arch: Arch) -> Result<Source> {
        let docker = repository().join("docker");
        let mut source = Source {
            name: self.name.clone(),
            arch,
            packages: Vec::new(),
            overlays: vec![docker.join("common/root")],
            modules: None,
        };
        // A variant names the image whose packages and files it has, too, in the file `base`.
        let base = fs::read_to_string(docker.join(&self.name).join("base")).unwrap_or_default();
        for folder in [base.trim(), &self.name].into_iter().filter(|it| !it.is_empty()) {
            source.packages.extend(packages(&docker.join(folder).join("packages"))?);
            source.overlays.push(docker.join(folder).join("root"));
        }
        Ok(source)
    }
}

/// Boot files of a VM.
pub struct GuestImage {
    /// Root disk.
    pub disk: PathBuf,
    /// Kernel image that QEMU boots.
    pub kernel: PathBuf,
    /// Folder with busybox and the modules for the initramfs.
    pub boot: PathBuf,
}

impl GuestImage {
    /// Recipe of the cache entry.
    pub fn recipe(arch: Arch) -> Result<Recipe> {
        Self::source(arch)?.recipe()
    }

    /// Builds the cache entry if needed.
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
            // Guest files are part of the initramfs of each boot, so a changed script needs no build.
            overlays: Vec::new(),
            modules: Some(folder.join("modules")),
        })
    }
}

/// Names of all current cache entries, for every architecture.
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

/// True for the name of a cache entry with an image, its packages, a sysroot or a QEMU.
pub fn is_image(id: &str) -> bool {
    let name = id.rsplit_once('-').map_or(id, |(name, _)| name);
    let name = name.strip_prefix(ROOT_PREFIX).unwrap_or(name);
    ["guest", "sidecar", "desktop", sysroot::NAME, emulator::NAME]
        .contains(&name.split('-').next().unwrap_or_default())
}

/// Folder of the guest's recipe and files.
pub(crate) fn guest_folder() -> PathBuf {
    repository().join("tests/harness/vm/guest")
}

/// Inputs of a disk.
struct Source {
    name: String,
    arch: Arch,
    packages: Vec<String>,
    overlays: Vec<PathBuf>,
    /// List of kernel modules; `None` for images without a kernel.
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

/// Enables user-mode emulation of `arch` on this machine. Writes a log to the folder `out`. Needs root or sudo.
pub fn emulate(arch: Arch, out: &Path) -> Result<()> {
    if arch.is_native() {
        return Ok(());
    }
    run_script("emulate.sh", vec![("ARCH", arch.debian().to_owned())], out)
}

/// Environment of `root.sh` and `sysroot.sh`: suite, packages, and how to reach Debian.
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

/// Runs a script as root, with sudo if needed, because it creates files of other users.
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

/// Mirror, keyring and options of the machine's apt.
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
        // Empty on other distributions: mmdebstrap then uses its default mirror.
        let mirror = targets
            .lines()
            .find_map(|line| line.strip_prefix("Debian|Debian|"))
            .unwrap_or_default()
            .to_owned();
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let keyring = if Path::new(keyring).exists() { keyring } else { "" }.to_owned();
        // Proxies and similar settings; the builder removes them from the image.
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

/// Reads a package list: one package per line, `#` starts a comment.
pub(crate) fn packages(file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    Ok(lines.filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_has_a_recipe_per_architecture() {
        let images = Image::all().expect("docker/ is readable");
        let names: Vec<&str> = images.iter().map(Image::name).collect();
        assert_eq!(
            names,
            [
                "desktop-gnome",
                "desktop-gnome-full",
                "desktop-labwc",
                "desktop-pattern",
                "desktop-sway",
                "desktop-sway-full",
                "sidecar"
            ]
        );
        for image in &images {
            assert!(image.name().len() <= 20, "{}: virtio-blk serials have at most 20 bytes", image.name());
            let [amd64, arm64] = Arch::ALL.map(|arch| image.recipe(arch).expect("readable").id());
            assert_ne!(amd64, arm64);
        }
        assert!(Image::named("nothing").is_err());
    }

    #[test]
    fn image_entries_are_recognized_by_name() {
        for id in current_ids().expect("readable") {
            assert!(is_image(&id), "{id}");
        }
        assert!(!is_image("ssh-keys-3c417758bcc3aa2a"));
    }
}
