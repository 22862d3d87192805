//! Builds for macOS with cargo, in the `release` profile.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::toolchain::{TARGET, Toolchain};
use crate::{MINIMUM, repository, rules};

/// Crates that ship on macOS.
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

/// A file that ships on macOS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// The host-agent program.
    HostAgent,
    /// The tap as a library to insert into a VMM.
    Tap,
    /// The tap as a replacement of libvirglrenderer that re-exports the original.
    DropIn,
}

impl Product {
    /// All products.
    pub const ALL: [Self; 3] = [Self::HostAgent, Self::Tap, Self::DropIn];

    /// Arguments of cargo and name of the file that it makes.
    fn cargo(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::HostAgent => (&["-p", "host-agent", "--bin", "host-agent"], "host-agent"),
            Self::Tap => (&["-p", "tap", "--lib", "--crate-type", "cdylib"], "libtap.dylib"),
            Self::DropIn => {
                (&["-p", "tap", "--lib", "--crate-type", "cdylib", "--features", "drop-in"], "libtap.dylib")
            }
        }
    }

    /// File name as shipped.
    pub fn file(self) -> &'static str {
        match self {
            Self::HostAgent => "host-agent",
            Self::Tap => "libtap.dylib",
            Self::DropIn => "libvirglrenderer.1.dylib",
        }
    }

    /// Linker arguments: install names, versions, and virglrenderer, which is not a system library.
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
                // dyld rejects a library whose version is lower than the one its users were linked against.
                "-compatibility_version".into(),
                rules::COMPATIBILITY.into(),
                "-current_version".into(),
                rules::COMPATIBILITY.into(),
                "-reexport_library".into(),
                stub("virglrenderer-original"),
                // No symbol of it is referenced, so the linker would strip it as dead.
                "-needed_library".into(),
                stub("virglrenderer-original"),
            ],
        };
        // Bind opcodes instead of chained fixups: every dyld version and `inspect` read them.
        let common = ["-dead_strip_dylibs", "-no_fixup_chains", "-adhoc_codesign"];
        words.into_iter().chain(common.map(str::to_owned)).collect()
    }
}

/// cargo for macOS with an SDK.
#[derive(Debug)]
pub struct Builder {
    toolchain: Toolchain,
    sdk: PathBuf,
}

impl Builder {
    /// Uses the SDK in folder `sdk`.
    pub fn new(toolchain: Toolchain, sdk: &Path) -> Self {
        Self { toolchain, sdk: sdk.to_owned() }
    }

    fn cargo(&self) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        let headers = std::path::absolute(repository()).unwrap_or_default().join("tests/macos/include");
        let headers = headers.display();
        cargo
            .current_dir(repository())
            .stdin(Stdio::null())
            .env("SDKROOT", &self.sdk)
            .env("MACOSX_DEPLOYMENT_TARGET", format!("{}.{}", MINIMUM.0, MINIMUM.1))
            // C code in crates needs a few declarations of the standard library.
            .env("CC_aarch64_apple_darwin", "clang")
            .env(
                "CFLAGS_aarch64_apple_darwin",
                format!("--target=arm64-apple-macos{} -nostdlibinc -isystem {headers}", MINIMUM.0),
            )
            // dsymutil is not available on Linux.
            .env("CARGO_PROFILE_RELEASE_SPLIT_DEBUGINFO", "off");
        cargo
    }

    /// Type-checks and lints every crate that ships.
    ///
    /// # Errors
    /// Fails on any warning.
    pub fn lint(&self) -> Result<()> {
        let mut cargo = self.cargo();
        cargo.args(["clippy", "--release", "--target", TARGET]);
        cargo.args(CRATES.iter().flat_map(|name| ["-p", name])).args(["--", "-D", "warnings"]);
        ensure!(cargo.status().context("starting cargo")?.success(), "clippy for {TARGET} failed");
        Ok(())
    }

    /// Builds and links a product. Returns the file.
    ///
    /// # Errors
    /// Fails with the linker's messages.
    pub fn link(&self, product: Product) -> Result<PathBuf> {
        self.link_with(product, &[])
    }

    /// Like [`link`](Self::link) with additional linker arguments.
    ///
    /// # Errors
    /// Fails with the linker's messages.
    pub fn link_with(&self, product: Product, more: &[String]) -> Result<PathBuf> {
        let (arguments, file) = product.cargo();
        let mut cargo = self.cargo();
        cargo
            .env("CARGO_TARGET_AARCH64_APPLE_DARWIN_LINKER", &self.toolchain.linker)
            // These files are never run here; unoptimized code keeps more symbol references to check.
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
            .args(["rustc", "--release", "--target", TARGET])
            .args(arguments)
            .args(["--", "-Clinker-flavor=ld64.lld"]);
        for argument in product.linker(&self.sdk).iter().chain(more) {
            cargo.arg(format!("-Clink-arg={argument}"));
        }
        let out = cargo.stderr(Stdio::piped()).output().context("starting cargo")?;
        let errors = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "{product:?} does not link:\n{errors}");
        let made = target_folder().join(TARGET).join("release").join(file);
        // Two products have the same file name in the target folder.
        let shipped = self.sdk.with_file_name("macos").join(product.file());
        std::fs::create_dir_all(self.sdk.with_file_name("macos"))?;
        std::fs::copy(&made, &shipped).with_context(|| made.display().to_string())?;
        Ok(shipped)
    }
}

/// Target folder of cargo.
pub fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}
