//! Cargo tools that the suites use, compiled once from crates.io by pinned version and kept in the cache.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use lab::cache::Recipe;

use crate::workspace::cargo;

/// A program from crates.io.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// Name of the crate and of its program.
    name: &'static str,
    version: &'static str,
}

/// Test runner: one process per test, so that a crash does not hide other results.
pub const NEXTEST: Tool = Tool { name: "cargo-nextest", version: "0.9.151" };
/// Checks licences, sources, bans and advisories of dependencies.
pub const DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2" };

const ALL: [Tool; 2] = [NEXTEST, DENY];

/// Build settings: both programs mostly wait for others, so compile time matters more than their speed. On two cores
/// cargo-nextest takes two minutes and cargo-deny one.
const PROFILE: [(&str, &str); 5] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"),
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "256"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
    ("CARGO_PROFILE_RELEASE_STRIP", "symbols"),
];

impl Tool {
    /// Path of the program; compiles it if the cache lacks it.
    ///
    /// # Errors
    /// If crates.io cannot be reached or the crate does not compile.
    pub fn program(self) -> Result<PathBuf> {
        let folder = self.recipe().build(|folder| self.install(folder))?;
        Ok(folder.join("bin").join(self.name))
    }

    fn recipe(self) -> Recipe {
        Recipe::new(self.name, 1).input("version", self.version.as_bytes())
    }

    fn install(self, folder: &Path) -> Result<()> {
        let Self { name, version } = self;
        println!("x: compiling {name} {version}");
        let scratch = folder.join("target");
        let status = cargo()
            .args(["install", "--locked", "--no-default-features", name, "--version", version, "--root"])
            .arg(folder)
            .arg("--target-dir")
            .arg(&scratch)
            .envs(PROFILE)
            .status()
            .context("starting cargo install")?;
        ensure!(status.success(), "cargo install {name} failed; check the connection to crates.io");
        std::fs::remove_dir_all(&scratch).with_context(|| format!("removing {}", scratch.display()))
    }
}

/// Cache entries of the tools, at the pinned versions.
pub fn current_ids() -> impl Iterator<Item = String> {
    ALL.into_iter().map(|tool| tool.recipe().id())
}

/// True if a cache entry holds one of the tools, at any version.
pub fn is_tool(id: &str) -> bool {
    ALL.iter().any(|tool| id.strip_prefix(tool.name).is_some_and(|rest| rest.starts_with('-')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_entry_of_a_tool_is_recognised() {
        assert!(current_ids().all(|id| is_tool(&id)));
        assert!(is_tool("cargo-deny-0123456789abcdef"));
        assert!(!is_tool("crates-0123456789abcdef") && !is_tool("cargo-denylist"));
    }
}
