//! cargo for a Mac. One profile, as everywhere: `release`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::toolchain::{TARGET, Toolchain};
use crate::{MINIMUM, repository, rules};

/// The crates that ship on macOS.
pub const CRATES: [&str; 10] = [
    "protocol",
    "contract",
    "stream-token",
    "encode",
    "numbered",
    "videotoolbox",
    "frame-ring",
    "tap",
    "host-agent-setup",
    "host-agent",
];

/// A file that ships.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// The daemon.
    HostAgent,
    /// The tap, to be inserted into a VMM.
    Tap,
    /// The tap as a libvirglrenderer that re-exports the original.
    DropIn,
}

impl Product {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::HostAgent, Self::Tap, Self::DropIn];

    /// What cargo is told, and the file that comes out.
    fn cargo(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::HostAgent => (&["-p", "host-agent", "--bin", "host-agent"], "host-agent"),
            Self::Tap => (&["-p", "tap", "--lib", "--crate-type", "cdylib"], "libtap.dylib"),
            Self::DropIn => {
                (&["-p", "tap", "--lib", "--crate-type", "cdylib", "--features", "drop-in"], "libtap.dylib")
            }
        }
    }

    /// What the file is called where it ships.
    pub fn file(self) -> &'static str {
        match self {
            Self::HostAgent => "host-agent",
            Self::Tap => "libtap.dylib",
            Self::DropIn => "libvirglrenderer.1.dylib",
        }
    }

    /// What the linker is told of names and of virglrenderer, which is no library of the system's.
    fn linker(self, sdk: &Path) -> Vec<String> {
        let stub = |name: &str| sdk.join(name).with_extension("tbd").display().to_string();
        let words = match self {
            Self::HostAgent => vec![],
            Self::Tap => {
                vec![
                    "-install_name".into(),
                    rules::TAP_ID.into(),
                    "-weak_library".into(),
                    stub("virglrenderer"),
                ]
            }
            Self::DropIn => vec![
                "-install_name".into(),
                rules::VIRGLRENDERER.into(),
                // dyld refuses a library that is older than what its users were linked with.
                "-compatibility_version".into(),
                rules::COMPATIBILITY.into(),
                "-current_version".into(),
                rules::COMPATIBILITY.into(),
                "-reexport_library".into(),
                stub("virglrenderer-original"),
                // Nothing of it is called by name: without this it would be stripped as dead.
                "-needed_library".into(),
                stub("virglrenderer-original"),
            ],
        };
        // Bind opcodes instead of chained fixups: every dyld reads them, and so does `inspect`.
        let common = ["-dead_strip_dylibs", "-no_fixup_chains", "-adhoc_codesign"];
        words.into_iter().chain(common.map(str::to_owned)).collect()
    }
}

/// cargo for a Mac, with an SDK.
#[derive(Debug)]
pub struct Builder {
    toolchain: Toolchain,
    sdk: PathBuf,
}

impl Builder {
    /// With this SDK.
    pub fn new(toolchain: Toolchain, sdk: &Path) -> Self {
        Self { toolchain, sdk: sdk.to_owned() }
    }

    fn cargo(&self) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .current_dir(repository())
            .stdin(Stdio::null())
            .env("SDKROOT", &self.sdk)
            .env("MACOSX_DEPLOYMENT_TARGET", format!("{}.{}", MINIMUM.0, MINIMUM.1))
            // There is no dsymutil here.
            .env("CARGO_PROFILE_RELEASE_SPLIT_DEBUGINFO", "off");
        cargo
    }

    /// Type-checks and lints every crate that ships.
    pub fn lint(&self) -> Result<()> {
        let mut cargo = self.cargo();
        cargo.args(["clippy", "--release", "--target", TARGET]);
        cargo.args(CRATES.iter().flat_map(|name| ["-p", name])).args(["--", "-D", "warnings"]);
        ensure!(cargo.status().context("starting cargo")?.success(), "clippy for {TARGET} failed");
        Ok(())
    }

    /// Builds and links a product; gives the file.
    pub fn link(&self, product: Product) -> Result<PathBuf> {
        self.link_with(product, &[])
    }

    /// The same with more arguments for the linker.
    pub fn link_with(&self, product: Product, more: &[String]) -> Result<PathBuf> {
        let (what, made) = product.cargo();
        let mut cargo = self.cargo();
        cargo
            .env("CARGO_TARGET_AARCH64_APPLE_DARWIN_LINKER", &self.toolchain.linker)
            // What nobody runs needs no optimizer, and without one more symbols are left to be looked for.
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
            .args(["rustc", "--release", "--target", TARGET])
            .args(what)
            .args(["--", "-Clinker-flavor=ld64.lld"]);
        for argument in product.linker(&self.sdk).iter().chain(more) {
            cargo.arg(format!("-Clink-arg={argument}"));
        }
        let out = cargo.stderr(Stdio::piped()).output().context("starting cargo")?;
        let errors = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "{product:?} does not link:\n{errors}");
        let made = target_folder().join(TARGET).join("release").join(made);
        // Two products come out under one name: each gets its own.
        let kept = self.sdk.with_file_name("macos").join(product.file());
        std::fs::create_dir_all(self.sdk.with_file_name("macos"))?;
        std::fs::copy(&made, &kept).with_context(|| made.display().to_string())?;
        Ok(kept)
    }
}

/// Where cargo builds.
pub fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}
