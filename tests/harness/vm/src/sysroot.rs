//! What programs for a guest with another processor are compiled and linked against: the headers and libraries of the
//! guest's Debian, unpacked into a folder. clang and lld are cross compilers as they are; they only have to be told.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::arch::Arch;
use crate::cache::Recipe;
use crate::{image, repository};

/// Raise it when what is in an entry changes its meaning.
const FORMAT: u32 = 1;
pub(crate) const NAME: &str = "sysroot";

/// A sysroot in the cache.
#[derive(Debug, Clone)]
pub struct Sysroot {
    arch: Arch,
    path: PathBuf,
}

impl Sysroot {
    /// Built if need be.
    pub fn build(arch: Arch) -> Result<Self> {
        let entry = recipe(arch)?.build(|out| {
            let packages = image::packages(&package_list())?;
            image::run_script("sysroot.sh", image::bootstrap_environment(arch, &packages), out)
        })?;
        Ok(Self { arch, path: entry.join("root") })
    }

    /// The folder that takes the place of `/`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Variables for `cargo build --target`, which make it, its build scripts and their compilers use this sysroot.
    pub fn cargo_environment(&self) -> Vec<(String, String)> {
        let target = self.arch.rust_target();
        let (underscored, shouted) = (target.replace('-', "_"), target.replace('-', "_").to_uppercase());
        let root = self.path.display();
        let compiler = [format!("--target={}", self.arch.gnu_triplet()), format!("--sysroot={root}")];
        let linker: Vec<String> = compiler
            .iter()
            .map(String::as_str)
            .chain(["-fuse-ld=lld"])
            .map(|argument| format!("-Clink-arg={argument}"))
            .collect();
        let pkg_config =
            [format!("usr/lib/{}/pkgconfig", self.arch.gnu_triplet()), "usr/share/pkgconfig".into()]
                .map(|folder| self.path.join(folder).display().to_string());
        [
            (format!("CARGO_TARGET_{shouted}_LINKER"), "clang".to_owned()),
            // Encoded, as other flags end at spaces.
            ("CARGO_ENCODED_RUSTFLAGS".to_owned(), linker.join("\x1f")),
            (format!("PKG_CONFIG_SYSROOT_DIR_{underscored}"), root.to_string()),
            (format!("PKG_CONFIG_LIBDIR_{underscored}"), pkg_config.join(":")),
            ("PKG_CONFIG_ALLOW_CROSS".to_owned(), "1".to_owned()),
            (format!("CC_{underscored}"), "clang".to_owned()),
            (format!("CFLAGS_{underscored}"), compiler.join(" ")),
            (format!("BINDGEN_EXTRA_CLANG_ARGS_{underscored}"), compiler.join(" ")),
        ]
        .into()
    }
}

/// What the cache calls it.
pub(crate) fn recipe(arch: Arch) -> Result<Recipe> {
    Recipe::new(&arch.entry_name(NAME), FORMAT)
        .input("suite", image::SUITE.as_bytes())
        .input("arch", arch.debian().as_bytes())
        .input("packages", image::packages(&package_list())?.join(" ").as_bytes())
        .path(&image::scripts().join("sysroot.sh"))
}

fn package_list() -> PathBuf {
    repository().join("tests/harness/vm/sysroot/packages")
}
