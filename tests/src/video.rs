//! The live stream as a viewer receives it: decoded by ffmpeg and GStreamer, and the frame numbers in the pictures.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use pattern::layout::{Torn, read_number};
use protocol::PixelFormat;

use crate::rig::{Stream, VIEWER_TOKEN};

/// Receives `path` (`/stream.h264`, `/stream.mp4`) for `time`.
///
/// # Errors
/// Fails if the stream ends earlier.
pub fn take(stream: &Stream, path: &str, time: Duration) -> Result<Vec<u8>> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(5)))
        .timeout_recv_body(Some(time + Duration::from_secs(10)))
        .build()
        .into();
    let url = format!("{}{path}", stream.url);
    let response = agent
        .get(&url)
        .header("Authorization", format!("Bearer {VIEWER_TOKEN}"))
        .call()
        .context(url.clone())?;
    let mut body = response.into_body().into_reader();
    let (begin, mut bytes, mut buffer) = (Instant::now(), Vec::new(), vec![0; 64 << 10]);
    while begin.elapsed() < time {
        match body.read(&mut buffer).with_context(|| url.clone())? {
            0 => bail!("{url} ended after {:.1?}", begin.elapsed()),
            read => bytes.extend_from_slice(&buffer[..read]),
        }
    }
    Ok(bytes)
}

/// Decoder to use.
#[derive(Debug, Clone, Copy)]
pub enum Decoder {
    /// H.264 decoder of the `ffmpeg` program.
    Ffmpeg,
    /// `gst-launch-1.0` with `avdec_h264`.
    GStreamer,
}

/// Decodes a file to pictures of the given size and reads the frame number of each.
///
/// # Errors
/// Fails if the decoder fails or returns no picture.
pub fn numbers(file: &Path, (width, height): (u32, u32), decoder: Decoder) -> Result<Vec<Result<u32, Torn>>> {
    let file = file.display().to_string();
    let output = match decoder {
        Decoder::Ffmpeg => Command::new("ffmpeg")
            .args(["-hide_banner", "-loglevel", "error", "-i", &file])
            .args(["-fps_mode", "passthrough", "-pix_fmt", "yuv420p", "-f", "rawvideo", "-"])
            .stdin(Stdio::null())
            .output(),
        Decoder::GStreamer => Command::new("gst-launch-1.0")
            .args(["-q", "filesrc", &format!("location={file}"), "!", "h264parse", "!", "avdec_h264", "!"])
            .args(["video/x-raw,format=I420", "!", "fdsink", "fd=1"])
            .stdin(Stdio::null())
            .output(),
    }
    .with_context(|| format!("starting {decoder:?}"))?;
    ensure!(output.status.success(), "{decoder:?}: {}", String::from_utf8_lossy(&output.stderr));
    let picture = PixelFormat::Nv12.bytes(width, height);
    ensure!(output.stdout.len() >= picture, "{decoder:?} decoded nothing");
    let mut numbers: Vec<_> = output
        .stdout
        .chunks_exact(picture)
        .map(|picture| read_number(picture, width, height, width, PixelFormat::Nv12))
        .collect();
    // The recording ends at an arbitrary byte: slices of the last picture may be missing.
    numbers.pop();
    Ok(numbers)
}

/// Frame number in a still image.
///
/// # Errors
/// Fails if the image does not decode or has another size.
pub fn still(file: &Path, size: (u32, u32)) -> Result<Result<u32, Torn>> {
    let file = file.display().to_string();
    let output = Command::new("ffmpeg")
        .args(["-hide_banner", "-loglevel", "error", "-i", &file, "-pix_fmt", "nv12", "-f", "rawvideo", "-"])
        .stdin(Stdio::null())
        .output()
        .context("starting ffmpeg")?;
    ensure!(output.status.success(), "ffmpeg: {}", String::from_utf8_lossy(&output.stderr));
    ensure!(output.stdout.len() == PixelFormat::Nv12.bytes(size.0, size.1), "{file} has another size");
    Ok(read_number(&output.stdout, size.0, size.1, size.0, PixelFormat::Nv12))
}

/// Violations in a sequence of frame numbers: torn pictures, and numbers lower than a predecessor.
pub fn wrong(numbers: &[Result<u32, Torn>]) -> Vec<String> {
    let mut last = 0;
    let mut wrong = Vec::new();
    for (at, number) in numbers.iter().enumerate() {
        match number {
            Err(torn) => wrong.push(format!("picture {at}: {torn}")),
            Ok(number) if *number < last => wrong.push(format!("picture {at}: {number} after {last}")),
            Ok(number) => last = *number,
        }
    }
    wrong
}

/// Count of distinct frame numbers.
pub fn distinct(numbers: &[Result<u32, Torn>]) -> usize {
    numbers.iter().flatten().collect::<std::collections::BTreeSet<_>>().len()
}
