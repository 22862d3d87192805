//! Conformance of the VideoToolbox encoder on the simulator.

use std::sync::{Arc, OnceLock, mpsc};

use encode::{Codec, EncodeError, Encoder, Settings, Sink};
use encode_testkit::{Subject, byte_stream, conformance_tests, decode};
use videotoolbox::simulator::{Fault, Simulator, SimulatorApi};
use videotoolbox::{Admission, Limits, VideoToolbox};

fn open_on(
    simulator: Arc<Simulator>,
    settings: Settings,
    sink: Sink,
) -> Result<Box<dyn Encoder>, EncodeError> {
    static ADMISSION: OnceLock<Arc<Admission>> = OnceLock::new();
    // The tests run concurrently; the limits of a Mac are tested in `admission`.
    let limits = Limits { overbooking: 1000, bytes: u64::MAX };
    let admission = ADMISSION.get_or_init(|| Arc::new(Admission::new(limits)));
    Ok(Box::new(VideoToolbox::new(Arc::new(SimulatorApi(simulator)), admission, settings, sink)?))
}

const H264: Subject = Subject {
    supports_hevc: true,
    ..Subject::new("simulated VideoToolbox", |settings, sink| open_on(Simulator::new([]), settings, sink))
};
const HEVC: Subject = Subject {
    supports_hevc: true,
    codec: Codec::Hevc,
    ..Subject::new("simulated VideoToolbox with HEVC", |settings, sink| {
        open_on(Simulator::with(encode_testkit::x265::open, []), settings, sink)
    })
};

conformance_tests!(
    h264,
    crate::H264,
    every_picture_gives_one_access_unit_in_order,
    first_access_unit_is_an_entry_point,
    idr_is_made_on_request,
    keyframe_interval_is_measured_in_time,
    rate_change_needs_no_idr,
    invalid_picture_is_refused_without_effect,
    picture_memory_is_released,
    drop_is_prompt_and_final,
    odd_size_is_encoded,
    colours_are_preserved,
);

conformance_tests!(
    hevc,
    crate::HEVC,
    every_picture_gives_one_access_unit_in_order,
    first_access_unit_is_an_entry_point,
    idr_is_made_on_request,
    keyframe_interval_is_measured_in_time,
    invalid_picture_is_refused_without_effect,
    picture_memory_is_released,
    drop_is_prompt_and_final,
    odd_size_is_encoded,
    colours_are_preserved,
);

#[test]
fn replaced_hevc_session_starts_with_parameter_sets() {
    let settings = HEVC.settings();
    let (got, outputs) = mpsc::channel();
    let sink: Sink = Box::new(move |outcome| got.send(outcome).expect("received"));
    let simulator =
        Simulator::with(encode_testkit::x265::open, [(4, Fault::Invalidated), (9, Fault::NoParameterSets)]);
    let mut encoder = open_on(Arc::clone(&simulator), settings, sink).expect("opens");
    let mut outcomes = Vec::new();
    for number in 0..12u64 {
        let picture = encode_testkit::pictures::moving(number, encode_testkit::SIZE);
        // The IDR whose format description is empty uses the previous parameter sets.
        encoder.submit(&picture, number, number * 16_667, number == 7).expect("accepted");
        outcomes.push(outputs.recv().expect("an outcome"));
    }
    drop(encoder);
    assert_eq!(outputs.iter().count(), 0, "one outcome per picture");
    let encoded: Vec<_> = outcomes.into_iter().map(|outcome| outcome.expect("no picture fails")).collect();
    let idrs: Vec<_> = encoded.iter().filter(|output| output.idr).map(|output| output.ticket).collect();
    assert_eq!(simulator.sessions_created(), 2);
    assert_eq!(idrs, [0, 3, 7], "the first, the new session's first, and the requested one");
    for output in &encoded {
        let entry_point = byte_stream::is_entry_point(Codec::Hevc, &output.data);
        assert_eq!(entry_point, output.idr, "picture {}", output.ticket);
    }
    assert_eq!(decode::means(Codec::Hevc, &encoded).len(), encoded.len(), "every access unit decodes");
}
