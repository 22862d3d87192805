//! The contract that every encoder is held to, over the simulator.

use std::sync::{Arc, OnceLock};

use contract::{Subject, contract};
use encode::{EncodeError, Encoder, Settings, Sink};
use videotoolbox::simulator::{Handle, Simulator};
use videotoolbox::{Admission, Limits, VideoToolbox};

fn open(settings: Settings, sink: Sink) -> Result<Box<dyn Encoder>, EncodeError> {
    static ADMISSION: OnceLock<Arc<Admission>> = OnceLock::new();
    // The tests run beside each other; a Mac's limits are admission's own tests.
    let limits = Limits { overbooking: 1000, bytes: u64::MAX };
    let admission = ADMISSION.get_or_init(|| Arc::new(Admission::new(limits)));
    Ok(Box::new(VideoToolbox::new(Arc::new(Handle(Simulator::new([]))), admission, settings, sink)?))
}

const SIMULATED: Subject = Subject { hevc: true, ..Subject::new("videotoolbox, simulated", open) };

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
