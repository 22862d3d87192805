//! Compatibility of virglrenderer with the tap: the ABI, which the library's name carries, and the
//! functions that the tap interposes or calls.
//!
//! The library of a VMM is located without running the dynamic linker. A VMM that loads it by a path of its
//! own is not refused.

use std::path::{Path, PathBuf};

use crate::binary::Binary;
use crate::sys::{LIBRARY_PATH_VARIABLE, library_folders};

/// Names of the only ABI released so far: on Linux, on macOS, and as a framework in UTM.
const NAMES: [&str; 3] = ["libvirglrenderer.so.1", "libvirglrenderer.1.dylib", "virglrenderer.1"];
/// Functions that the tap cannot work without.
pub(crate) const FUNCTIONS: [&str; 10] = [
    "virgl_renderer_init",
    "virgl_renderer_resource_create",
    "virgl_renderer_resource_unref",
    "virgl_renderer_resource_attach_iov",
    "virgl_renderer_context_create",
    "virgl_renderer_context_destroy",
    "virgl_renderer_ctx_attach_resource",
    "virgl_renderer_force_ctx_0",
    "virgl_renderer_transfer_read_iov",
    "virgl_renderer_transfer_write_iov",
];

/// Reason why the tap does not support a virglrenderer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RendererError {
    /// The library's name is of another ABI.
    #[error("{}: {name} is a virglrenderer with an unsupported ABI; use a VMM with {}", path.display(), NAMES.join(" or "))]
    Abi {
        /// The library, or the program that links to it.
        path: PathBuf,
        /// Name of the library.
        name: String,
    },
    /// The library lacks functions.
    #[error("{} is not a virglrenderer that the tap supports: it lacks {}; use version 0.10 or later", path.display(), functions.join(", "))]
    MissingFunctions {
        /// The library.
        path: PathBuf,
        /// Functions that it lacks.
        functions: Vec<&'static str>,
    },
}

/// Checks the ABI and the functions of a virglrenderer.
///
/// # Errors
/// The tap does not support the library.
pub fn check(path: &Path, library: &Binary) -> Result<(), RendererError> {
    if let Some(name) = library.name.as_deref() {
        check_abi(path, name)?;
    }
    let functions: Vec<_> =
        FUNCTIONS.into_iter().filter(|function| !library.exports.contains(*function)).collect();
    if functions.is_empty() {
        Ok(())
    } else {
        Err(RendererError::MissingFunctions { path: path.to_owned(), functions })
    }
}

fn file_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn check_abi(path: &Path, name: &str) -> Result<(), RendererError> {
    let name = file_name(name);
    if NAMES.contains(&name) {
        return Ok(());
    }
    Err(RendererError::Abi { path: path.to_owned(), name: name.to_owned() })
}

/// Locates the virglrenderer that a program or one of its modules links to, and checks it if the file is
/// found.
///
/// # Errors
/// The tap does not support the library.
pub fn find(path: &Path, program: &Binary, folders: &[PathBuf]) -> Result<Option<PathBuf>, RendererError> {
    let mut linked = linked_renderer(program).map(|name| (path.to_owned(), name));
    if linked.is_none() {
        linked = modules(path, folders).into_iter().find_map(|module| {
            let name = linked_renderer(&parse(&module, &program.target)?)?;
            Some((module, name))
        });
    }
    let Some((linked_by, name)) = linked else { return Ok(None) };
    check_abi(&linked_by, &name)?;
    for candidate in candidates(path, &name, folders) {
        if let Some(library) = parse(&candidate, &program.target) {
            check(&candidate, &library)?;
            return Ok(Some(candidate));
        }
    }
    Ok(None)
}

/// The virglrenderer among the libraries that a binary links to.
fn linked_renderer(binary: &Binary) -> Option<String> {
    let is_renderer = |name: &&String| file_name(name).trim_start_matches("lib").starts_with("virglrenderer");
    binary.needs.iter().find(is_renderer).cloned()
}

/// The part of a file that is for `target`.
fn parse(path: &Path, target: &str) -> Option<Binary> {
    Binary::parse(&std::fs::read(path).ok()?).ok()?.into_iter().find(|binary| binary.target == target)
}

/// QEMU's GPU modules: in `../lib/qemu` beside the program, or in `qemu` in a library folder.
fn modules(program: &Path, folders: &[PathBuf]) -> Vec<PathBuf> {
    let own = program.parent().map(|folder| folder.join("../lib")).unwrap_or_default();
    let all = std::iter::once(own).chain(folders.iter().cloned());
    let entries =
        all.flat_map(|folder| std::fs::read_dir(folder.join("qemu")).into_iter().flatten().flatten());
    let mut found: Vec<_> = entries.map(|entry| entry.path()).filter(|path| is_gpu_module(path)).collect();
    found.sort();
    found
}

fn is_gpu_module(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.contains("virtio-gpu-gl.") || name.contains("virtio-gpu-rutabaga.")
}

/// Paths where the dynamic linker may find a library, best first.
fn candidates(program: &Path, name: &str, folders: &[PathBuf]) -> Vec<PathBuf> {
    let own = program.parent().unwrap_or_else(|| Path::new("."));
    if let Some((prefix, rest)) = name.strip_prefix('@').and_then(|name| name.split_once('/')) {
        let beside = match prefix {
            "rpath" => vec![own.join("../Frameworks"), own.join("../lib")],
            // @executable_path, @loader_path.
            _ => vec![own.to_owned()],
        };
        return beside.iter().chain(folders).map(|folder| folder.join(rest)).collect();
    }
    if name.contains('/') {
        return vec![name.into()];
    }
    folders.iter().map(|folder| folder.join(name)).collect()
}

/// Folders that the dynamic linker searches: those in the environment, then the system's.
pub fn search_folders() -> Vec<PathBuf> {
    let added = std::env::var_os(LIBRARY_PATH_VARIABLE);
    let mut folders: Vec<PathBuf> =
        added.map(|value| std::env::split_paths(&value).collect()).unwrap_or_default();
    folders.extend(library_folders());
    folders
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::SYSTEM;

    fn library(name: &str, functions: &[&str]) -> Binary {
        let exports = functions.iter().map(|&name| name.to_owned()).collect();
        Binary { name: Some(name.to_owned()), exports, ..Binary::default() }
    }

    #[test]
    fn supported_abi_with_all_functions_is_accepted() {
        for name in ["libvirglrenderer.so.1", "@rpath/libvirglrenderer.1.dylib"] {
            assert_eq!(check(Path::new("/l"), &library(name, &FUNCTIONS)), Ok(()));
        }
    }

    #[test]
    fn unsupported_abi_is_refused() {
        let error =
            check(Path::new("/l"), &library("libvirglrenderer.so.2", &FUNCTIONS)).expect_err("unsupported");
        assert!(
            error.to_string().contains("libvirglrenderer.so.2 is a virglrenderer with an unsupported ABI"),
            "{error}"
        );
    }

    #[test]
    fn library_without_a_needed_function_is_refused() {
        let lacking = library("libvirglrenderer.so.1", &FUNCTIONS[..9]);
        let error = check(Path::new("/l"), &lacking).expect_err("lacks a function");
        assert!(error.to_string().contains("lacks virgl_renderer_transfer_write_iov"), "{error}");
    }

    #[test]
    fn program_linked_to_an_unsupported_abi_is_refused() {
        let program = |name: &str| Binary { needs: vec![name.to_owned()], ..Binary::default() };
        let found = find(Path::new("/vmm"), &program("/opt/lib/libvirglrenderer.3.dylib"), &[]);
        assert!(matches!(found, Err(RendererError::Abi { .. })), "{found:?}");
    }

    #[test]
    fn program_without_a_locatable_renderer_is_accepted() {
        let program = |name: &str| Binary { needs: vec![name.to_owned()], ..Binary::default() };
        assert_eq!(find(Path::new("/vmm"), &program("@rpath/libvirglrenderer.1.dylib"), &[]), Ok(None));
        assert_eq!(find(Path::new("/vmm"), &program("libz.so.1"), &[]), Ok(None), "it may load one later");
    }

    #[test]
    fn candidates_follow_the_dynamic_linkers_rules() {
        let program = Path::new("/Apps/U.app/Contents/MacOS/vmm");
        let rpath = candidates(program, "@rpath/libvirglrenderer.1.dylib", &[]);
        assert!(rpath[0].ends_with("MacOS/../Frameworks/libvirglrenderer.1.dylib"), "{rpath:?}");
        assert_eq!(candidates(program, "/opt/l.dylib", &["/x".into()]), [PathBuf::from("/opt/l.dylib")]);
        assert_eq!(candidates(program, "l.so.1", &["/x".into()]), [PathBuf::from("/x/l.so.1")]);
    }

    /// Every Linux machine that `./x` prepared has QEMU with virglrenderer.
    #[test]
    fn renderer_of_the_installed_qemu_is_found_and_supported() {
        if SYSTEM != "Linux" {
            eprintln!("not applicable: ./x installs QEMU on Linux only");
            return;
        }
        let qemu = ["/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-system-aarch64"]
            .into_iter()
            .map(Path::new)
            .find(|path| path.exists())
            .expect("QEMU is installed: ./x installs qemu-system-x86 or qemu-system-arm");
        let program = Binary::parse(&std::fs::read(qemu).expect("file read")).expect("parsed").remove(0);
        let found = find(qemu, &program, &search_folders()).expect("supported");
        assert!(found.is_some_and(|path| path.ends_with("libvirglrenderer.so.1")));
    }
}
