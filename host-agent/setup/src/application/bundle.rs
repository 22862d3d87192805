//! macOS application bundles: the bundle's folder and its virglrenderer library.

use std::path::{Path, PathBuf};

use super::ApplicationError;

/// Paths of virglrenderer in `Contents/Frameworks`: UTM wraps it in a framework, others bundle the plain
/// library.
const LIBRARIES: [&str; 3] = [
    "virglrenderer.1.framework/Versions/A/virglrenderer.1",
    "virglrenderer.1.framework/virglrenderer.1",
    "libvirglrenderer.1.dylib",
];

/// An application bundle that contains virglrenderer.
#[derive(Debug)]
pub(super) struct Bundle {
    /// The `.app` folder.
    pub(super) root: PathBuf,
    /// The virglrenderer library inside it.
    pub(super) library: PathBuf,
}

impl Bundle {
    /// Finds a bundle by path, or by name in one of `folders`.
    pub(super) fn find(name: &str, folders: &[PathBuf]) -> Result<Self, ApplicationError> {
        let root = if name.contains('/') {
            Some(PathBuf::from(name))
        } else {
            let file = format!("{}.app", name.trim_end_matches(".app"));
            folders.iter().map(|folder| folder.join(&file)).find(|path| path.exists())
        };
        let root =
            root.filter(|root| root.is_dir()).ok_or_else(|| ApplicationError::NotFound(name.to_owned()))?;
        if !root.join("Contents/Info.plist").is_file() {
            return Err(ApplicationError::NotABundle(root));
        }
        let frameworks = root.join("Contents/Frameworks");
        let library = LIBRARIES.iter().map(|name| frameworks.join(name)).find(|path| path.is_file());
        let Some(library) = library else { return Err(ApplicationError::NoRenderer(root)) };
        Ok(Self { root, library })
    }
}

/// Folders of installed applications: the user's, then the system's.
pub fn folders() -> Vec<PathBuf> {
    let own = std::env::home_dir().map(|home| home.join("Applications"));
    own.into_iter().chain([Path::new("/Applications").to_owned()]).collect()
}
