//! Whether a VMM's virglrenderer is one that the tap knows: by its name, which says its ABI, and by the functions that
//! the tap stands in front of or calls. Finds the file as far as that can be told without the dynamic linker; a
//! VMM that loads it by means of its own is not refused for that.

use std::path::{Path, PathBuf};

use crate::binary::Binary;

/// The one ABI that there has been, as Linux and macOS name it, and UTM, which makes a framework of it.
const NAMES: [&str; 3] = ["libvirglrenderer.so.1", "libvirglrenderer.1.dylib", "virglrenderer.1"];
/// Without one of these the tap can do nothing.
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

/// Why a virglrenderer is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RendererError {
    /// Its ABI is another.
    #[error("{}: {name} is a virglrenderer of an ABI that the tap does not know; take a VMM with {}", path.display(), NAMES.join(" or "))]
    Abi {
        /// The library, or who asks for it.
        path: PathBuf,
        /// What it is called.
        name: String,
    },
    /// It lacks functions.
    #[error("{} is no virglrenderer that the tap can use: it has no {}; take 0.10 or later", path.display(), lacking.join(", "))]
    Lacks {
        /// The library.
        path: PathBuf,
        /// What it lacks.
        lacking: Vec<&'static str>,
    },
}

/// Checks a virglrenderer.
pub fn check(path: &Path, library: &Binary) -> Result<(), RendererError> {
    if let Some(name) = library.name.as_deref() {
        known(path, name)?;
    }
    let lacking: Vec<_> =
        FUNCTIONS.into_iter().filter(|function| !library.exports.contains(*function)).collect();
    if lacking.is_empty() { Ok(()) } else { Err(RendererError::Lacks { path: path.to_owned(), lacking }) }
}

fn known(path: &Path, name: &str) -> Result<(), RendererError> {
    let leaf = name.rsplit('/').next().unwrap_or(name);
    if NAMES.contains(&leaf) {
        return Ok(());
    }
    Err(RendererError::Abi { path: path.to_owned(), name: leaf.to_owned() })
}

/// The virglrenderer that a program asks for, itself or in a module of its own; checked if the file is found.
/// Gives where it is.
pub fn of(path: &Path, program: &Binary, folders: &[PathBuf]) -> Result<Option<PathBuf>, RendererError> {
    let asked = |binary: &Binary| {
        let is = |name: &&String| {
            name.rsplit('/')
                .next()
                .is_some_and(|leaf| leaf.trim_start_matches("lib").starts_with("virglrenderer"))
        };
        binary.needs.iter().find(is).cloned()
    };
    let mut by = path.to_owned();
    let mut name = asked(program);
    if name.is_none() {
        for module in modules(path, folders) {
            name = read(&module, &program.target).and_then(|binary| asked(&binary));
            if name.is_some() {
                by = module;
                break;
            }
        }
    }
    let Some(name) = name else { return Ok(None) };
    known(&by, &name)?;
    for place in places(path, &name, folders) {
        if let Some(library) = read(&place, &program.target) {
            check(&place, &library)?;
            return Ok(Some(place));
        }
    }
    Ok(None)
}

/// A file's part for this target.
fn read(path: &Path, target: &str) -> Option<Binary> {
    Binary::read(&std::fs::read(path).ok()?).ok()?.into_iter().find(|binary| binary.target == target)
}

/// QEMU's modules with a GPU in them.
fn modules(program: &Path, folders: &[PathBuf]) -> Vec<PathBuf> {
    let own = program.parent().map(|folder| folder.join("../lib")).unwrap_or_default();
    let all = std::iter::once(own).chain(folders.iter().cloned());
    let within =
        all.flat_map(|folder| std::fs::read_dir(folder.join("qemu")).into_iter().flatten().flatten());
    let mut found: Vec<_> = within.map(|entry| entry.path()).filter(|path| is_gpu(path)).collect();
    found.sort();
    found
}

fn is_gpu(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.contains("virtio-gpu-gl.") || name.contains("virtio-gpu-rutabaga.")
}

/// Where a library of that name may be.
fn places(program: &Path, name: &str, folders: &[PathBuf]) -> Vec<PathBuf> {
    let own = program.parent().unwrap_or_else(|| Path::new("."));
    if let Some((place, rest)) = name.strip_prefix('@').and_then(|name| name.split_once('/')) {
        let beside = match place {
            "rpath" => vec![own.join("../Frameworks"), own.join("../lib")],
            _ => vec![own.to_owned()],
        };
        return beside.iter().chain(folders).map(|folder| folder.join(rest)).collect();
    }
    if name.contains('/') {
        return vec![name.into()];
    }
    folders.iter().map(|folder| folder.join(name)).collect()
}

/// Where the system's dynamic linker looks, and what a user added.
pub fn folders() -> Vec<PathBuf> {
    let named = crate::sys::LIBRARIES_VARIABLE;
    let mut folders: Vec<PathBuf> =
        std::env::var_os(named).map(|value| std::env::split_paths(&value).collect()).unwrap_or_default();
    folders.extend(crate::sys::libraries());
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(name: &str, functions: &[&str]) -> Binary {
        let exports = functions.iter().map(|&name| name.to_owned()).collect();
        Binary { name: Some(name.to_owned()), exports, ..Binary::default() }
    }

    #[test]
    fn another_abi_is_refused() {
        let path = Path::new("/l");
        assert_eq!(check(path, &library("libvirglrenderer.so.1", &FUNCTIONS)), Ok(()));
        assert_eq!(check(path, &library("@rpath/libvirglrenderer.1.dylib", &FUNCTIONS)), Ok(()));
        let refused = check(path, &library("libvirglrenderer.so.2", &FUNCTIONS)).expect_err("unknown");
        assert!(
            refused.to_string().contains("libvirglrenderer.so.2 is a virglrenderer of an ABI"),
            "{refused}"
        );
        let refused = check(path, &library("libvirglrenderer.so.1", &FUNCTIONS[..9])).expect_err("lacks one");
        assert!(refused.to_string().contains("has no virgl_renderer_transfer_write_iov"), "{refused}");
    }

    #[test]
    fn a_program_that_asks_for_another_abi_is_refused() {
        let program = |name: &str| Binary { needs: vec![name.to_owned()], ..Binary::default() };
        let found = of(Path::new("/vmm"), &program("/opt/lib/libvirglrenderer.3.dylib"), &[]);
        assert!(matches!(found, Err(RendererError::Abi { .. })), "{found:?}");
        assert_eq!(of(Path::new("/vmm"), &program("@rpath/libvirglrenderer.1.dylib"), &[]), Ok(None));
        assert_eq!(of(Path::new("/vmm"), &program("libz.so.1"), &[]), Ok(None), "it may load one later");
    }

    #[test]
    fn the_place_follows_from_the_name() {
        let program = Path::new("/Apps/U.app/Contents/MacOS/vmm");
        let rpath = places(program, "@rpath/libvirglrenderer.1.dylib", &[]);
        assert!(rpath[0].ends_with("MacOS/../Frameworks/libvirglrenderer.1.dylib"), "{rpath:?}");
        assert_eq!(places(program, "/opt/l.dylib", &["/x".into()]), [PathBuf::from("/opt/l.dylib")]);
        assert_eq!(places(program, "l.so.1", &["/x".into()]), [PathBuf::from("/x/l.so.1")]);
    }

    /// Against the machine's own QEMU, where there is one.
    #[test]
    fn this_machines_virglrenderer_is_known() {
        let Some(qemu) = ["/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-system-aarch64"]
            .into_iter()
            .map(Path::new)
            .find(|path| path.exists())
        else {
            eprintln!("skipped: no QEMU");
            return;
        };
        let program = Binary::read(&std::fs::read(qemu).expect("read")).expect("a program").remove(0);
        let found = of(qemu, &program, &folders()).expect("known");
        assert!(found.is_some_and(|path| path.ends_with("libvirglrenderer.so.1")));
    }
}
