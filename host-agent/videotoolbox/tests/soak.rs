//! Ten thousand pictures with all faults: one outcome each, and nothing is left. Once with x264; and once with no encoder
//! behind the simulator, so that valgrind can watch every byte of ours in a minute: `./x test macos` has it do so.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use encode_testkit::SETTINGS;
use encode::{Choice, Encoder as _, Picture, PixelFormat, Settings, Sink, open};
use videotoolbox::api::Status;
use videotoolbox::simulator::{Fault, Handle, Open, Simulator};
use videotoolbox::{Admission, Limits, VideoToolbox};

const PICTURES: u64 = 10_000;
const FAULTS: [Fault; 9] = [
    Fault::Overtaken,
    Fault::Dropped,
    Fault::Failed(Status(-12912)),
    Fault::Invalidated,
    Fault::NoParameterSets,
    Fault::Twice,
    Fault::Haunting,
    Fault::Cut,
    Fault::NoIdr,
];

fn ten_thousand(coder: Open) {
    let faulty = (1..PICTURES).filter(|number| number % 97 == 0);
    let script = faulty.map(|number| (number, FAULTS[(number / 97) as usize % FAULTS.len()]));
    let simulator = Simulator::with(coder, script);
    let (width, height) = (64, 48);
    let outcomes: Arc<Mutex<Vec<u64>>> = Arc::default();
    let collected = Arc::clone(&outcomes);
    let sink: Sink = Box::new(move |outcome| {
        let ticket = outcome.map_or_else(|failed| failed.0, |output| output.ticket);
        collected.lock().unwrap_or_else(PoisonError::into_inner).push(ticket);
    });
    let admission = Arc::new(Admission::new(Limits::default()));
    let api = Arc::new(Handle(Arc::clone(&simulator)));
    let settings = Settings { width, height, ..SETTINGS };
    let mut encoder = VideoToolbox::new(api, &admission, settings, sink).expect("opens");
    let data = Bytes::from(vec![90; PixelFormat::Nv12.bytes(width, height)]);
    let picture = Picture { format: PixelFormat::Nv12, width, height, stride: width, data };
    for number in 1..=PICTURES {
        encoder.submit(&picture, number, number * 16_667, number % 500 == 0).expect("taken");
    }
    assert!(encoder.rebuilt() >= 10, "{} sessions were lost", encoder.rebuilt());
    drop(encoder);
    assert_eq!(*outcomes.lock().expect("not poisoned"), (1..=PICTURES).collect::<Vec<_>>());
    // What haunts holds no picture, but its session's callback.
    simulator.haunt();
    assert!(picture.data.is_unique(), "somebody still holds a picture");
    assert_eq!((Arc::strong_count(&outcomes), simulator.sessions()), (1, 0));
}

#[test]
fn with_x264() {
    ten_thousand(|settings, sink| open(&Choice::Element("x264enc"), settings, sink));
}

/// What watches the other test must find this.
#[test]
#[ignore = "leaks on purpose; `./x test macos` sees valgrind say so"]
fn a_leak() {
    std::mem::forget(std::hint::black_box(vec![7u8; 4096]));
}

#[test]
fn without_an_encoder() {
    ten_thousand(|settings, sink| open(&Choice::Null, settings, sink));
}
