//! The viewers' token file.
//!
//! Kubernetes and the operator replace the file when its Secret changes. Its few bytes are compared at an interval: the
//! mounted file is a link into a folder that is replaced as a whole, which file notifications report unreliably.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use viewers::ViewerToken;

/// Interval at which the file is read.
const INTERVAL: Duration = Duration::from_secs(1);

/// The token in the file, and each later one. While the file is missing or invalid, the last token stays in force.
///
/// # Errors
/// If the file has no valid token now.
pub fn follow(path: PathBuf) -> anyhow::Result<watch::Receiver<ViewerToken>> {
    let (sender, receiver) = watch::channel(read(&path)?);
    tokio::spawn(async move {
        let mut is_readable = true;
        loop {
            tokio::select! {
                () = sender.closed() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            let token = read(&path);
            if let Err(error) = &token
                && is_readable
            {
                tracing::warn!(error = format!("{error:#}"), "the former viewer token stays in force");
            }
            is_readable = token.is_ok();
            if let Ok(token) = token
                && sender.send_if_modified(|current| std::mem::replace(current, token.clone()) != token)
            {
                tracing::info!("the viewer token changed; sessions of the former one ended");
            }
        }
    });
    Ok(receiver)
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
}
