//! The cargo workspace: its metadata and the cargo that runs in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use cargo_metadata::{Metadata, MetadataCommand, TargetKind};

/// The repository's root folder, absolute and without symbolic links.
pub fn root() -> Result<PathBuf> {
    lab::repository().canonicalize().context("finding the repository")
}

/// The cargo that started this program, in the repository's root, without standard input.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(lab::repository()).stdin(Stdio::null());
    command
}

/// Packages of the workspace, without those of crates.io.
pub fn metadata() -> Result<Metadata> {
    metadata_of(&root()?.join("Cargo.toml"))
}

/// Packages of the workspace with this manifest.
pub fn metadata_of(manifest: &Path) -> Result<Metadata> {
    MetadataCommand::new()
        .manifest_path(manifest)
        .no_deps()
        .other_options(vec!["--offline".to_owned()])
        .exec()
        .with_context(|| format!("cargo metadata for {}", manifest.display()))
}

/// The folder that cargo writes build results to.
pub fn target() -> Result<PathBuf> {
    Ok(metadata()?.target_directory.into_std_path_buf())
}

/// Integration tests of a package, by name, except some.
pub fn integration_tests(package: &str, except: &[&str]) -> Result<Vec<String>> {
    let metadata = metadata()?;
    let package = metadata
        .packages
        .iter()
        .find(|candidate| candidate.name == package)
        .with_context(|| format!("package {package} is not in the workspace"))?;
    let tests = package.targets.iter().filter(|target| target.kind.contains(&TargetKind::Test));
    Ok(tests.map(|target| target.name.clone()).filter(|name| !except.contains(&name.as_str())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integration_tests_are_listed_without_exceptions() {
        let all = integration_tests("e2e", &[]).expect("listed");
        assert!(all.contains(&"path".to_owned()) && all.contains(&"browser".to_owned()), "{all:?}");
        let some = integration_tests("e2e", &["browser"]).expect("listed");
        assert_eq!(some.len(), all.len() - 1, "{some:?}");
        assert!(integration_tests("no-such-package", &[]).is_err());
    }
}
