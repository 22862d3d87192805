//! `host-agent run -- VMM …`: starts a VMM with the tap inserted, after checking that inserting can work. Replaces this
//! process by the VMM: whoever supervises one supervises the other.

use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sys::{INSERT, TAP_FILE};

/// Why a VMM can't have the tap.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no such program.
    #[error("no program {}; give its path, or install it", .0.display())]
    NoProgram(PathBuf),
    /// There is no tap.
    #[error("no {TAP_FILE} at {}; build it with `cargo build --release -p tap`, or name it with --tap", .0.display())]
    NoTap(PathBuf),
    /// A file can't be read.
    #[error("can't read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The system ignores inserted libraries there.
    #[error("{} is {what}: the system inserts no library there; run one that is not", path.display())]
    Privileged {
        /// Which.
        path: PathBuf,
        /// What keeps it.
        what: &'static str,
    },
    /// For different processors.
    #[error("{} is for {program}, the tap for {tap}; build the tap for the VMM's processor", path.display())]
    Architecture {
        /// Which.
        path: PathBuf,
        /// What the VMM is for.
        program: String,
        /// What the tap is for.
        tap: String,
    },
    /// A script, or something else that the dynamic linker never sees.
    #[error("{} is no program that a library can be inserted into ({what}); name the VMM itself", path.display())]
    NotDynamic {
        /// Which.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The system would not start it.
    #[error("can't start {}: {source}", path.display())]
    Start {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// What to start.
#[derive(Debug)]
pub struct Run {
    /// The tap; the one beside host-agent if none is named.
    pub tap: Option<PathBuf>,
    /// The link, for the tap.
    pub link: PathBuf,
    /// The VM's name, for people.
    pub name: Option<String>,
    /// The VMM and its arguments.
    pub command: Vec<OsString>,
}

impl Run {
    /// Becomes the VMM. Returns only to say why not.
    pub fn exec(self) -> RunError {
        match self.prepare() {
            Ok((path, mut command)) => RunError::Start { path, source: command.exec() },
            Err(error) => error,
        }
    }

    fn prepare(self) -> Result<(PathBuf, Command), RunError> {
        let Self { tap, link, name, command } = self;
        let mut words = command.into_iter();
        let first = words.next().unwrap_or_default();
        let program = found(&first, std::env::var_os("PATH").as_deref())
            .ok_or_else(|| RunError::NoProgram(PathBuf::from(&first)))?;
        let tap = tap.unwrap_or_else(|| beside(std::env::current_exe().ok().as_deref()));
        if !tap.is_file() {
            return Err(RunError::NoTap(tap));
        }
        check(&program, &tap)?;
        let mut command = Command::new(&program);
        command
            .args(words)
            .env("DESKTOPSTREAM_LINK", link)
            .env(INSERT, inserted(&tap, std::env::var_os(INSERT)));
        if let Some(name) = name {
            command.env("DESKTOPSTREAM_VM", name);
        }
        Ok((program, command))
    }
}

/// The tap where it is installed or built: beside host-agent, or in `lib` beside its folder.
fn beside(program: Option<&Path>) -> PathBuf {
    let folder = program.and_then(Path::parent).unwrap_or_else(|| Path::new("."));
    let installed = folder.join("../lib").join(TAP_FILE);
    if installed.is_file() { installed } else { folder.join(TAP_FILE) }
}

/// As a shell finds it.
fn found(name: &OsStr, path: Option<&OsStr>) -> Option<PathBuf> {
    let runs = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if name.is_empty() {
        return None;
    }
    if Path::new(name).components().count() > 1 {
        return Some(PathBuf::from(name)).filter(runs);
    }
    std::env::split_paths(path?).map(|folder| folder.join(name)).find(runs)
}

/// The tap before whatever else is to be inserted.
fn inserted(tap: &Path, others: Option<OsString>) -> OsString {
    let mut all = OsString::from(tap);
    if let Some(others) = others.filter(|others| !others.is_empty()) {
        all.push(":");
        all.push(others);
    }
    all
}

fn check(program: &Path, tap: &Path) -> Result<(), RunError> {
    let read = |path: &Path| {
        let mut head = [0; 64];
        let count = std::fs::File::open(path).and_then(|mut file| file.read(&mut head));
        let count = count.map_err(|source| RunError::Read { path: path.to_owned(), source })?;
        Ok(head.get(..count).unwrap_or_default().to_vec())
    };
    let path = program.to_owned();
    let mode = std::fs::metadata(program)
        .map_err(|source| RunError::Read { path: program.to_owned(), source })?
        .permissions()
        .mode();
    if mode & 0o6000 != 0 {
        return Err(RunError::Privileged { path, what: "set-user-ID or set-group-ID" });
    }
    let real = std::fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
    if cfg!(target_os = "macos")
        && ["/System", "/usr/bin", "/usr/libexec", "/sbin", "/bin"].iter().any(|own| real.starts_with(own))
    {
        return Err(RunError::Privileged { path, what: "a part of macOS" });
    }
    match (processor(&read(program)?), processor(&read(tap)?)) {
        (Err(what), _) => Err(RunError::NotDynamic { path, what }),
        (_, Err(what)) => Err(RunError::NotDynamic { path: tap.to_owned(), what }),
        (Ok(program), Ok(tap)) if program != tap => Err(RunError::Architecture { path, program, tap }),
        _ => Ok(()),
    }
}

/// What a file's head says that it is for.
fn processor(head: &[u8]) -> Result<String, &'static str> {
    let half = |at: usize| head.get(at..at + 2).and_then(|two| two.try_into().ok()).map(u16::from_le_bytes);
    match head {
        [0x7F, b'E', b'L', b'F', ..] => match half(18) {
            Some(62) => Ok("Linux on x86_64".to_owned()),
            Some(183) => Ok("Linux on aarch64".to_owned()),
            Some(other) => Ok(format!("ELF machine {other}")),
            None => Err("cut off"),
        },
        [0xCF, 0xFA, 0xED, 0xFE, 0x0C, 0, 0, 1, ..] => Ok("macOS on arm64".to_owned()),
        [0xCF, 0xFA, 0xED, 0xFE, 0x07, 0, 0, 1, ..] => Ok("macOS on x86_64".to_owned()),
        [0xCA, 0xFE, 0xBA, 0xBE, ..] => Err("a universal file: take its part for this Mac with lipo -thin"),
        [b'#', b'!', ..] => Err("a script"),
        _ => Err("neither ELF nor Mach-O"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(folder: &Path, name: &str, bytes: &[u8], mode: u32) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, bytes).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
        path
    }

    fn elf(machine: u8) -> Vec<u8> {
        let mut head = b"\x7FELF\x02\x01\x01".to_vec();
        head.resize(18, 0);
        head.extend([machine, 0]);
        head
    }

    fn refusal(program: &Path, tap: &Path) -> String {
        let run = Run {
            tap: Some(tap.to_owned()),
            link: "/l".into(),
            name: None,
            command: vec![program.as_os_str().to_owned()],
        };
        run.prepare().expect_err("refused").to_string()
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_reason() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path();
        let tap = file(at, "libtap", &elf(62), 0o644);
        assert!(
            refusal(&file(at, "arm", &elf(183), 0o755), &tap)
                .contains("for Linux on aarch64, the tap for Linux on x86_64")
        );
        assert!(refusal(&file(at, "script", b"#!/bin/sh\n", 0o755), &tap).contains("a script"));
        assert!(refusal(&file(at, "suid", &elf(62), 0o4755), &tap).contains("set-user-ID"));
        assert!(refusal(&file(at, "plain", &elf(62), 0o644), &tap).contains("no program"));
        assert!(
            refusal(&file(at, "good", &elf(62), 0o755), &at.join("gone"))
                .contains("cargo build --release -p tap")
        );
        assert!(
            refusal(&file(at, "mac", &[0xCF, 0xFA, 0xED, 0xFE, 0x0C, 0, 0, 1], 0o755), &tap)
                .contains("macOS on arm64")
        );
        assert!(refusal(&at.join("none"), &tap).contains("install it"));
    }

    #[test]
    fn the_vmm_gets_the_tap_and_its_settings() {
        let folder = tempfile::tempdir().expect("a folder");
        let tap = file(folder.path(), "libtap", &elf(62), 0o644);
        let vmm = file(folder.path(), "qemu", &elf(62), 0o755);
        let run = Run {
            tap: Some(tap.clone()),
            link: "/l/link.sock".into(),
            name: Some("dev".to_owned()),
            command: vec![vmm.clone().into(), "-S".into()],
        };
        let (path, command) = run.prepare().expect("good");
        let variable = |name: &str| {
            command.get_envs().find(|(key, _)| *key == name).and_then(|(_, value)| value).map(OsStr::to_owned)
        };
        assert_eq!((path, command.get_args().collect::<Vec<_>>()), (vmm, vec![OsStr::new("-S")]));
        assert_eq!(variable("DESKTOPSTREAM_LINK"), Some("/l/link.sock".into()));
        assert_eq!(variable("DESKTOPSTREAM_VM"), Some("dev".into()));
        assert_eq!(variable(INSERT), Some(inserted(&tap, std::env::var_os(INSERT))));
    }

    #[test]
    fn others_that_are_inserted_stay() {
        assert_eq!(inserted(Path::new("/t"), None), "/t");
        assert_eq!(inserted(Path::new("/t"), Some("/a:/b".into())), "/t:/a:/b");
    }
}
