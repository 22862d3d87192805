//! The contract that every encoder is held to, over the simulator.

use std::sync::{Arc, OnceLock, mpsc};

use encode_testkit::{Subject, contract, decode, stream};
use encode::{Codec, EncodeError, Encoder, Settings, Sink};
use videotoolbox::simulator::{Fault, Handle, Simulator};
use videotoolbox::{Admission, Limits, VideoToolbox};

fn over(simulator: Arc<Simulator>, settings: Settings, sink: Sink) -> Result<Box<dyn Encoder>, EncodeError> {
    static ADMISSION: OnceLock<Arc<Admission>> = OnceLock::new();
    // The tests run beside each other; a Mac's limits are admission's own tests.
    let limits = Limits { overbooking: 1000, bytes: u64::MAX };
    let admission = ADMISSION.get_or_init(|| Arc::new(Admission::new(limits)));
    Ok(Box::new(VideoToolbox::new(Arc::new(Handle(simulator)), admission, settings, sink)?))
}

const SIMULATED: Subject = Subject {
    hevc: true,
    ..Subject::new("videotoolbox, simulated", |settings, sink| over(Simulator::new([]), settings, sink))
};
const HEVC: Subject = Subject {
    hevc: true,
    codec: Codec::Hevc,
    ..Subject::new("videotoolbox, simulated, HEVC", |settings, sink| {
        over(Simulator::with(encode_testkit::hevc::open, []), settings, sink)
    })
};

contract!(
    simulated,
    crate::SIMULATED,
    one_in_one_out_in_order,
    first_is_an_entry_point,
    idr_on_demand,
    keyframe_interval_is_kept_in_time,
    rate_changes_without_an_idr,
    bad_pictures_are_refused_and_harmless,
    picture_memory_is_given_back,
    dropping_is_quick_and_final,
    odd_sizes_work,
    colours_survive,
);

contract!(
    hevc,
    crate::HEVC,
    one_in_one_out_in_order,
    first_is_an_entry_point,
    idr_on_demand,
    keyframe_interval_is_kept_in_time,
    bad_pictures_are_refused_and_harmless,
    picture_memory_is_given_back,
    dropping_is_quick_and_final,
    odd_sizes_work,
    colours_survive,
);

/// A session of HEVC that is lost: the next begins with its parameter sets, and all of it decodes.
#[test]
fn a_lost_session_of_hevc_goes_on_with_its_parameter_sets() {
    let settings = HEVC.settings();
    let (got, outputs) = mpsc::channel();
    let sink: Sink = Box::new(move |outcome| got.send(outcome).expect("listened to"));
    let simulator =
        Simulator::with(encode_testkit::hevc::open, [(4, Fault::Invalidated), (9, Fault::NoParameterSets)]);
    let mut encoder = over(Arc::clone(&simulator), settings, sink).expect("opens");
    for number in 0..12u64 {
        let picture = encode_testkit::pictures::moving(number, encode_testkit::SIZE);
        // An IDR is asked for where its format description will be empty: those of before hold.
        encoder.submit(&picture, number, number * 16_667, number == 7).expect("taken");
    }
    drop(encoder);
    let outcomes: Vec<_> = outputs.iter().collect();
    assert_eq!(outcomes.len(), 12, "one outcome each");
    let good: Vec<_> = outcomes.into_iter().flatten().collect();
    let idrs: Vec<_> = good.iter().filter(|output| output.idr).map(|output| output.ticket).collect();
    assert_eq!(simulator.made(), 2);
    assert!(
        idrs.len() == 3 && idrs[0] == 0 && idrs[2] >= 7,
        "the first, the new session's, the one asked for: {idrs:?}"
    );
    for output in &good {
        assert_eq!(
            stream::is_entry_point(Codec::Hevc, &output.data),
            output.idr,
            "picture {}",
            output.ticket
        );
    }
    assert_eq!(decode::means(Codec::Hevc, &good).len(), good.len(), "every access unit is a picture");
}
