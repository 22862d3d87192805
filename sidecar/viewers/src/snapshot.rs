//! The newest picture of a stream as PNG.
//!
//! [`Snapshots`] decodes the hub's cached GOP. One decode runs at a time, and its result is cached until the next access
//! unit, so that frequent requests are cheap.

mod decode;

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Mutex;

pub use decode::last_picture_as_png;

use crate::hub::{Hub, Unit};

/// Time limit for a snapshot.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A GOP of more units is not decoded at once: a new keyframe is requested instead, which arrives sooner.
const SHORT_GOP: usize = 10;
/// Time limit for that keyframe.
const KEYFRAME_TIMEOUT: Duration = Duration::from_millis(1500);
/// Interval between checks for that keyframe.
const KEYFRAME_CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// Error of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The hub has no cached GOP.
    #[error("no picture yet: the stream has not started; see /status")]
    NoPicture,
    /// Decoding exceeded the time limit.
    #[error("the snapshot took longer than {} s; try again after the next keyframe", TIMEOUT.as_secs())]
    Timeout,
    /// GStreamer has no H.264 decoder.
    #[error(
        "no H.264 decoder; install gstreamer1.0-libav (avdec_h264) or gstreamer1.0-plugins-bad (openh264dec)"
    )]
    NoDecoder,
    /// Decoding or PNG encoding failed.
    #[error("snapshot failed: {0}")]
    Failed(String),
}

/// Takes snapshots of a hub's stream.
#[derive(Debug)]
pub struct Snapshots {
    hub: Hub,
    /// The last snapshot and the publication time of its newest unit. Locked while decoding.
    last: Mutex<Option<(u64, Bytes)>>,
}

impl Snapshots {
    /// Snapshots of `hub`.
    pub fn new(hub: Hub) -> Self {
        Self { hub, last: Mutex::new(None) }
    }

    /// The newest picture as a PNG file.
    ///
    /// # Errors
    /// [`SnapshotError`] if there is no picture, or it cannot be decoded in time.
    pub async fn take(&self) -> Result<Bytes, SnapshotError> {
        tokio::time::timeout(TIMEOUT, self.decode()).await.map_err(|_| SnapshotError::Timeout)?
    }

    async fn decode(&self) -> Result<Bytes, SnapshotError> {
        let mut last = self.last.lock().await;
        let units = self.short_gop().await;
        let Some(newest) = units.last().map(|unit| unit.published_ns) else {
            return Err(SnapshotError::NoPicture);
        };
        if let Some((published_ns, png)) = &*last
            && *published_ns == newest
        {
            return Ok(png.clone());
        }
        let data: Vec<Bytes> = units.into_iter().map(|unit| unit.au.data).collect();
        let png = tokio::task::spawn_blocking(move || last_picture_as_png(&data))
            .await
            .map_err(|error| SnapshotError::Failed(error.to_string()))??;
        *last = Some((newest, png.clone()));
        Ok(png)
    }

    /// The cached GOP. If it is long, waits up to [`KEYFRAME_TIMEOUT`] for a keyframe that starts a new one.
    async fn short_gop(&self) -> Vec<Unit> {
        let begin = Instant::now();
        loop {
            let units = self.hub.current_gop();
            if units.len() <= SHORT_GOP || begin.elapsed() >= KEYFRAME_TIMEOUT {
                return units;
            }
            self.hub.request_keyframe();
            tokio::time::sleep(KEYFRAME_CHECK_INTERVAL).await;
        }
    }
}
