//! Writes what a hub publishes to a fragmented MP4 file, until stopped or until the file is as long as
//! allowed. The file is playable at every moment: a crash costs the last frame.
//!
//! It is a viewer like any other: a slow disk loses frames, never slows the stream.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::hub::{Hub, Protocol, Subscription};
use super::mp4::{Mp4Error, Muxer};
use encode::clock::clock_ns;

/// Why a recording failed.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file can't be made or written.
    #[error("recording to {path}: {source}; choose a writable directory with free space")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The stream can't be put into MP4.
    #[error(transparent)]
    Mp4(#[from] Mp4Error),
    /// The task is gone.
    #[error("the recording was cancelled")]
    Cancelled,
}

/// What was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// Access units in the file.
    pub units: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// It ended because it reached its limit.
    pub full: bool,
}

/// A recording under way. Dropping it stops it without waiting.
#[derive(Debug)]
pub struct Recording {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<Recorded, RecordingError>>,
}

impl Recording {
    /// Begins a new file, which must not exist yet, of at most `max_bytes`.
    pub async fn start(hub: &Hub, path: &Path, max_bytes: u64) -> Result<Self, RecordingError> {
        let failed = |source| RecordingError::File { path: path.to_owned(), source };
        let file = File::options().write(true).create_new(true).open(path).await.map_err(failed)?;
        let (stop, stopped) = oneshot::channel();
        let subscription = hub.subscribe(Protocol::Recording);
        let path = path.to_owned();
        let task = tokio::spawn(async move {
            record(subscription, file, max_bytes, stopped).await.map_err(|error| match error {
                Failure::Io(source) => RecordingError::File { path, source },
                Failure::Mp4(error) => RecordingError::Mp4(error),
            })
        });
        Ok(Self { stop, task })
    }

    /// Ends the file.
    pub async fn finish(self) -> Result<Recorded, RecordingError> {
        // A task that has ended by itself doesn't listen any more.
        let _ = self.stop.send(());
        self.task.await.map_err(|_| RecordingError::Cancelled)?
    }
}

enum Failure {
    Io(std::io::Error),
    Mp4(Mp4Error),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Mp4Error> for Failure {
    fn from(error: Mp4Error) -> Self {
        Self::Mp4(error)
    }
}

async fn record(
    mut subscription: Subscription,
    mut file: File,
    max_bytes: u64,
    mut stopped: oneshot::Receiver<()>,
) -> Result<Recorded, Failure> {
    let mut muxer = Muxer::new();
    let mut done = Recorded { units: 0, bytes: 0, full: false };
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    loop {
        let bytes = tokio::select! {
            // Stopped, or dropped.
            _ = &mut stopped => break,
            unit = subscription.unit() => {
                let Some(unit) = unit else { break };
                done.units += 1;
                muxer.push(&unit)?
            }
            _ = tick.tick() => muxer.idle(clock_ns())?,
        };
        if done.bytes + bytes.len() as u64 > max_bytes {
            done.full = true;
            break;
        }
        done.bytes += bytes.len() as u64;
        file.write_all(&bytes).await?;
    }
    let last = muxer.finish()?;
    if !done.full {
        done.bytes += last.len() as u64;
        file.write_all(&last).await?;
    }
    file.flush().await?;
    Ok(done)
}
