//! `host-agent run -- VMM …`: starts a VMM with the tap inserted, after checking that inserting can work. Replaces this
//! process by the VMM: whoever supervises one supervises the other.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binary::{Binary, Signing};
use crate::renderer::{self, RendererError};
use crate::sys::{INSERT, SYSTEM, TAP_FILE};

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
    #[error("can't read {}: {cause}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
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
    /// For another system, and so is the tap: nothing else is wrong with it.
    #[error("{} is for {target}, and this is {SYSTEM}; run it there", path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
        /// What it is for.
        target: String,
    },
    /// A script, or something else that the dynamic linker never sees.
    #[error("{} is no program that a library can be inserted into ({what}); name the VMM itself", path.display())]
    NotDynamic {
        /// Which.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Its makers had it protected.
    #[error(
        "{}: {what}, so that dyld would not insert the tap; sign a copy of it anew \
         (`codesign --force --sign - FILE`), take a build without, or the drop-in: `host-agent tap install`",
        path.display()
    )]
    Guarded {
        /// Which.
        path: PathBuf,
        /// How.
        what: &'static str,
    },
    /// Its virglrenderer is of no use.
    #[error(transparent)]
    Renderer(#[from] RendererError),
    /// The system would not start it.
    #[error("can't start {}: {cause}", path.display())]
    Start {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
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
        let prepared = self.prepare().and_then(|(path, command)| Ok((read(&path)?, path, command)));
        match prepared {
            // The C library would hand it to the shell.
            Ok((binaries, path, _)) if !binaries.iter().any(|one| one.target.starts_with(SYSTEM)) => {
                RunError::Foreign { path, target: targets(&binaries) }
            }
            Ok((_, path, mut command)) => RunError::Start { path, cause: command.exec() },
            Err(error) => error,
        }
    }

    fn prepare(self) -> Result<(PathBuf, Command), RunError> {
        let Self { tap, link, name, command } = self;
        let mut words = command.into_iter();
        let first = words.next().unwrap_or_default();
        let program = found(&first, std::env::var_os("PATH").as_deref())
            .ok_or_else(|| RunError::NoProgram(PathBuf::from(&first)))?;
        let tap = tap.unwrap_or_else(|| beside(std::env::current_exe().ok().as_deref(), TAP_FILE));
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

/// A library of ours where it is installed or built: beside host-agent, or in `lib/desktopstream` beside its folder.
pub(crate) fn beside(program: Option<&Path>, file: &str) -> PathBuf {
    let folder = program.and_then(Path::parent).unwrap_or_else(|| Path::new("."));
    let installed = folder.join("../lib/desktopstream").join(file);
    if installed.is_file() { installed } else { folder.join(file) }
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

/// What belongs to macOS: System Integrity Protection has dyld ignore our variable there.
fn is_apples(path: &Path) -> bool {
    let own = ["/System", "/bin", "/sbin", "/usr"].iter().any(|own| path.starts_with(own));
    own && !path.starts_with("/usr/local")
}

fn read(path: &Path) -> Result<Vec<Binary>, RunError> {
    let bytes = std::fs::read(path).map_err(|cause| RunError::Read { path: path.to_owned(), cause })?;
    Binary::read(&bytes).map_err(|what| RunError::NotDynamic { path: path.to_owned(), what })
}

fn targets(binaries: &[Binary]) -> String {
    binaries.iter().map(|binary| binary.target.as_str()).collect::<Vec<_>>().join(" and ")
}

fn check(program: &Path, tap: &Path) -> Result<(), RunError> {
    let path = program.to_owned();
    let mode = std::fs::metadata(program)
        .map_err(|cause| RunError::Read { path: program.to_owned(), cause })?
        .permissions()
        .mode();
    let real = std::fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
    let (binaries, taps) = (read(&real)?, read(tap)?);
    let Some(binary) = binaries.iter().find(|binary| taps.iter().any(|tap| tap.target == binary.target))
    else {
        return Err(RunError::Architecture { path, program: targets(&binaries), tap: targets(&taps) });
    };
    if mode & 0o6000 != 0 {
        return Err(RunError::Privileged { path, what: "set-user-ID or set-group-ID" });
    }
    if binary.is_macs() && is_apples(&real) {
        return Err(RunError::Privileged { path, what: "a part of macOS" });
    }
    if !binary.program {
        return Err(RunError::NotDynamic { path, what: "a library, or linked statically" });
    }
    if !binary.dynamic {
        return Err(RunError::NotDynamic { path, what: "not linked dynamically" });
    }
    if binary.restricted {
        return Err(RunError::Guarded { path, what: "it has a __RESTRICT segment" });
    }
    if let Some(what) = binary.signing.as_ref().and_then(Signing::refuses) {
        return Err(RunError::Guarded { path, what });
    }
    if renderer::of(&real, binary, &renderer::folders())?.is_none() {
        tracing::warn!(
            vmm = %path.display(),
            "it names no virglrenderer that can be found from here; the tap waits for one to be loaded"
        );
    }
    Ok(())
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

    /// A program: a header, and where the dynamic linker's name and the dynamic section are.
    fn elf(machine: u8) -> Vec<u8> {
        let mut head = b"\x7FELF\x02\x01\x01".to_vec();
        head.resize(16, 0);
        let halves = |head: &mut Vec<u8>, values: &[u16]| {
            for value in values {
                head.extend(value.to_le_bytes());
            }
        };
        let words = |head: &mut Vec<u8>, values: &[u64]| {
            for value in values {
                head.extend(value.to_le_bytes());
            }
        };
        halves(&mut head, &[3, machine.into(), 1, 0]);
        words(&mut head, &[0, 64, 0]);
        halves(&mut head, &[0, 0, 64, 56, 2, 64, 0, 0]);
        for (kind, offset, size) in [(3u32, 176u64, 8u64), (2, 184, 16)] {
            head.extend(kind.to_le_bytes());
            head.extend(4u32.to_le_bytes());
            words(&mut head, &[offset, offset, offset, size, size, 8]);
        }
        head.extend(b"/lib/ld\0");
        words(&mut head, &[0, 0]);
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
        let mut mac = vec![0xCF, 0xFA, 0xED, 0xFE, 0x0C, 0, 0, 1, 0, 0, 0, 0, 2, 0, 0, 0];
        mac.resize(32, 0);
        assert!(refusal(&file(at, "mac", &mac, 0o755), &tap).contains("macOS on arm64"));
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
    fn what_belongs_to_macos_is_known() {
        for own in ["/System/Applications/X", "/bin/sh", "/usr/bin/qemu", "/usr/libexec/x"] {
            assert!(is_apples(Path::new(own)), "{own}");
        }
        for other in ["/usr/local/bin/qemu", "/opt/homebrew/bin/qemu", "/Applications/UTM.app/x", "/usrx"] {
            assert!(!is_apples(Path::new(other)), "{other}");
        }
    }

    #[test]
    fn others_that_are_inserted_stay() {
        assert_eq!(inserted(Path::new("/t"), None), "/t");
        assert_eq!(inserted(Path::new("/t"), Some("/a:/b".into())), "/t:/a:/b");
    }
}
