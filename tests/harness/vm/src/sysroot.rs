//! Sysroot for cross-compiled programs: headers and libraries of the guest's Debian in a folder. clang and lld support every
//! target without further installation.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::arch::Arch;
use crate::cache::Recipe;
use crate::{image, repository};

/// Version of the entry layout.
const FORMAT: u32 = 1;
pub(crate) const NAME: &str = "sysroot";

/// A sysroot in the cache.
#[derive(Debug, Clone)]
pub struct Sysroot {
    arch: Arch,
    path: PathBuf,
}

impl Sysroot {
    /// Builds the cache entry if needed.
    pub fn build(arch: Arch) -> Result<Self> {
        let entry = recipe(arch)?.build(|out| {
            let packages = image::packages(&package_list())?;
            image::run_script("sysroot.sh", image::bootstrap_environment(arch, &packages), out)
        })?;
        Ok(Self { arch, path: entry.join("root") })
    }

    /// Root folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Environment for `cargo build --target`: cargo, build scripts and C compilers use this sysroot.
    pub fn cargo_environment(&self) -> Vec<(String, String)> {
        let target = self.arch.rust_target();
        let (underscored, uppercase) = (target.replace('-', "_"), target.replace('-', "_").to_uppercase());
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
            (format!("CARGO_TARGET_{uppercase}_LINKER"), "clang".to_owned()),
            // The encoded form allows spaces in paths.
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

/// Recipe of the cache entry.
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
