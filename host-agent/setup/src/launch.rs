//! `host-agent run -- VMM …`: starts a VMM with the tap preloaded, after checking that preloading can work.
//! The VMM replaces this process, so that a supervisor of one supervises the other.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use contract::names::env;

use crate::binary::{Binary, BinaryError, PreloadBarrier, Signature};
use crate::renderer::{self, RendererError};
use crate::sys::{PRELOAD_VARIABLE, SYSTEM, TAP_FILE};

/// Reason why a VMM cannot be started with the tap.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// No executable file has this name or path.
    #[error("program {} not found; give its path, or install it", .0.display())]
    ProgramNotFound(PathBuf),
    /// The tap does not exist.
    #[error("{TAP_FILE} not found at {}; build it with `cargo build --release -p tap`, or give its path with --tap", .0.display())]
    TapNotFound(PathBuf),
    /// A file cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        cause: std::io::Error,
    },
    /// The operating system ignores preloaded libraries for this program.
    #[error("{} is {kind}, for which the system ignores preloaded libraries; use a VMM that is not", path.display())]
    Protected {
        /// The program.
        path: PathBuf,
        /// The kind of protection.
        kind: &'static str,
    },
    /// VMM and tap are for different operating systems or processors.
    #[error("{} is for {program}, the tap for {tap}; build the tap for the VMM's processor", path.display())]
    TargetMismatch {
        /// The program.
        path: PathBuf,
        /// Targets of the program.
        program: String,
        /// Targets of the tap.
        tap: String,
    },
    /// VMM and tap are both for another operating system.
    #[error("{} is for {target}, and this is {SYSTEM}; run it there", path.display())]
    ForeignSystem {
        /// The program.
        path: PathBuf,
        /// Targets of the program.
        target: String,
    },
    /// The file is not a binary: a script, for example.
    #[error("cannot preload a library into {}: {cause}; give the VMM itself", path.display())]
    NotABinary {
        /// The file.
        path: PathBuf,
        /// The reason.
        cause: BinaryError,
    },
    /// The dynamic linker does not load the program.
    #[error("cannot preload a library into {}: {reason}; give the VMM itself", path.display())]
    NotDynamic {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: &'static str,
    },
    /// The program has a `__RESTRICT` segment.
    #[error("dyld does not preload the tap into {}: it has a __RESTRICT segment; {RESIGN}", .0.display())]
    Restricted(PathBuf),
    /// The program's code signature prevents preloading.
    #[error("dyld does not preload the tap into {}: {barrier}; {RESIGN}", path.display())]
    Signature {
        /// The program.
        path: PathBuf,
        /// The protection.
        barrier: PreloadBarrier,
    },
    /// The program's virglrenderer is not supported.
    #[error(transparent)]
    Renderer(#[from] RendererError),
    /// The operating system failed to execute the program.
    #[error("cannot start {}: {cause}", path.display())]
    Start {
        /// The program.
        path: PathBuf,
        /// The reason.
        cause: std::io::Error,
    },
}

const RESIGN: &str = "sign a copy of it again (`codesign --force --sign - FILE`), use an unprotected build, or \
                      install the drop-in with `host-agent tap install`";

/// A VMM to start.
#[derive(Debug)]
pub struct Launch {
    /// Path of the tap; by default that of [`library_beside`] host-agent.
    pub tap: Option<PathBuf>,
    /// Path of the link's socket, for the tap.
    pub link: PathBuf,
    /// Name of the VM in logs and status.
    pub name: Option<String>,
    /// The VMM and its arguments.
    pub command: Vec<OsString>,
}

impl Launch {
    /// Replaces this process by the VMM. Returns only on failure.
    pub fn exec(self) -> LaunchError {
        let prepared = self.prepare().and_then(|(path, command)| Ok((parse(&path)?, path, command)));
        match prepared {
            // execvp would pass a file of unknown format to the shell.
            Ok((binaries, path, _)) if !binaries.iter().any(|binary| binary.target.starts_with(SYSTEM)) => {
                LaunchError::ForeignSystem { path, target: targets(&binaries) }
            }
            Ok((_, path, mut command)) => LaunchError::Start { path, cause: command.exec() },
            Err(error) => error,
        }
    }

    fn prepare(self) -> Result<(PathBuf, Command), LaunchError> {
        let Self { tap, link, name, command } = self;
        let mut words = command.into_iter();
        let first = words.next().unwrap_or_default();
        let program = resolve(&first, std::env::var_os("PATH").as_deref())
            .ok_or_else(|| LaunchError::ProgramNotFound(PathBuf::from(&first)))?;
        let tap = tap.unwrap_or_else(|| library_beside(std::env::current_exe().ok().as_deref(), TAP_FILE));
        if !tap.is_file() {
            return Err(LaunchError::TapNotFound(tap));
        }
        check(&program, &tap)?;
        let mut command = Command::new(&program);
        command
            .args(words)
            .env(env::LINK, link)
            .env(PRELOAD_VARIABLE, preload_list(&tap, std::env::var_os(PRELOAD_VARIABLE)));
        if let Some(name) = name {
            command.env(env::VM, name);
        }
        Ok((program, command))
    }
}

/// Path of a library that is installed with `program`: in `../lib/desktopstream`, or beside the program as
/// in a build folder.
pub fn library_beside(program: Option<&Path>, file: &str) -> PathBuf {
    let folder = program.and_then(Path::parent).unwrap_or_else(|| Path::new("."));
    let installed = folder.join("../lib/desktopstream").join(file);
    if installed.is_file() { installed } else { folder.join(file) }
}

/// Resolves a command as a shell does: a path as it is, a name in the folders of `path`.
fn resolve(name: &OsStr, path: Option<&OsStr>) -> Option<PathBuf> {
    let is_executable = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if name.is_empty() {
        return None;
    }
    if Path::new(name).components().count() > 1 {
        return Some(PathBuf::from(name)).filter(is_executable);
    }
    std::env::split_paths(path?).map(|folder| folder.join(name)).find(is_executable)
}

/// The preload variable's value: the tap, then the libraries that are already in it.
fn preload_list(tap: &Path, existing: Option<OsString>) -> OsString {
    let mut list = OsString::from(tap);
    if let Some(existing) = existing.filter(|existing| !existing.is_empty()) {
        list.push(":");
        list.push(existing);
    }
    list
}

/// Whether a path is under System Integrity Protection, where dyld ignores its environment variables.
fn is_part_of_macos(path: &Path) -> bool {
    let protected = ["/System", "/bin", "/sbin", "/usr"].iter().any(|folder| path.starts_with(folder));
    protected && !path.starts_with("/usr/local")
}

fn parse(path: &Path) -> Result<Vec<Binary>, LaunchError> {
    let bytes = std::fs::read(path).map_err(|cause| LaunchError::Read { path: path.to_owned(), cause })?;
    Binary::parse(&bytes).map_err(|cause| LaunchError::NotABinary { path: path.to_owned(), cause })
}

fn targets(binaries: &[Binary]) -> String {
    binaries.iter().map(|binary| binary.target.as_str()).collect::<Vec<_>>().join(" and ")
}

fn check(program: &Path, tap: &Path) -> Result<(), LaunchError> {
    let path = program.to_owned();
    let mode = std::fs::metadata(program)
        .map_err(|cause| LaunchError::Read { path: program.to_owned(), cause })?
        .permissions()
        .mode();
    let real = std::fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
    let (binaries, taps) = (parse(&real)?, parse(tap)?);
    let Some(binary) = binaries.iter().find(|binary| taps.iter().any(|tap| tap.target == binary.target))
    else {
        return Err(LaunchError::TargetMismatch { path, program: targets(&binaries), tap: targets(&taps) });
    };
    if mode & 0o6000 != 0 {
        return Err(LaunchError::Protected { path, kind: "set-user-ID or set-group-ID" });
    }
    if binary.is_for_macos() && is_part_of_macos(&real) {
        return Err(LaunchError::Protected { path, kind: "part of macOS" });
    }
    if !binary.executable {
        return Err(LaunchError::NotDynamic { path, reason: "it is a library, or linked statically" });
    }
    if !binary.dynamic {
        return Err(LaunchError::NotDynamic { path, reason: "it is linked statically" });
    }
    if binary.restricted {
        return Err(LaunchError::Restricted(path));
    }
    let barrier = binary.signature.as_ref().and_then(Signature::preload_barrier);
    if let Some(barrier) = barrier {
        return Err(LaunchError::Signature { path, barrier });
    }
    if renderer::find(&real, binary, &renderer::search_folders())?.is_none() {
        tracing::warn!(vmm = %path.display(), "virglrenderer not found; the tap waits until the VMM loads one");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(folder: &Path, name: &str, bytes: &[u8], mode: u32) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, bytes).expect("file written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode set");
        path
    }

    /// A minimal ELF executable: header, PT_INTERP and PT_DYNAMIC.
    fn elf(machine: u8) -> Vec<u8> {
        let mut bytes = b"\x7FELF\x02\x01\x01".to_vec();
        bytes.resize(16, 0);
        let put_u16 = |bytes: &mut Vec<u8>, values: &[u16]| {
            for value in values {
                bytes.extend(value.to_le_bytes());
            }
        };
        let put_u64 = |bytes: &mut Vec<u8>, values: &[u64]| {
            for value in values {
                bytes.extend(value.to_le_bytes());
            }
        };
        put_u16(&mut bytes, &[3, machine.into(), 1, 0]);
        put_u64(&mut bytes, &[0, 64, 0]);
        put_u16(&mut bytes, &[0, 0, 64, 56, 2, 64, 0, 0]);
        for (kind, offset, size) in [(3u32, 176u64, 8u64), (2, 184, 16)] {
            bytes.extend(kind.to_le_bytes());
            bytes.extend(4u32.to_le_bytes());
            put_u64(&mut bytes, &[offset, offset, offset, size, size, 8]);
        }
        bytes.extend(b"/lib/ld\0");
        put_u64(&mut bytes, &[0, 0]);
        bytes
    }

    fn refusal(program: &Path, tap: &Path) -> String {
        let launch = Launch {
            tap: Some(tap.to_owned()),
            link: "/l".into(),
            name: None,
            command: vec![program.as_os_str().to_owned()],
        };
        launch.prepare().expect_err("refused").to_string()
    }

    #[test]
    fn unsuitable_vmm_or_tap_is_refused_with_its_reason() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let at = folder.path();
        let tap = file(at, "libtap", &elf(62), 0o644);
        let mut mac = vec![0xCF, 0xFA, 0xED, 0xFE, 0x0C, 0, 0, 1, 0, 0, 0, 0, 2, 0, 0, 0];
        mac.resize(32, 0);
        let cases = [
            (file(at, "arm", &elf(183), 0o755), "for Linux on aarch64, the tap for Linux on x86_64"),
            (file(at, "script", b"#!/bin/sh\n", 0o755), "it is a script"),
            (file(at, "suid", &elf(62), 0o4755), "set-user-ID"),
            (file(at, "plain", &elf(62), 0o644), "not found; give its path"),
            (file(at, "mac", &mac, 0o755), "macOS on arm64"),
            (at.join("missing"), "or install it"),
        ];
        for (program, expected) in cases {
            let error = refusal(&program, &tap);
            assert!(error.contains(expected), "{error}");
        }
        let error = refusal(&file(at, "good", &elf(62), 0o755), &at.join("missing"));
        assert!(error.contains("cargo build --release -p tap"), "{error}");
    }

    #[test]
    fn vmm_is_started_with_the_tap_and_its_settings() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let tap = file(folder.path(), "libtap", &elf(62), 0o644);
        let vmm = file(folder.path(), "qemu", &elf(62), 0o755);
        let launch = Launch {
            tap: Some(tap.clone()),
            link: "/l/link.sock".into(),
            name: Some("dev".to_owned()),
            command: vec![vmm.clone().into(), "-S".into()],
        };
        let (path, command) = launch.prepare().expect("accepted");
        let variable = |name: &str| {
            command.get_envs().find(|(key, _)| *key == name).and_then(|(_, value)| value).map(OsStr::to_owned)
        };
        assert_eq!((path, command.get_args().collect::<Vec<_>>()), (vmm, vec![OsStr::new("-S")]));
        assert_eq!(variable(env::LINK), Some("/l/link.sock".into()));
        assert_eq!(variable(env::VM), Some("dev".into()));
        let expected = preload_list(&tap, std::env::var_os(PRELOAD_VARIABLE));
        assert_eq!(variable(PRELOAD_VARIABLE), Some(expected));
    }

    #[test]
    fn folders_of_macos_are_protected_and_others_are_not() {
        for protected in ["/System/Applications/X", "/bin/sh", "/usr/bin/qemu", "/usr/libexec/x"] {
            assert!(is_part_of_macos(Path::new(protected)), "{protected}");
        }
        for other in ["/usr/local/bin/qemu", "/opt/homebrew/bin/qemu", "/Applications/UTM.app/x", "/usrx"] {
            assert!(!is_part_of_macos(Path::new(other)), "{other}");
        }
    }

    #[test]
    fn preload_list_keeps_existing_libraries() {
        assert_eq!(preload_list(Path::new("/t"), None), "/t");
        assert_eq!(preload_list(Path::new("/t"), Some(OsString::new())), "/t");
        assert_eq!(preload_list(Path::new("/t"), Some("/a:/b".into())), "/t:/a:/b");
    }
}
