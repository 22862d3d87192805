//! Faults of VideoToolbox that other projects have reported: every picture has one outcome, in order, and all
//! access units decode.

use std::sync::Arc;
use std::time::{Duration, Instant};

use encode::{EncodeError, Encoder as _, Output, Sink, annexb};
use encode_testkit::{SETTINGS, SIZE, decode, pictures};
use parking_lot::Mutex;
use videotoolbox::api::Status;
use videotoolbox::simulator::{Fault, Simulator, SimulatorApi};
use videotoolbox::{Admission, Limits, VideoToolbox};

/// Longest wait for an outcome.
const TIMEOUT: Duration = Duration::from_mins(1);

type Outcome = Result<Output, (u64, EncodeError)>;

/// An encoder on a simulator, and the outcomes of its pictures.
struct Rig {
    simulator: Arc<Simulator>,
    encoder: VideoToolbox,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    pushed: u64,
}

impl Rig {
    fn new(script: impl IntoIterator<Item = (u64, Fault)>) -> Self {
        let simulator = Simulator::new(script);
        let outcomes: Arc<Mutex<Vec<Outcome>>> = Arc::default();
        let collected = Arc::clone(&outcomes);
        let sink: Sink = Box::new(move |outcome| collected.lock().push(outcome));
        let admission = Arc::new(Admission::new(Limits::default()));
        let api = Arc::new(SimulatorApi(Arc::clone(&simulator)));
        let encoder = VideoToolbox::new(api, &admission, SETTINGS, sink).expect("opens");
        Self { simulator, encoder, outcomes, pushed: 0 }
    }

    /// Submits the next picture. Its ticket is its number in the session's callbacks, counted from 1, unless a
    /// picture was submitted twice.
    fn push(&mut self, idr: bool) -> Result<(), EncodeError> {
        self.pushed += 1;
        let picture = pictures::moving(self.pushed, SIZE);
        self.encoder.submit(&picture, self.pushed, self.pushed * 16_667, idr)
    }

    fn push_all(&mut self, count: u64) {
        for _ in 0..count {
            self.push(false).expect("accepted");
        }
    }

    /// Submits pictures, and waits for the outcome of each before the next. Picture `idr` is requested as an
    /// IDR.
    fn push_each(&mut self, count: u64, idr: Option<u64>) -> Vec<Outcome> {
        for number in 1..=count {
            self.push(idr == Some(number)).expect("accepted");
            self.settled();
        }
        self.settled()
    }

    /// Waits for the outcomes of all submitted pictures.
    fn settled(&self) -> Vec<Outcome> {
        let end = Instant::now() + TIMEOUT;
        loop {
            let outcomes = self.outcomes.lock().clone();
            if outcomes.len() as u64 >= self.pushed {
                return outcomes;
            }
            assert!(Instant::now() < end, "{} of {} pictures have an outcome", outcomes.len(), self.pushed);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn ticket(outcome: &Outcome) -> u64 {
    outcome.as_ref().map_or_else(|failed| failed.0, |output| output.ticket)
}

/// Checks that every picture has one outcome in order, that exactly those in `failed` failed, and that the
/// others decode to what was encoded.
fn check_outcomes(outcomes: &[Outcome], failed: &[u64]) {
    let tickets: Vec<_> = outcomes.iter().map(ticket).collect();
    assert_eq!(tickets, (1..=outcomes.len() as u64).collect::<Vec<_>>(), "one outcome each, in order");
    let found: Vec<_> = outcomes.iter().filter(|outcome| outcome.is_err()).map(ticket).collect();
    assert_eq!(found, failed);
    let outputs: Vec<_> = outcomes.iter().flatten().cloned().collect();
    assert_eq!(
        decode::means(encode::Codec::H264, &outputs).len(),
        outputs.len(),
        "every access unit decodes"
    );
    // A picture that refers to a missing one would differ in brightness.
    for (mean, output) in decode::means(encode::Codec::H264, &outputs).iter().zip(&outputs) {
        let want = mean_luma(output.ticket);
        assert!((mean.yuv[0] - want).abs() < 4.0, "picture {}: {}, not {want}", output.ticket, mean.yuv[0]);
    }
}

fn mean_luma(number: u64) -> f64 {
    let picture = pictures::moving(number, SIZE);
    let sum: f64 = picture
        .data
        .chunks_exact(4)
        .map(|pixel| encode_testkit::decode::bt709([pixel[2], pixel[1], pixel[0]])[0])
        .sum();
    sum / f64::from(SIZE.0 * SIZE.1)
}

fn idrs(outcomes: &[Outcome]) -> Vec<u64> {
    outcomes.iter().flatten().filter(|output| output.idr).map(|output| output.ticket).collect()
}

#[test]
fn late_callback_does_not_block_submission_and_keeps_the_order() {
    let mut rig = Rig::new([(2, Fault::Held)]);
    rig.push_all(6);
    assert!(rig.outcomes.lock().len() < 2, "picture 2 is held, and all were accepted");
    rig.simulator.release();
    check_outcomes(&rig.settled(), &[]);
}

#[test]
fn reordered_callbacks_are_put_in_order() {
    let mut rig = Rig::new([(3, Fault::Reordered), (7, Fault::Reordered)]);
    rig.push_all(10);
    check_outcomes(&rig.settled(), &[]);
}

#[test]
fn skipped_picture_fails_alone() {
    let mut rig = Rig::new([(4, Fault::Dropped)]);
    rig.push_all(8);
    let outcomes = rig.settled();
    check_outcomes(&outcomes, &[4]);
    assert_eq!(idrs(&outcomes), [1], "no picture refers to a skipped one, so no IDR is needed");
}

#[test]
fn skipped_keyframe_is_requested_again() {
    let mut rig = Rig::new([(1, Fault::Dropped), (5, Fault::Dropped)]);
    let outcomes = rig.push_each(8, Some(5));
    check_outcomes(&outcomes, &[1, 5]);
    assert_eq!(idrs(&outcomes), [2, 6]);
}

#[test]
fn failed_picture_is_followed_by_an_idr() {
    let mut rig = Rig::new([(3, Fault::Failed(Status(-12912)))]);
    let outcomes = rig.push_each(6, None);
    check_outcomes(&outcomes, &[3]);
    assert_eq!(idrs(&outcomes), [1, 4]);
    assert_eq!(rig.simulator.sessions_created(), 1, "the session continues");
}

#[test]
fn invalidated_session_is_replaced_with_an_idr_and_the_same_rate() {
    let mut rig = Rig::new([(5, Fault::Invalidated)]);
    rig.encoder.set_rate(600, 30).expect("accepted");
    let outcomes = rig.push_each(10, None);
    // The picture whose submission failed is encoded by the new session: none is lost.
    check_outcomes(&outcomes, &[]);
    assert_eq!(idrs(&outcomes), [1, 5]);
    for output in outcomes.iter().flatten().filter(|output| output.idr) {
        assert!(annexb::is_entry_point(&output.data));
    }
    assert_eq!(
        (rig.encoder.sessions_replaced(), rig.simulator.sessions_created(), rig.simulator.sessions()),
        (1, 2, 1)
    );
}

#[test]
fn invalidated_session_fails_its_pictures_in_flight() {
    let mut rig = Rig::new([(2, Fault::Held), (5, Fault::Invalidated)]);
    rig.push_all(4);
    rig.simulator.await_held();
    // Picture 2 is encoded and not delivered; 3 and 4 wait for the encoder.
    rig.push_all(6);
    let outcomes = rig.settled();
    check_outcomes(&outcomes, &[3, 4]);
    assert_eq!(idrs(&outcomes), [1, 5]);
}

#[test]
fn session_reported_invalid_by_a_callback_is_replaced() {
    let mut rig = Rig::new([(3, Fault::Failed(Status::INVALID_SESSION))]);
    let outcomes = rig.push_each(6, None);
    check_outcomes(&outcomes, &[3]);
    assert_eq!((idrs(&outcomes), rig.simulator.sessions_created()), (vec![1, 4], 2));
}

#[test]
fn rate_is_kept_by_a_replaced_session() {
    let mut rig = Rig::new([(2, Fault::Invalidated)]);
    rig.push_each(1, None);
    rig.encoder.set_rate(900, 60).expect("accepted");
    rig.push_all(1);
    rig.encoder.set_rate(800, 60).expect("accepted by the new session");
    check_outcomes(&rig.settled(), &[]);
}

#[test]
fn missing_parameter_sets_are_replaced_by_the_last_ones() {
    let mut rig = Rig::new([(4, Fault::NoParameterSets)]);
    let outcomes = rig.push_each(6, Some(4));
    check_outcomes(&outcomes, &[]);
    assert!(outcomes[3].as_ref().is_ok_and(|output| annexb::is_entry_point(&output.data)));
}

#[test]
fn first_keyframe_without_parameter_sets_fails() {
    let mut rig = Rig::new([(1, Fault::NoParameterSets)]);
    let outcomes = rig.push_each(4, None);
    check_outcomes(&outcomes, &[1]);
    assert_eq!(idrs(&outcomes), [2]);
}

#[test]
fn second_callback_is_counted_and_ignored() {
    let mut rig = Rig::new([(2, Fault::DeliveredTwice), (5, Fault::DeliveredTwice)]);
    rig.push_all(8);
    check_outcomes(&rig.settled(), &[]);
    assert_eq!(rig.encoder.unmatched_deliveries(), 2);
}

#[test]
fn callback_of_an_earlier_session_is_ignored() {
    let mut rig = Rig::new([(2, Fault::DeliveredLater), (4, Fault::Invalidated), (6, Fault::DeliveredLater)]);
    rig.push_all(3);
    rig.settled();
    rig.push_all(5);
    check_outcomes(&rig.settled(), &[]);
    assert_eq!(rig.simulator.redeliver(), 2);
    assert_eq!(rig.settled().len(), 8, "neither counts as a picture");
    let Rig { simulator, encoder, outcomes, .. } = rig;
    drop(encoder);
    assert_eq!(Arc::strong_count(&outcomes), 1, "the encoder dropped its sink");
    assert_eq!((simulator.redeliver(), simulator.sessions()), (0, 0));
}

#[test]
fn truncated_access_unit_fails_and_an_idr_follows() {
    let mut rig = Rig::new([(3, Fault::Truncated)]);
    let outcomes = rig.push_each(6, None);
    check_outcomes(&outcomes, &[3]);
    assert_eq!(idrs(&outcomes), [1, 4]);
}

#[test]
fn ignored_idr_is_requested_again() {
    let mut rig = Rig::new([(3, Fault::IdrIgnored)]);
    let outcomes = rig.push_each(6, Some(3));
    check_outcomes(&outcomes, &[]);
    assert_eq!(idrs(&outcomes), [1, 4]);
}

#[test]
fn encoder_gives_up_after_ten_failures_in_a_row() {
    let mut rig = Rig::new((1..100).map(|number| (number, Fault::Failed(Status(-12912)))));
    let mut refused = None;
    for _ in 0..50 {
        if let Err(error) = rig.push(false) {
            rig.pushed -= 1;
            refused = Some(error);
            break;
        }
        rig.settled();
    }
    let refused = refused.expect("an error");
    assert!(refused.to_string().contains("10 pictures failed in a row"), "{refused}");
}

#[test]
fn refused_session_is_reported_and_reserves_nothing() {
    let simulator = Simulator::new([]);
    let admission = Arc::new(Admission::new(Limits::default()));
    let open = || {
        let api = Arc::new(SimulatorApi(Arc::clone(&simulator)));
        VideoToolbox::new(api, &admission, SETTINGS, Box::new(|_| {}))
    };
    simulator.refuse_sessions(Some(Status::NO_ENCODER));
    let refused = open().expect_err("no encoder");
    assert!(matches!(&refused, EncodeError::Unsupported(text) if text.contains("320 x 240")), "{refused}");
    simulator.refuse_sessions(Some(Status::NOT_NOW));
    let refused = open().expect_err("in use");
    assert!(matches!(&refused, EncodeError::Broken(text) if text.contains("-12915")), "{refused}");
    assert_eq!(admission.total().streams, 0, "a failed session reserves nothing");
    simulator.refuse_sessions(None);
    let encoder = open().expect("opens again");
    assert_eq!(admission.total().streams, 1);
    drop(encoder);
    assert_eq!(admission.total().streams, 0);
}

#[test]
fn lost_session_is_an_error_until_it_can_be_replaced() {
    let mut rig = Rig::new([(2, Fault::Invalidated)]);
    rig.push_all(1);
    rig.settled();
    rig.simulator.refuse_sessions(Some(Status::NOT_NOW));
    assert!(matches!(rig.push(false), Err(EncodeError::Broken(_))));
    rig.simulator.refuse_sessions(None);
    rig.push(false).expect("a new session is possible again");
    rig.pushed = 2;
    let outcomes = rig.settled();
    assert!(outcomes[1].as_ref().is_ok_and(|output| output.idr && output.ticket == 3));
}

#[test]
fn dropped_encoder_delivers_its_pictures_in_flight() {
    for late in [0, 5, 50] {
        let script = (1..=8).map(|number| (number, Fault::Late(Duration::from_millis(late))));
        let mut rig = Rig::new(script);
        rig.push_all(5);
        let Rig { simulator, encoder, outcomes, .. } = rig;
        drop(encoder);
        assert_eq!((Arc::strong_count(&outcomes), simulator.sessions()), (1, 0));
        check_outcomes(&outcomes.lock(), &[]);
        assert_eq!(outcomes.lock().len(), 5);
    }
}
