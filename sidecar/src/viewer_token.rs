//! The token files of viewers.
//!
//! Kubernetes and the operator replace the files when their Secret changes. Their few bytes are compared at an interval: a
//! mounted file is a link into a folder that is replaced as a whole, which file notifications report unreliably.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use viewers::ViewerToken;

/// Interval at which a file is read.
const INTERVAL: Duration = Duration::from_secs(1);

/// The token in the file, and each later one. While the file is missing or invalid, the last token stays in force.
///
/// # Errors
/// If the file has no valid token now.
pub fn follow(path: PathBuf) -> anyhow::Result<watch::Receiver<ViewerToken>> {
    let first = read(&path)?;
    Ok(watch_file("viewer token", first, move |_| read(&path)))
}

/// The token of viewers that may not control the desktop, as its file has it now and later; `None` while the file is missing.
/// While it is invalid, the last token stays in force. `controllers` is the token of viewers that may control the desktop.
pub fn follow_view_only(
    path: PathBuf,
    controllers: watch::Receiver<ViewerToken>,
) -> watch::Receiver<Option<ViewerToken>> {
    let mut file = ViewOnlyFile { path, controllers, was_missing: true, was_equal: false };
    // The next reading reports an error.
    let first = file.read(None).unwrap_or_default();
    watch_file("view-only token", first, move |current| file.read(current.as_ref()))
}

/// The result of `read`, first and then at [`INTERVAL`], while there are receivers. `read` is given the present value, which
/// an error keeps.
fn watch_file<T>(
    name: &'static str,
    first: T,
    mut read: impl FnMut(&T) -> anyhow::Result<T> + Send + 'static,
) -> watch::Receiver<T>
where
    T: Clone + PartialEq + Send + Sync + 'static,
{
    let (sender, receiver) = watch::channel(first);
    tokio::spawn(async move {
        let mut is_readable = true;
        loop {
            tokio::select! {
                () = sender.closed() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            let present = sender.borrow().clone();
            let value = read(&present);
            if let Err(error) = &value
                && is_readable
            {
                tracing::warn!(error = format!("{error:#}"), "the former {name} stays in force");
            }
            is_readable = value.is_ok();
            if let Ok(value) = value
                && sender.send_if_modified(|current| std::mem::replace(current, value.clone()) != value)
            {
                tracing::info!("the {name} changed; sessions of the former one ended");
            }
        }
    });
    receiver
}

/// File with the view-only token.
#[derive(Debug)]
struct ViewOnlyFile {
    path: PathBuf,
    controllers: watch::Receiver<ViewerToken>,
    was_missing: bool,
    was_equal: bool,
}

impl ViewOnlyFile {
    /// The token; `None` if the file is missing for the second time in succession. A Docker Engine removes a file before it
    /// writes the next, which must not end sessions.
    fn read(&mut self, current: Option<&ViewerToken>) -> anyhow::Result<Option<ViewerToken>> {
        let result = read(&self.path);
        let is_missing = result.as_ref().is_err_and(is_missing);
        let was_missing = std::mem::replace(&mut self.was_missing, is_missing);
        if is_missing {
            return Ok(current.filter(|_| !was_missing).cloned());
        }
        let token = result?;
        let is_equal = token == *self.controllers.borrow();
        if is_equal && !self.was_equal {
            tracing::warn!(
                "the view-only token equals the viewer token, so no viewer may control the desktop; change one of them"
            );
        }
        self.was_equal = is_equal;
        Ok(Some(token))
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::NotFound)
}

fn read(path: &Path) -> anyhow::Result<ViewerToken> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the viewer token file {}", path.display()))?;
    text.trim().parse().with_context(|| format!("invalid viewer token file {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const OLD: &str = "0123456789abcdef";
    const NEW: &str = "fedcba9876543210";

    fn token(text: &str) -> ViewerToken {
        text.parse().expect("a token")
    }

    #[tokio::test(start_paused = true)]
    async fn replaced_file_changes_the_token_and_an_invalid_one_keeps_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        std::fs::write(&path, format!("{OLD}\n")).expect("written");
        let mut current = follow(path.clone()).expect("a token");
        assert_eq!(*current.borrow_and_update(), token(OLD));
        std::fs::write(&path, "short").expect("written");
        tokio::time::sleep(3 * INTERVAL).await;
        std::fs::remove_file(&path).expect("removed");
        tokio::time::sleep(3 * INTERVAL).await;
        assert!(!current.has_changed().expect("followed"));
        // Kubernetes replaces the target of a link.
        std::fs::write(folder.path().join("..data"), NEW).expect("written");
        symlink("..data", &path).expect("linked");
        current.changed().await.expect("followed");
        assert_eq!(*current.borrow_and_update(), token(NEW));
    }

    #[tokio::test]
    async fn missing_or_invalid_file_is_refused_at_the_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        assert!(follow(path.clone()).is_err());
        std::fs::write(&path, "short").expect("written");
        let error = format!("{:#}", follow(path.clone()).expect_err("invalid"));
        assert!(error.contains("16") && error.contains(&path.display().to_string()), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn view_only_token_appears_changes_and_disappears_with_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("view-only-token");
        let (_sender, controllers) = watch::channel(token("controllers-0123"));
        let mut current = follow_view_only(path.clone(), controllers);
        assert_eq!(*current.borrow_and_update(), None, "a Secret of an earlier version");
        std::fs::write(&path, OLD).expect("written");
        current.changed().await.expect("followed");
        assert_eq!(*current.borrow_and_update(), Some(token(OLD)));
        std::fs::write(&path, "short").expect("written");
        tokio::time::sleep(3 * INTERVAL).await;
        assert!(!current.has_changed().expect("followed"), "an invalid file changes nothing");
        std::fs::write(&path, NEW).expect("written");
        current.changed().await.expect("followed");
        assert_eq!(*current.borrow_and_update(), Some(token(NEW)));
        std::fs::remove_file(&path).expect("removed");
        current.changed().await.expect("followed");
        assert_eq!(*current.borrow_and_update(), None);
    }

    #[test]
    fn view_only_file_that_is_missing_once_keeps_its_token() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("view-only-token");
        let (_sender, controllers) = watch::channel(token(NEW));
        let mut file = ViewOnlyFile { path: path.clone(), controllers, was_missing: true, was_equal: false };
        std::fs::write(&path, OLD).expect("written");
        let old = file.read(None).expect("valid");
        assert_eq!(old, Some(token(OLD)));
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(file.read(old.as_ref()).expect("kept"), old, "between removal and creation");
        std::fs::write(&path, OLD).expect("written");
        assert_eq!(file.read(old.as_ref()).expect("valid"), old);
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(file.read(old.as_ref()).expect("kept"), old);
        assert_eq!(file.read(old.as_ref()).expect("missing"), None);
    }

    #[tokio::test]
    async fn invalid_view_only_file_at_the_start_means_no_view_only_viewers() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("view-only-token");
        let (_sender, controllers) = watch::channel(token(NEW));
        std::fs::write(&path, "short").expect("written");
        assert_eq!(*follow_view_only(path, controllers).borrow(), None);
    }
}
