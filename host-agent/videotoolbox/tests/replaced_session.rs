//! Streams with lost sessions, as a viewer sees them: numbered pictures are encoded, sessions are lost in all
//! known ways, and the stream decodes in GStreamer. Each picture that did not fail shows its number and has
//! the right brightness everywhere. The last stream is written to a file for Chromium
//! (tests/browser/rebuilt.test.mjs).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use encode::{EncodeError, Encoder as _, Output, Picture, PixelFormat, Sink};
use encode_testkit::{SETTINGS, SIZE, decode};
use parking_lot::Mutex;
use videotoolbox::api::Status;
use videotoolbox::simulator::{Fault, Simulator, SimulatorApi};
use videotoolbox::{Admission, Limits, VideoToolbox};

/// Number of pictures in a stream.
const PICTURES: u64 = 60;
/// Largest number of pictures in flight.
const IN_FLIGHT: u64 = 3;
/// Largest mean error of luma, of 255, by lossy coding; a picture with another number has 40.
const MAX_ERROR: f64 = 6.0;

fn picture(number: u64) -> Picture {
    let (width, height) = SIZE;
    let mut data = vec![0; PixelFormat::Nv12.bytes(width, height)];
    numbered::draw(number as u32, &mut data, width, height, width, PixelFormat::Nv12).expect("fits");
    Picture { format: PixelFormat::Nv12, width, height, stride: width, data: data.into() }
}

/// Longest wait for an outcome.
const TIMEOUT: Duration = Duration::from_mins(1);

type Outcome = Result<Output, (u64, EncodeError)>;

/// Encodes pictures 1 to `PICTURES` with faults. Returns the access units and the number of sessions.
fn encode(script: impl IntoIterator<Item = (u64, Fault)>) -> (Vec<Output>, usize) {
    let simulator = Simulator::new(script);
    let outcomes: Arc<Mutex<Vec<Outcome>>> = Arc::default();
    let collected = Arc::clone(&outcomes);
    let sink: Sink = Box::new(move |outcome| collected.lock().push(outcome));
    let admission = Arc::new(Admission::new(Limits::default()));
    let api = Arc::new(SimulatorApi(Arc::clone(&simulator)));
    let mut encoder = VideoToolbox::new(api, &admission, SETTINGS, sink).expect("opens");
    for number in 1..=PICTURES {
        encoder.submit(&picture(number), number, number * 16_667, false).expect("accepted");
        // As in the host-agent, only a few pictures are in flight.
        let end = Instant::now() + TIMEOUT;
        let count = || outcomes.lock().len() as u64;
        while count() + IN_FLIGHT < number {
            assert!(Instant::now() < end, "{} of {number} pictures have an outcome", count());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    drop(encoder);
    let outcomes = std::mem::take(&mut *outcomes.lock());
    assert_eq!(outcomes.len() as u64, PICTURES, "one outcome per picture");
    (outcomes.into_iter().flatten().collect(), simulator.sessions_created())
}

/// Checks that every access unit decodes to a picture with its number and the right brightness.
fn check_decoded(outputs: &[Output]) {
    let lumas = decode::lumas(outputs);
    assert_eq!(lumas.len(), outputs.len(), "every access unit decodes to a picture");
    for (luma, output) in lumas.iter().zip(outputs) {
        let (width, height) = (luma.width, luma.height);
        let number = numbered::read_number(&luma.bytes, width, height, width, PixelFormat::Nv12);
        assert_eq!(number, Ok(output.ticket as u32));
        let drawn = picture(output.ticket).data;
        let error: u64 =
            luma.bytes.iter().zip(&drawn[..]).map(|(have, want)| u64::from(have.abs_diff(*want))).sum();
        let error = error as f64 / luma.bytes.len() as f64;
        assert!(error < MAX_ERROR, "picture {}: mean error {error}", output.ticket);
    }
}

#[test]
fn session_invalidated_on_submission_leaves_a_decodable_stream() {
    let (outputs, sessions) = encode([(20, Fault::Invalidated), (40, Fault::Invalidated)]);
    assert_eq!(sessions, 3);
    assert!(outputs.len() as u64 >= PICTURES - 16, "{} of {PICTURES} pictures", outputs.len());
    check_decoded(&outputs);
}

#[test]
fn session_invalidated_in_a_callback_costs_pictures_in_flight_only() {
    let (outputs, sessions) =
        encode([(20, Fault::Late(Duration::from_millis(60))), (23, Fault::Failed(Status::INVALID_SESSION))]);
    assert!(sessions >= 2 && (outputs.len() as u64) < PICTURES);
    check_decoded(&outputs);
}

#[test]
fn end_of_the_encoder_service_leaves_a_decodable_stream() {
    let (outputs, sessions) = encode([(30, Fault::Failed(Status::MALFUNCTION))]);
    assert!(sessions >= 1);
    check_decoded(&outputs);
}

/// Writes the stream to a file: for each access unit its number and its length, `u32` in little-endian, and
/// its bytes.
#[test]
fn stream_with_all_faults_decodes_and_is_written_for_the_browser() {
    let (outputs, sessions) = encode([
        (5, Fault::Dropped),
        (12, Fault::Invalidated),
        (18, Fault::Reordered),
        (25, Fault::Failed(Status::INVALID_SESSION)),
        (33, Fault::Truncated),
        (41, Fault::DeliveredTwice),
        (47, Fault::IdrIgnored),
        (52, Fault::Invalidated),
    ]);
    assert!(sessions >= 4, "{sessions} sessions");
    check_decoded(&outputs);
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
