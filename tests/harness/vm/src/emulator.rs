//! QEMU of the machine, or of a newer Debian unpacked into the cache. Two versions on one machine show that the tap supports
//! the virglrenderer of both.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::arch::Arch;
use crate::cache::Recipe;
use crate::{image, repository};

/// Version of the entry layout.
const FORMAT: u32 = 1;
pub(crate) const NAME: &str = "qemu";

/// QEMU version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Qemu {
    /// QEMU installed on the machine.
    #[default]
    Installed,
    /// QEMU 10 of Debian trixie, for guests of the machine's own architecture. Requires root.
    Trixie,
}

/// A QEMU program.
#[derive(Debug, Clone)]
pub(crate) struct Emulator {
    program: &'static str,
    root: Option<PathBuf>,
}

impl Emulator {
    /// Builds the cache entry if needed.
    pub(crate) fn get(qemu: Qemu, arch: Arch) -> Result<Self> {
        let root = match qemu {
            Qemu::Installed => None,
            Qemu::Trixie => {
                ensure!(
                    arch.is_native(),
                    "QEMU of Debian trixie supports guests of this machine's architecture only"
                );
                ensure!(rustix::process::getuid().is_root(), "QEMU of another Debian release requires root");
                Some(unpack(arch)?)
            }
        };
        Ok(Self { program: arch.qemu(), root })
    }

    /// Command that executes QEMU in its own process.
    pub(crate) fn command(&self) -> Command {
        let Some(root) = &self.root else { return Command::new(self.program) };
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh"]).arg(repository().join("tests/harness/vm/qemu/enter.sh"));
        command.arg(root).arg(self.program);
        command
    }

    /// Like [`command`](Self::command) through a program that inserts the tap; `None` if that program cannot be used.
    pub(crate) fn started_by(&self, starter: &[String]) -> Option<Command> {
        let (first, words) = starter.split_first().filter(|_| self.root.is_none())?;
        let mut command = Command::new(first);
        command.args(words).arg(self.program);
        Some(command)
    }

    /// Environment variable that preloads a library into QEMU only.
    pub(crate) fn preload_variable(&self) -> &'static str {
        if self.root.is_some() { "QEMU_PRELOAD" } else { "LD_PRELOAD" }
    }

    pub(crate) fn version(&self) -> Option<(u32, u32)> {
        let output = self.command().arg("--version").stdin(Stdio::null()).output().ok()?;
        parse_version(&String::from_utf8_lossy(&output.stdout))
    }
}

/// Recipe of the cache entry.
pub(crate) fn recipe(arch: Arch) -> Result<Recipe> {
    Recipe::new(NAME, FORMAT)
        .input("suite", image::SUITE.as_bytes())
        .input("arch", arch.debian().as_bytes())
        .input("packages", packages()?.join(" ").as_bytes())
        .path(&image::scripts().join("qemu.sh"))
}

fn unpack(arch: Arch) -> Result<PathBuf> {
    let entry = recipe(arch)?
        .build(|out| image::run_script("qemu.sh", image::bootstrap_environment(arch, &packages()?), out))?;
    Ok(entry.join("root"))
}

fn packages() -> Result<Vec<String>> {
    image::packages(&repository().join("tests/harness/vm/qemu/packages"))
}

/// `QEMU emulator version 7.2.22 (…)`
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (_, version) = text.split_once("version ")?;
    let mut numbers = version.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_parses() {
        assert_eq!(parse_version("QEMU emulator version 7.2.22 (Debian 1:7.2)\nCopyright"), Some((7, 2)));
        assert_eq!(parse_version("QEMU emulator version 10.0.13"), Some((10, 0)));
        assert_eq!(parse_version("something else"), None);
    }

    #[test]
    fn installed_qemu_is_started_directly_or_by_the_starter() {
        let own = Emulator::get(Qemu::Installed, Arch::Amd64).expect("nothing to build");
        assert_eq!(own.command().get_program(), Arch::Amd64.qemu());
        assert_eq!(own.preload_variable(), "LD_PRELOAD");
        let starter = ["host-agent", "run", "--"].map(str::to_owned);
        let started = own.started_by(&starter).expect("starter is usable");
        assert_eq!(started.get_program(), "host-agent");
        assert_eq!(started.get_args().last(), Some(Arch::Amd64.qemu().as_ref()));
        assert!(own.started_by(&[]).is_none());
    }
}
