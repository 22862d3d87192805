//! An application's bundle: where it is, and where in it virglrenderer is.

use std::path::{Path, PathBuf};

use super::AppError;

/// What virglrenderer is called in a bundle: UTM makes a framework of it, others take the library as it is.
const LIBRARIES: [&str; 3] = [
    "virglrenderer.1.framework/Versions/A/virglrenderer.1",
    "virglrenderer.1.framework/virglrenderer.1",
    "libvirglrenderer.1.dylib",
];

/// See the module.
#[derive(Debug)]
pub(super) struct Bundle {
    pub(super) root: PathBuf,
    pub(super) library: PathBuf,
}

impl Bundle {
    /// A path, or a name that one of these folders has.
    pub(super) fn find(name: &str, folders: &[PathBuf]) -> Result<Self, AppError> {
        let root = if name.contains('/') {
            Some(PathBuf::from(name))
        } else {
            let file = format!("{}.app", name.trim_end_matches(".app"));
            folders.iter().map(|folder| folder.join(&file)).find(|path| path.exists())
        };
        let root = root.filter(|root| root.is_dir()).ok_or_else(|| AppError::NoApp(name.to_owned()))?;
        if !root.join("Contents/Info.plist").is_file() {
            return Err(AppError::NoBundle(root));
        }
        let frameworks = root.join("Contents/Frameworks");
        let library = LIBRARIES.iter().map(|name| frameworks.join(name)).find(|path| path.is_file());
        let Some(library) = library else { return Err(AppError::NoRenderer(root)) };
        Ok(Self { root, library })
    }
}

/// Where a user's applications are.
pub fn folders() -> Vec<PathBuf> {
    let own = std::env::home_dir().map(|home| home.join("Applications"));
    own.into_iter().chain([Path::new("/Applications").to_owned()]).collect()
}
