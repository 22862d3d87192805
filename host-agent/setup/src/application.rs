//! The tap in an application that ignores preloaded libraries: `host-agent tap install|uninstall --app UTM`.
//!
//! The drop-in form of the tap takes the place of the bundle's virglrenderer, which it re-exports under the
//! name [`ORIGINAL`]; then the bundle is signed again. Uninstalling restores a backup of the whole bundle.
//! Both are planned here, on any operating system, as a list of [actions](crate::install_plan).

mod bundle;

use std::path::{Path, PathBuf};

use crate::binary::Binary;
use crate::install_plan::Action;
use crate::renderer::{self, RendererError};

use bundle::Bundle;
pub use bundle::folders;

/// File name of the original virglrenderer beside the drop-in, which links to it by this name.
pub const ORIGINAL: &str = "libvirglrenderer.original.dylib";

/// Paths of the macOS programs that an installation runs.
#[derive(Debug, Clone)]
pub struct Tools {
    /// Path of `codesign(1)`.
    pub codesign: PathBuf,
    /// Path of `pgrep(1)`.
    pub pgrep: PathBuf,
}

impl Default for Tools {
    fn default() -> Self {
        Self { codesign: "/usr/bin/codesign".into(), pgrep: "/usr/bin/pgrep".into() }
    }
}

/// Reason why the drop-in cannot be installed into an application, or removed from it.
#[derive(Debug, thiserror::Error)]
pub enum ApplicationError {
    /// No application has this name or path.
    #[error("application {0} not found; give its path: --app /Applications/UTM.app")]
    NotFound(String),
    /// The folder is not an application bundle.
    #[error("{} is not an application bundle: Contents/Info.plist is missing", .0.display())]
    NotABundle(PathBuf),
    /// The bundle has no virglrenderer.
    #[error("{} has no virglrenderer in Contents/Frameworks, so its VMs have no GPU that the tap can read", .0.display())]
    NoRenderer(PathBuf),
    /// The application is from the App Store.
    #[error("{} is from the App Store and cannot be signed again; install the build from the vendor's website", .0.display())]
    AppStore(PathBuf),
    /// The application runs and has the library open.
    #[error("{} is running; quit it and its VMs, then try again", .0.display())]
    Running(PathBuf),
    /// A file cannot be read or parsed.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        cause: String,
    },
    /// The drop-in does not exist.
    #[error("drop-in {} not found; build it with `cargo build --release -p tap --features drop-in`, or give its path with --drop-in", .0.display())]
    DropInNotFound(PathBuf),
    /// The library is not a drop-in for this application.
    #[error("{} is not a drop-in for this application: {reason}", path.display())]
    NotDropIn {
        /// The library.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The application's virglrenderer is not supported.
    #[error(transparent)]
    Renderer(#[from] RendererError),
    /// A backup exists although the drop-in is not installed: the application was updated since.
    #[error("{} has a backup of another version of the application; remove it unless you want to restore that version", .0.display())]
    StaleBackup(PathBuf),
    /// The drop-in is not installed.
    #[error("the tap is not installed in {}", .0.display())]
    NotInstalled(PathBuf),
    /// The drop-in is installed and its backup does not exist.
    #[error("the backup of {} in {} is missing; reinstall the application", application.display(), backup.display())]
    NoBackup {
        /// The application.
        application: PathBuf,
        /// The path where the backup should be.
        backup: PathBuf,
    },
}

/// An application and the path of its backup.
#[derive(Debug)]
pub struct Application {
    bundle: Bundle,
    backup: PathBuf,
    tools: Tools,
}

impl Application {
    /// Finds an application by path, or by name in one of `folders`. Its backup goes into the folder
    /// `backups`.
    ///
    /// # Errors
    /// There is no such application, or it is not a bundle with a virglrenderer.
    pub fn find(
        name: &str,
        folders: &[PathBuf],
        backups: &Path,
        tools: Tools,
    ) -> Result<Self, ApplicationError> {
        let bundle = Bundle::find(name, folders)?;
        let backup = backups.join(bundle.root.file_name().unwrap_or_default());
        Ok(Self { bundle, backup, tools })
    }

    /// Plans the installation, or the upgrade, of the drop-in.
    ///
    /// # Errors
    /// The application or the drop-in is not suitable, or the application runs.
    pub fn install(&self, drop_in: &Path) -> Result<Vec<Action>, ApplicationError> {
        let Bundle { root, library } = &self.bundle;
        if root.join("Contents/_MASReceipt").exists() {
            return Err(ApplicationError::AppStore(root.clone()));
        }
        let original = self.original();
        let installed = original.exists();
        self.check_drop_in(drop_in, if installed { &original } else { library })?;
        self.check_not_running()?;
        let mut plan = Vec::new();
        if !installed {
            if self.backup.exists() {
                return Err(ApplicationError::StaleBackup(self.backup.clone()));
            }
            let backups = self.backup.parent().map(Path::to_owned).unwrap_or_default();
            // Renamed once complete, so that a backup is never partial.
            let partial = self.backup.with_extension("unfinished");
            plan.extend([
                Action::CreateFolder(backups),
                Action::Remove(partial.clone()),
                Action::Copy { from: root.clone(), to: partial.clone() },
                Action::Rename { from: partial, to: self.backup.clone() },
                Action::Rename { from: library.clone(), to: original },
            ]);
        }
        plan.push(Action::Replace { from: drop_in.to_owned(), to: library.clone() });
        plan.extend(self.sign());
        Ok(plan)
    }

    /// Plans the removal of the drop-in.
    ///
    /// # Errors
    /// The drop-in is not installed, its backup is missing, or the application runs.
    pub fn uninstall(&self) -> Result<Vec<Action>, ApplicationError> {
        let root = &self.bundle.root;
        if !self.original().exists() {
            return Err(ApplicationError::NotInstalled(root.clone()));
        }
        if !self.backup.exists() {
            return Err(ApplicationError::NoBackup {
                application: root.clone(),
                backup: self.backup.clone(),
            });
        }
        self.check_not_running()?;
        Ok(self.restore())
    }

    /// Plans the restoration of the backup, also after a failed installation.
    pub fn restore(&self) -> Vec<Action> {
        let root = self.bundle.root.clone();
        // Copied instead of renamed: the backup may be on another file system.
        vec![
            Action::Remove(root.clone()),
            Action::Copy { from: self.backup.clone(), to: root },
            Action::Remove(self.backup.clone()),
        ]
    }

    /// Whether a backup exists.
    pub fn has_backup(&self) -> bool {
        self.backup.exists()
    }

    fn original(&self) -> PathBuf {
        self.bundle.library.with_file_name(ORIGINAL)
    }

    /// Compares the drop-in with the application's own virglrenderer, architecture by architecture.
    fn check_drop_in(&self, drop_in: &Path, original: &Path) -> Result<(), ApplicationError> {
        let originals = read(original)?;
        let drop_ins = read_drop_in(drop_in)?;
        for original in &originals {
            renderer::check(&self.bundle.library, original)?;
            let Some(replacement) = drop_ins.iter().find(|part| part.target == original.target) else {
                if originals.len() > 1 {
                    // Slice of a universal library for a processor that this Mac does not have.
                    continue;
                }
                return Err(not_drop_in(drop_in, format!("it is not for {}", original.target)));
            };
            if replacement.compatibility < original.compatibility {
                let reason = format!(
                    "its compatibility version is {:#x}, the application needs {:#x}",
                    replacement.compatibility, original.compatibility
                );
                return Err(not_drop_in(drop_in, reason));
            }
        }
        Ok(())
    }

    /// Signs ad hoc and verifies. The entitlements of each part are kept, because a VMM needs
    /// com.apple.security.hypervisor; the hardened runtime is not, because it refuses libraries of another
    /// signer.
    fn sign(&self) -> Vec<Action> {
        let codesign = self.tools.codesign.display().to_string();
        let root = self.bundle.root.display().to_string();
        let command = |arguments: &[&str]| {
            let all =
                std::iter::once(codesign.as_str()).chain(arguments.iter().copied()).chain([root.as_str()]);
            Action::Run(all.map(str::to_owned).collect())
        };
        vec![
            command(&["--force", "--deep", "--sign", "-", "--preserve-metadata=identifier,entitlements"]),
            command(&["--verify", "--deep"]),
        ]
    }

    fn check_not_running(&self) -> Result<(), ApplicationError> {
        let contents = format!("{}/", self.bundle.root.join("Contents").display());
        match std::process::Command::new(&self.tools.pgrep).arg("-f").arg(&contents).output() {
            Ok(output) if output.status.success() => Err(ApplicationError::Running(self.bundle.root.clone())),
            // No process matches, or there is no pgrep to ask.
            _ => Ok(()),
        }
    }
}

fn read(path: &Path) -> Result<Vec<Binary>, ApplicationError> {
    let failed = |cause: String| ApplicationError::Read { path: path.to_owned(), cause };
    let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    Binary::parse(&bytes).map_err(|error| failed(error.to_string()))
}

fn not_drop_in(path: &Path, reason: String) -> ApplicationError {
    ApplicationError::NotDropIn { path: path.to_owned(), reason }
}

fn read_drop_in(path: &Path) -> Result<Vec<Binary>, ApplicationError> {
    if !path.is_file() {
        return Err(ApplicationError::DropInNotFound(path.to_owned()));
    }
    let parts = read(path)?;
    for part in &parts {
        if !part.needs.iter().any(|name| name.ends_with(ORIGINAL)) {
            return Err(not_drop_in(path, format!("it does not re-export {ORIGINAL}")));
        }
        if !part.exports.contains("virgl_renderer_transfer_write_iov") {
            return Err(not_drop_in(path, "it does not export virgl_renderer_transfer_write_iov".to_owned()));
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests;
