//! Ten thousand pictures with all faults: one outcome per picture, and no leak. With x264, and with the null
//! encoder, which is fast enough for valgrind (`./x test macos`).

use std::sync::Arc;

use bytes::Bytes;
use encode::{Choice, Encoder as _, Picture, PixelFormat, Settings, Sink, open};
use encode_testkit::SETTINGS;
use parking_lot::Mutex;
use videotoolbox::api::Status;
use videotoolbox::simulator::{Fault, Open, Simulator, SimulatorApi};
use videotoolbox::{Admission, Limits, VideoToolbox};

const PICTURES: u64 = 10_000;
const FAULTS: [Fault; 9] = [
    Fault::Reordered,
    Fault::Dropped,
    Fault::Failed(Status(-12912)),
    Fault::Invalidated,
    Fault::NoParameterSets,
    Fault::DeliveredTwice,
    Fault::DeliveredLater,
    Fault::Truncated,
    Fault::IdrIgnored,
];

fn encode_all(open: Open) {
    let faulty = (1..PICTURES).filter(|number| number % 97 == 0);
    let script = faulty.map(|number| (number, FAULTS[(number / 97) as usize % FAULTS.len()]));
    let simulator = Simulator::with(open, script);
    let (width, height) = (64, 48);
    let outcomes: Arc<Mutex<Vec<u64>>> = Arc::default();
    let collected = Arc::clone(&outcomes);
    let sink: Sink = Box::new(move |outcome| {
        let ticket = outcome.map_or_else(|failed| failed.0, |output| output.ticket);
        collected.lock().push(ticket);
    });
    let admission = Arc::new(Admission::new(Limits::default()));
    let api = Arc::new(SimulatorApi(Arc::clone(&simulator)));
    let settings = Settings { width, height, ..SETTINGS };
    let mut encoder = VideoToolbox::new(api, &admission, settings, sink).expect("opens");
    let data = Bytes::from(vec![90; PixelFormat::Nv12.bytes(width, height)]);
    let picture = Picture { format: PixelFormat::Nv12, width, height, stride: width, data };
    for number in 1..=PICTURES {
        encoder.submit(&picture, number, number * 16_667, number % 500 == 0).expect("accepted");
    }
    assert!(encoder.sessions_replaced() >= 10, "{} sessions were replaced", encoder.sessions_replaced());
    drop(encoder);
    assert_eq!(*outcomes.lock(), (1..=PICTURES).collect::<Vec<_>>());
    // Repeated deliveries hold their session's callback.
    simulator.redeliver();
    assert!(picture.data.is_unique(), "all pictures were released");
    assert_eq!((Arc::strong_count(&outcomes), simulator.sessions()), (1, 0));
}

#[test]
fn soak_with_x264_loses_and_leaks_nothing() {
    encode_all(|settings, sink| open(&Choice::Element("x264enc"), settings, sink));
}

/// Valgrind must report this leak, or its verdict on the other test is worth nothing.
#[test]
#[ignore = "leaks on purpose; `./x test macos` runs it in valgrind"]
fn deliberate_leak_is_found_by_valgrind() {
    std::mem::forget(std::hint::black_box(vec![7u8; 4096]));
}

#[test]
fn soak_without_encoder_loses_and_leaks_nothing() {
    encode_all(|settings, sink| open(&Choice::Null, settings, sink));
}
