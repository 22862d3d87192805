//! The stream's current picture as PNG.
//!
//! [`SnapshotSource`] is what the server asks; [`GopSnapshot`] answers by decoding the hub's cached GOP.
//! One decode runs at a time, and a picture that was decoded already is not decoded again: asking often
//! costs little.

mod decode;

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

pub use decode::last_picture_as_png;

use super::hub::{Hub, Unit};

/// Longest that a snapshot may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// A GOP of more units than this is not decoded: a new keyframe is there sooner.
const SHORT_GOP: usize = 10;
/// How long that keyframe is waited for.
const KEYFRAME_WITHIN: Duration = Duration::from_millis(1500);

/// Why there is no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Nothing was streamed yet.
    #[error("no picture yet: the stream has not started; see /status")]
    NoPicture,
    /// The GOP could not be decoded in time.
    #[error("the snapshot took longer than {} s; try again after the next keyframe", DEADLINE.as_secs())]
    Slow,
    /// No decoder on this machine.
    #[error(
        "no H.264 decoder: install gstreamer1.0-libav (avdec_h264) or gstreamer1.0-plugins-bad (openh264dec)"
    )]
    NoDecoder,
    /// The decoder or the PNG writer failed.
    #[error("snapshot: {0}")]
    Failed(String),
}

/// Makes PNGs of the current picture.
pub trait SnapshotSource: Send + Sync + fmt::Debug {
    /// The current picture, as a PNG file.
    fn snapshot(&self) -> BoxFuture<'_, Result<Bytes, SnapshotError>>;
}

/// Decodes the hub's cached GOP.
#[derive(Debug)]
pub struct GopSnapshot {
    hub: Hub,
    /// Held while decoding: the last picture, and of which unit it is.
    last: Mutex<Option<(u64, Bytes)>>,
}

impl GopSnapshot {
    /// Snapshots of `hub`.
    pub fn new(hub: Hub) -> Self {
        Self { hub, last: Mutex::new(None) }
    }

    /// The units since the last IDR, few of them if the encoder gives a new one in time.
    async fn short_gop(&self) -> Vec<Unit> {
        let begin = Instant::now();
        loop {
            let units = self.hub.current_gop();
            if units.len() <= SHORT_GOP || begin.elapsed() >= KEYFRAME_WITHIN {
                return units;
            }
            self.hub.want_keyframe();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn take(&self) -> Result<Bytes, SnapshotError> {
        let mut last = self.last.lock().await;
        let units = self.short_gop().await;
        let Some(newest) = units.last().map(|unit| unit.published_ns) else {
            return Err(SnapshotError::NoPicture);
        };
        if let Some((of, png)) = &*last
            && *of == newest
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
}

impl SnapshotSource for GopSnapshot {
    fn snapshot(&self) -> BoxFuture<'_, Result<Bytes, SnapshotError>> {
        Box::pin(async move {
            tokio::time::timeout(DEADLINE, self.take()).await.map_err(|_| SnapshotError::Slow)?
        })
    }
}
