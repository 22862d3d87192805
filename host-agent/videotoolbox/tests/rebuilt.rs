//! What a viewer sees when sessions are lost: numbered pictures go in, sessions die in every way that we know, and the
//! stream as a whole decodes in GStreamer: each picture that was not counted as failed shows its number, and its
//! brightness everywhere. The last stream is left in a file for Chromium (tests/browser/rebuilt.test.mjs).

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use encode_testkit::{SETTINGS, SIZE, decode};
use encode::{EncodeError, Encoder as _, Output, Picture, PixelFormat, Sink};
use videotoolbox::api::Status;
use videotoolbox::simulator::{Fault, Handle, Simulator};
use videotoolbox::{Admission, Limits, VideoToolbox};

/// Pictures in a stream.
const PICTURES: u64 = 60;
/// Pictures under way at once.
const UNDER_WAY: u64 = 3;
/// Mean error of brightness in a picture that lossy coding may cost, of 255; a picture of another number has 40.
const LOSSY: f64 = 6.0;

fn picture(number: u64) -> Picture {
    let (width, height) = SIZE;
    let mut data = vec![0; PixelFormat::Nv12.bytes(width, height)];
    numbered::draw(number as u32, &mut data, width, height, width, PixelFormat::Nv12).expect("fits");
    Picture { format: PixelFormat::Nv12, width, height, stride: width, data: data.into() }
}

type Outcome = Result<Output, (u64, EncodeError)>;

/// Encodes pictures 1 to `PICTURES` with these faults; gives what came, and how many sessions were made.
fn stream(script: impl IntoIterator<Item = (u64, Fault)>) -> (Vec<Output>, usize) {
    let simulator = Simulator::new(script);
    let outcomes: Arc<Mutex<Vec<Outcome>>> = Arc::default();
    let collected = Arc::clone(&outcomes);
    let sink: Sink =
        Box::new(move |outcome| collected.lock().unwrap_or_else(PoisonError::into_inner).push(outcome));
    let admission = Arc::new(Admission::new(Limits::default()));
    let api = Arc::new(Handle(Arc::clone(&simulator)));
    let mut encoder = VideoToolbox::new(api, &admission, SETTINGS, sink).expect("opens");
    for number in 1..=PICTURES {
        encoder.submit(&picture(number), number, number * 16_667, false).expect("taken");
        // As in the product: a few are under way, never many.
        let until = Instant::now() + Duration::from_secs(10);
        let count = || outcomes.lock().unwrap_or_else(PoisonError::into_inner).len() as u64;
        while count() + UNDER_WAY < number {
            assert!(Instant::now() < until, "{} of {number} pictures have an outcome", count());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    drop(encoder);
    let outcomes = std::mem::take(&mut *outcomes.lock().expect("not poisoned"));
    assert_eq!(outcomes.len() as u64, PICTURES, "one outcome each");
    (outcomes.into_iter().flatten().collect(), simulator.made())
}

/// Every picture that came shows its number and looks as it was drawn.
fn decodes(outputs: &[Output]) {
    let seen = decode::lumas(outputs);
    assert_eq!(seen.len(), outputs.len(), "every access unit gives a picture");
    for (luma, output) in seen.iter().zip(outputs) {
        let (width, height) = (luma.width, luma.height);
        let number = numbered::read_number(&luma.bytes, width, height, width, PixelFormat::Nv12);
        assert_eq!(number, Ok(output.ticket as u32));
        let drawn = picture(output.ticket).data;
        let error: u64 =
            luma.bytes.iter().zip(&drawn[..]).map(|(have, want)| u64::from(have.abs_diff(*want))).sum();
        let error = error as f64 / luma.bytes.len() as f64;
        assert!(error < LOSSY, "picture {} is off by {error} on the average", output.ticket);
    }
}

#[test]
fn a_session_that_dies_when_asked_is_no_glitch() {
    let (outputs, made) = stream([(20, Fault::Invalidated), (40, Fault::Invalidated)]);
    assert_eq!(made, 3);
    assert!(outputs.len() as u64 >= PICTURES - 16, "{} of {PICTURES} came", outputs.len());
    decodes(&outputs);
}

#[test]
fn a_session_that_dies_by_itself_costs_what_was_under_way() {
    let (outputs, made) =
        stream([(20, Fault::Late(Duration::from_millis(60))), (23, Fault::Failed(Status::INVALID_SESSION))]);
    assert!(made >= 2 && (outputs.len() as u64) < PICTURES);
    decodes(&outputs);
}

#[test]
fn the_encoder_services_end_is_no_glitch() {
    let (outputs, made) = stream([(30, Fault::Failed(Status::MALFUNCTION))]);
    assert!(made >= 1);
    decodes(&outputs);
}

/// All of it in one stream, written down as Chromium gets it: for each access unit its number and its length, four
/// bytes each, little-endian, and its bytes.
#[test]
fn everything_at_once_decodes_and_is_left_for_the_browser() {
    let (outputs, made) = stream([
        (5, Fault::Dropped),
        (12, Fault::Invalidated),
        (18, Fault::Overtaken),
        (25, Fault::Failed(Status::INVALID_SESSION)),
        (33, Fault::Cut),
        (41, Fault::Twice),
        (47, Fault::NoIdr),
        (52, Fault::Invalidated),
    ]);
    assert!(made >= 4, "{made} sessions");
    decodes(&outputs);
    let mut file = Vec::new();
    for output in &outputs {
        file.extend((output.ticket as u32).to_le_bytes());
        file.extend((output.data.len() as u32).to_le_bytes());
        file.extend(&output.data[..]);
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rebuilt.stream");
    std::fs::write(&path, file).expect("written");
    println!("{} access units in {}", outputs.len(), path.display());
}
