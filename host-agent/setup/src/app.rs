//! `host-agent tap install|uninstall --app UTM`: the tap in an application that takes no inserted library. The drop-in
//! stands in the place of the bundle's virglrenderer, which it re-exports, and the bundle is signed anew; a copy of the
//! whole bundle is the way back. What is to be done is planned here, on any system; [`steps`](crate::steps) does it.

mod bundle;

use std::path::{Path, PathBuf};

use crate::binary::Binary;
use crate::renderer::{self, RendererError};
use crate::steps::Step;

use bundle::Bundle;
pub use bundle::folders;

/// What the original is called beside the drop-in, which asks for it by this name.
pub const ORIGINAL: &str = "libvirglrenderer.original.dylib";

/// The programs of macOS that are called.
#[derive(Debug, Clone)]
pub struct Tools {
    /// Signs.
    pub codesign: PathBuf,
    /// Finds processes.
    pub pgrep: PathBuf,
}

impl Default for Tools {
    fn default() -> Self {
        Self { codesign: "/usr/bin/codesign".into(), pgrep: "/usr/bin/pgrep".into() }
    }
}

/// Why the tap can't be put into an application, or taken out of it.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// There is no such application.
    #[error("no application {0}; give its path: --app /Applications/UTM.app")]
    NoApp(String),
    /// A folder that is no bundle.
    #[error("{} is no application bundle: it has no Contents/Info.plist", .0.display())]
    NoBundle(PathBuf),
    /// It has no virglrenderer.
    #[error("{} has no virglrenderer in Contents/Frameworks: its VMs have no GPU that the tap could read", .0.display())]
    NoRenderer(PathBuf),
    /// From the App Store.
    #[error("{} is from the App Store, whose applications can't be signed anew; take the one from its makers' own site", .0.display())]
    AppStore(PathBuf),
    /// Its processes have the library open.
    #[error("{} is running; quit it, its VMs too, and try again", .0.display())]
    Running(PathBuf),
    /// A file can't be read.
    #[error("can't read {}: {why}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// No drop-in.
    #[error("no drop-in at {}; build it with `cargo build --release -p tap --features drop-in`, or name it with --drop-in", .0.display())]
    NoDropIn(PathBuf),
    /// Another library.
    #[error("{} is not the drop-in: {what}", path.display())]
    NotDropIn {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Its virglrenderer is of no use.
    #[error(transparent)]
    Renderer(#[from] RendererError),
    /// There is a backup, and the application is another one by now.
    #[error("there is a backup of another version in {}; remove it if you don't want to go back to that", .0.display())]
    OldBackup(PathBuf),
    /// Nothing to go back to.
    #[error("the tap is not in {}", .0.display())]
    NotInstalled(PathBuf),
    /// The way back is gone.
    #[error("no backup of {} in {}; install the application anew", app.display(), backup.display())]
    NoBackup {
        /// The application.
        app: PathBuf,
        /// Where it should be.
        backup: PathBuf,
    },
}

/// An application, and where its backup goes.
#[derive(Debug)]
pub struct App {
    bundle: Bundle,
    backup: PathBuf,
    tools: Tools,
}

impl App {
    /// By name or path. Backups go to a folder of the user's.
    pub fn find(name: &str, folders: &[PathBuf], backups: &Path, tools: Tools) -> Result<Self, AppError> {
        let bundle = Bundle::find(name, folders)?;
        let backup = backups.join(bundle.root.file_name().unwrap_or_default());
        Ok(Self { bundle, backup, tools })
    }

    /// What putting the tap in takes.
    pub fn install(&self, drop_in: &Path) -> Result<Vec<Step>, AppError> {
        let Bundle { root, library } = &self.bundle;
        if root.join("Contents/_MASReceipt").exists() {
            return Err(AppError::AppStore(root.clone()));
        }
        let original = self.original();
        let installed = original.exists();
        let theirs = read(if installed { &original } else { library })?;
        let ours = drop_in_at(drop_in)?;
        for part in &theirs {
            renderer::check(library, part)?;
            let Some(ours) = ours.iter().find(|ours| ours.target == part.target) else {
                if theirs.len() > 1 {
                    // A part for another processor, which this Mac doesn't run.
                    continue;
                }
                return Err(not_drop_in(drop_in, format!("it is not for {}", part.target)));
            };
            if ours.compatibility < part.compatibility {
                let what = format!(
                    "it says to be compatible with version {:#x}, the application's with {:#x}",
                    ours.compatibility, part.compatibility
                );
                return Err(not_drop_in(drop_in, what));
            }
        }
        self.not_running()?;
        let mut steps = Vec::new();
        if !installed {
            if self.backup.exists() {
                return Err(AppError::OldBackup(self.backup.clone()));
            }
            steps.push(Step::Folder(self.backup.parent().map(Path::to_owned).unwrap_or_default()));
            // Whole, or not there.
            let unfinished = self.backup.with_extension("unfinished");
            steps.push(Step::Remove(unfinished.clone()));
            steps.push(Step::Copy(root.clone(), unfinished.clone()));
            steps.push(Step::Rename(unfinished, self.backup.clone()));
            steps.push(Step::Rename(library.clone(), original));
        }
        steps.push(Step::Replace(drop_in.to_owned(), library.clone()));
        steps.extend(self.signing());
        Ok(steps)
    }

    /// What taking it out takes.
    pub fn uninstall(&self) -> Result<Vec<Step>, AppError> {
        let root = &self.bundle.root;
        if !self.original().exists() {
            return Err(AppError::NotInstalled(root.clone()));
        }
        if !self.backup.exists() {
            return Err(AppError::NoBackup { app: root.clone(), backup: self.backup.clone() });
        }
        self.not_running()?;
        Ok(self.restore())
    }

    /// The way back, from wherever an installation failed.
    pub fn restore(&self) -> Vec<Step> {
        let root = self.bundle.root.clone();
        // The backup may lie on another disk: copied, and removed when that is done.
        vec![
            Step::Remove(root.clone()),
            Step::Copy(self.backup.clone(), root),
            Step::Remove(self.backup.clone()),
        ]
    }

    /// Whether there is a way back.
    pub fn has_backup(&self) -> bool {
        self.backup.exists()
    }

    fn original(&self) -> PathBuf {
        self.bundle.library.with_file_name(ORIGINAL)
    }

    /// Ad hoc, without the hardened runtime, which would refuse libraries of another signer, and with the entitlements
    /// that each part has: a VMM needs com.apple.security.hypervisor.
    fn signing(&self) -> Vec<Step> {
        let codesign = self.tools.codesign.display().to_string();
        let root = self.bundle.root.display().to_string();
        let words = |words: &[&str]| {
            let all = std::iter::once(codesign.as_str()).chain(words.iter().copied()).chain([root.as_str()]);
            Step::Run(all.map(str::to_owned).collect())
        };
        vec![
            words(&["--force", "--deep", "--sign", "-", "--preserve-metadata=identifier,entitlements"]),
            words(&["--verify", "--deep"]),
        ]
    }

    fn not_running(&self) -> Result<(), AppError> {
        let inside = format!("{}/", self.bundle.root.join("Contents").display());
        let found = std::process::Command::new(&self.tools.pgrep).arg("-f").arg(&inside).output();
        match found {
            Ok(out) if out.status.success() => Err(AppError::Running(self.bundle.root.clone())),
            // It finds none, or is not there, and then nothing is known.
            _ => Ok(()),
        }
    }
}

fn read(path: &Path) -> Result<Vec<Binary>, AppError> {
    let failed = |why: String| AppError::Read { path: path.to_owned(), why };
    let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    Binary::read(&bytes).map_err(|what| failed(what.to_owned()))
}

fn not_drop_in(path: &Path, what: String) -> AppError {
    AppError::NotDropIn { path: path.to_owned(), what }
}

fn drop_in_at(path: &Path) -> Result<Vec<Binary>, AppError> {
    if !path.is_file() {
        return Err(AppError::NoDropIn(path.to_owned()));
    }
    let parts = read(path)?;
    for part in &parts {
        if !part.needs.iter().any(|name| name.ends_with(ORIGINAL)) {
            return Err(not_drop_in(path, format!("it does not re-export {ORIGINAL}")));
        }
        if !part.exports.contains("virgl_renderer_transfer_write_iov") {
            return Err(not_drop_in(path, "it takes nothing over".to_owned()));
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests;
