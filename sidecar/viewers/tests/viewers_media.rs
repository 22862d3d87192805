//! Streams for players and snapshots, verified by decoding them with FFmpeg.

mod support;

use std::path::Path;
use std::process::Command;

use encode::clock::clock_ns;
use protocol::stream::AccessUnit;
use support::{Served, fake, real, until, within};
use viewers::server::ServerOptions;
use viewers::snapshot::{SnapshotError, Snapshots};
use viewers::{Hub, HubOptions};

/// Output of ffprobe, which must not report errors.
fn ffprobe(file: &Path, arguments: &[&str]) -> String {
    let output = Command::new("ffprobe").args(["-v", "error"]).args(arguments).arg(file).output();
    let output = output.expect("ffprobe is installed (package ffmpeg)");
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

fn decoded(file: &Path) -> u64 {
    let arguments = ["-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"];
    ffprobe(file, &arguments).trim().parse().expect("a count")
}

/// Presentation times in seconds.
fn times(file: &Path) -> Vec<f64> {
    let text = ffprobe(file, &["-show_entries", "packet=pts_time", "-of", "csv=p=0"]);
    text.lines().map(|line| line.trim_end_matches(',').parse().expect("a time")).collect()
}

/// Requests `path`, publishes each unit once the viewer has taken the previous one, ends the stream, and returns the
/// body.
async fn watch(path: &str, units: Vec<AccessUnit>) -> Vec<u8> {
    let served = Served::start(ServerOptions::default()).await;
    let (hub, count) = (served.hub.clone(), units.len());
    let feeding = tokio::spawn(async move {
        until("the viewer", || hub.viewers() > 0).await;
        for (sent, unit) in (1_u64..).zip(units) {
            hub.publish(unit);
            until("the viewer to take the unit", || hub.metrics().units_sent.get() >= sent).await;
        }
        hub.close();
    });
    let (head, body) = served.request(path, &[]).await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    feeding.await.expect("all units were published");
    assert!(body.len() > count);
    unchunk(&body)
}

/// Decodes HTTP's chunked transfer coding.
fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let end = body.windows(2).position(|at| at == b"\r\n").expect("a chunk size");
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).expect("ASCII"), 16)
            .expect("hexadecimal");
        if size == 0 {
            return out;
        }
        out.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 2 + size + 2..];
    }
}

fn file(directory: &tempfile::TempDir, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, bytes).expect("written");
    path
}

#[tokio::test]
async fn annexb_stream_is_decodable() {
    let body = watch("/stream.h264", real(40, 320, 180, clock_ns())).await;
    let directory = tempfile::tempdir().expect("a directory");
    assert_eq!(decoded(&file(&directory, "a.h264", &body)), 40);
}

#[tokio::test]
async fn mp4_stream_has_the_times_of_capture() {
    // 39 frames captured at 30 fps some seconds ago, then a pause of a second, then one more.
    let mut units = real(40, 320, 180, clock_ns() - 3_000_000_000);
    if let Some(last) = units.last_mut() {
        last.capture_ns += 1_000_000_000;
    }
    let body = watch("/stream.mp4", units).await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = file(&directory, "a.mp4", &body);
    // The last sample is pending until the next one.
    assert_eq!(decoded(&path), 39);
    for (i, time) in times(&path).iter().enumerate() {
        assert!((time - i as f64 / 30.0).abs() < 0.001, "frame {i} at {time}");
    }
    let size = ffprobe(&path, &["-show_entries", "stream=width,height", "-of", "csv=p=0"]);
    assert_eq!(size.trim(), "320,180");
}

#[tokio::test]
async fn mp4_stream_continues_through_a_change_of_size() {
    let start = clock_ns() - 4_000_000_000;
    let mut units = real(20, 320, 180, start);
    let later = units.last().map_or(0, |unit| unit.capture_ns) + 33_333_333;
    units.extend(real(20, 640, 360, later).into_iter().map(|unit| AccessUnit { seq: unit.seq + 20, ..unit }));
    let body = watch("/stream.mp4", units).await;
    let moovs = body.windows(4).filter(|at| at == b"moov").count();
    assert_eq!(moovs, 2, "the change of size has an initialisation segment");
    let directory = tempfile::tempdir().expect("a directory");
    let path = file(&directory, "a.mp4", &body);
    let arguments = ["-show_entries", "frame=width", "-of", "csv=p=0"];
    let output =
        Command::new("ffprobe").args(["-v", "quiet"]).args(arguments).arg(&path).output().expect("ffprobe");
    let widths: Vec<_> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    let count = |width| widths.iter().filter(|line| line.trim_end_matches(',') == width).count();
    assert_eq!(
        (count("320"), count("640")),
        (20, 19),
        "ffprobe ignores it and follows the parameter sets in the samples"
    );
}

#[tokio::test]
async fn snapshot_is_the_newest_picture() {
    let hub = Hub::new(HubOptions::default());
    let snapshots = Snapshots::new(hub.clone());
    assert_eq!(within("an error", snapshots.take()).await, Err(SnapshotError::NoPicture));
    for unit in real(10, 320, 180, clock_ns()) {
        hub.publish(unit);
    }
    let png = within("a picture", snapshots.take()).await.expect("a picture");
    let mut reader = png::Decoder::new(std::io::Cursor::new(&png[..])).read_info().expect("a PNG");
    let mut pixels = vec![0; reader.output_buffer_size().expect("small")];
    let frame = reader.next_frame(&mut pixels).expect("a picture");
    assert_eq!((frame.width, frame.height), (320, 180));
    // The test source draws a bright disc on black.
    let bright = pixels.chunks(3).filter(|pixel| pixel.iter().all(|value| *value > 200)).count();
    assert!((100..5000).contains(&bright), "{bright} bright pixels");
    let again = within("a picture", snapshots.take()).await.expect("a picture");
    assert_eq!(png.as_ptr(), again.as_ptr(), "the same picture is decoded once");
}

#[tokio::test]
async fn snapshot_of_undecodable_units_fails_in_time() {
    let hub = Hub::new(HubOptions::default());
    hub.publish(fake(1, true, 5000));
    let error = within("an error", Snapshots::new(hub).take()).await.expect_err("undecodable");
    assert!(matches!(error, SnapshotError::Failed(_)), "{error}");
}
