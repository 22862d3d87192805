//! What viewers' players get, judged by FFmpeg: frames are counted by decoding them.

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use protocol::stream::AccessUnit;
use encode::clock::clock_ns;
use viewers::recording::{Recording, RecordingError};
use viewers::server::ServerOptions;
use viewers::snapshot::{GopSnapshot, SnapshotError, SnapshotSource};
use viewers::{Hub, HubOptions};
use support::{Served, fake, real, within};

/// What ffprobe says, one `key=value` a line. It must not complain.
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

/// Joins `path`, publishes the units once someone listens, ends the stream, gives the body.
async fn watch(path: &str, units: Vec<AccessUnit>) -> Vec<u8> {
    let served = Served::start(ServerOptions::default()).await;
    let (hub, count) = (served.hub.clone(), units.len());
    let feeding = tokio::spawn(async move {
        within("the viewer", async {
            while hub.viewers() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        for (sent, unit) in units.into_iter().enumerate() {
            hub.publish(unit);
            within("the viewer to take it", async {
                let taken = |hub: &Hub| hub.counters().sent_units.load(std::sync::atomic::Ordering::Relaxed);
                while taken(&hub) <= sent as u64 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
            .await;
        }
        hub.close();
    });
    let (head, body) = served.request(path, &[]).await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    feeding.await.expect("all was published");
    assert!(body.len() > count);
    unchunk(&body)
}

/// Undoes HTTP's chunked coding.
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
async fn annexb_plays() {
    let body = watch("/stream.h264", real(40, 320, 180, clock_ns())).await;
    let directory = tempfile::tempdir().expect("a directory");
    assert_eq!(decoded(&file(&directory, "a.h264", &body)), 40);
}

#[tokio::test]
async fn mp4_plays_with_the_times_of_capture() {
    // Captured a moment ago at 30 fps, then nothing for a second, then one more.
    let mut units = real(40, 320, 180, clock_ns() - 3_000_000_000);
    if let Some(last) = units.last_mut() {
        last.capture_ns += 1_000_000_000;
    }
    let body = watch("/stream.mp4", units).await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = file(&directory, "a.mp4", &body);
    // The last one waits for its successor, which never comes.
    assert_eq!(decoded(&path), 39);
    for (i, time) in times(&path).iter().enumerate() {
        assert!((time - i as f64 / 30.0).abs() < 0.001, "frame {i} at {time}");
    }
    let size = ffprobe(&path, &["-show_entries", "stream=width,height", "-of", "csv=p=0"]);
    assert_eq!(size.trim(), "320,180");
}

#[tokio::test]
async fn mp4_goes_on_through_a_change_of_size() {
    let start = clock_ns() - 4_000_000_000;
    let mut units = real(20, 320, 180, start);
    let later = units.last().map_or(0, |unit| unit.capture_ns) + 33_333_333;
    units.extend(real(20, 640, 360, later).into_iter().map(|unit| AccessUnit { seq: unit.seq + 20, ..unit }));
    let body = watch("/stream.mp4", units).await;
    let moovs = body.windows(4).filter(|at| at == b"moov").count();
    assert_eq!(moovs, 2, "players that take a second initialisation segment get one");
    let directory = tempfile::tempdir().expect("a directory");
    let path = file(&directory, "a.mp4", &body);
    let arguments = ["-show_entries", "frame=width", "-of", "csv=p=0"];
    let output =
        Command::new("ffprobe").args(["-v", "quiet"]).args(arguments).arg(&path).output().expect("ffprobe");
    let widths: Vec<_> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    let count = |width| widths.iter().filter(|line| line.trim_end_matches(',') == width).count();
    assert_eq!((count("320"), count("640")), (20, 19), "players that don't go on by what is in the samples");
}

#[tokio::test]
async fn a_recording_is_a_whole_file_within_its_limit() {
    let directory = tempfile::tempdir().expect("a directory");
    let hub = Hub::new(HubOptions::default());
    let path = directory.path().join("whole.mp4");
    let recording = Recording::start(&hub, &path, 10 << 20).await.expect("starts");
    let small = Recording::start(&hub, &directory.path().join("small.mp4"), 20_000).await.expect("starts");
    assert!(matches!(Recording::start(&hub, &path, 1).await, Err(RecordingError::File { .. })), "it exists");
    let units = real(40, 320, 180, clock_ns() - 2_000_000_000);
    for (i, unit) in units.into_iter().enumerate() {
        hub.publish(unit);
        within("both to take it", async {
            // The small one stops listening when its file is full.
            let enough =
                |i: usize| hub.counters().sent_units.load(std::sync::atomic::Ordering::Relaxed) > i as u64;
            while !enough(i) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
    within("the small one to fill", async {
        while hub.viewers() == 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let small = small.finish().await.expect("ends");
    assert!(small.full && small.bytes <= 20_000 && small.units > 0, "{small:?}");
    within("the whole one to take all", async {
        while hub.counters().sent_units.load(std::sync::atomic::Ordering::Relaxed) < 40 + small.units {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let whole = recording.finish().await.expect("ends");
    assert_eq!((whole.units, whole.full), (40, false));
    assert_eq!(std::fs::metadata(&path).expect("a file").len(), whole.bytes);
    assert_eq!(decoded(&path), 40, "the last frame is in it");
    assert!(decoded(&directory.path().join("small.mp4")) > 0);
}

#[tokio::test]
async fn a_snapshot_is_the_last_picture() {
    let hub = Hub::new(HubOptions::default());
    let snapshots = GopSnapshot::new(hub.clone());
    assert_eq!(within("an answer", snapshots.snapshot()).await, Err(SnapshotError::NoPicture));
    for unit in real(10, 320, 180, clock_ns()) {
        hub.publish(unit);
    }
    let png = within("a picture", snapshots.snapshot()).await.expect("a picture");
    let mut reader = png::Decoder::new(std::io::Cursor::new(&png[..])).read_info().expect("a PNG");
    let mut pixels = vec![0; reader.output_buffer_size().expect("small")];
    let frame = reader.next_frame(&mut pixels).expect("a picture");
    assert_eq!((frame.width, frame.height), (320, 180));
    // The test source's ball: a bright disc on black.
    let bright = pixels.chunks(3).filter(|pixel| pixel.iter().all(|value| *value > 200)).count();
    assert!((100..5000).contains(&bright), "{bright} bright pixels");
    let again = within("a picture", snapshots.snapshot()).await.expect("a picture");
    assert_eq!(png.as_ptr(), again.as_ptr(), "the same picture isn't decoded twice");
}

#[tokio::test]
async fn garbage_gives_an_error_and_no_hang() {
    let hub = Hub::new(HubOptions::default());
    hub.publish(fake(1, true, 5000));
    let error = within("an answer", GopSnapshot::new(hub).snapshot()).await.expect_err("no picture");
    assert!(matches!(error, SnapshotError::Failed(_)), "{error}");
}
