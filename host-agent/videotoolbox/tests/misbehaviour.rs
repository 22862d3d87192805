//! What VideoToolbox has been seen to do to others, done to us: every picture still has one outcome, in order, and what
//! comes out decodes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use encode_testkit::{SETTINGS, SIZE, decode, pictures};
use encode::{EncodeError, Encoder as _, Output, Sink, annexb};
use videotoolbox::api::Status;
use videotoolbox::simulator::{Fault, Handle, Simulator};
use videotoolbox::{Admission, Limits, VideoToolbox};

type Outcome = Result<Output, (u64, EncodeError)>;

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
        let sink: Sink =
            Box::new(move |outcome| collected.lock().unwrap_or_else(PoisonError::into_inner).push(outcome));
        let admission = Arc::new(Admission::new(Limits::default()));
        let api = Arc::new(Handle(Arc::clone(&simulator)));
        let encoder = VideoToolbox::new(api, &admission, SETTINGS, sink).expect("opens");
        Self { simulator, encoder, outcomes, pushed: 0 }
    }

    /// Picture `n` has number `n`, counted from 1, as long as none is submitted twice.
    fn push(&mut self, idr: bool) -> Result<(), EncodeError> {
        self.pushed += 1;
        let picture = pictures::moving(self.pushed, SIZE);
        self.encoder.submit(&picture, self.pushed, self.pushed * 16_667, idr)
    }

    fn push_all(&mut self, count: u64) {
        for _ in 0..count {
            self.push(false).expect("taken");
        }
    }

    /// One by one: the outcome of each is known when the next is submitted. An IDR is asked for at picture `idr`, if any.
    fn push_each(&mut self, count: u64, idr: Option<u64>) -> Vec<Outcome> {
        for number in 1..=count {
            self.push(idr == Some(number)).expect("taken");
            self.settled();
        }
        self.settled()
    }

    /// What became of all pictures so far.
    fn settled(&self) -> Vec<Outcome> {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let outcomes = self.outcomes.lock().expect("not poisoned").clone();
            if outcomes.len() as u64 >= self.pushed {
                return outcomes;
            }
            assert!(Instant::now() < until, "{} of {} pictures have an outcome", outcomes.len(), self.pushed);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn ticket(outcome: &Outcome) -> u64 {
    outcome.as_ref().map_or_else(|failed| failed.0, |output| output.ticket)
}

/// One outcome each, in order; the failed ones are these; what came decodes picture for picture.
fn holds(outcomes: &[Outcome], failed: &[u64]) {
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
    // Decoded pictures are those that were encoded: x264 without a reference that it thinks we have would drift.
    for (seen, output) in decode::means(encode::Codec::H264, &outputs).iter().zip(&outputs) {
        let want = mean_luma(output.ticket);
        assert!((seen.yuv[0] - want).abs() < 4.0, "picture {}: {} is not {want}", output.ticket, seen.yuv[0]);
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
fn late_callbacks_keep_the_order() {
    let mut rig = Rig::new([(2, Fault::Late(Duration::from_millis(1500)))]);
    rig.push_all(6);
    assert!(rig.outcomes.lock().expect("not poisoned").len() < 6, "they came while the caller went on");
    holds(&rig.settled(), &[]);
}

#[test]
fn callbacks_out_of_order_are_put_in_order() {
    let mut rig = Rig::new([(3, Fault::Overtaken), (7, Fault::Overtaken)]);
    rig.push_all(10);
    holds(&rig.settled(), &[]);
}

#[test]
fn a_dropped_picture_fails_alone() {
    let mut rig = Rig::new([(4, Fault::Dropped)]);
    rig.push_all(8);
    let outcomes = rig.settled();
    holds(&outcomes, &[4]);
    assert_eq!(idrs(&outcomes), [1], "what was never encoded is no reference: no IDR is needed");
}

#[test]
fn a_dropped_keyframe_is_asked_for_again() {
    let mut rig = Rig::new([(1, Fault::Dropped), (5, Fault::Dropped)]);
    let outcomes = rig.push_each(8, Some(5));
    holds(&outcomes, &[1, 5]);
    assert_eq!(idrs(&outcomes), [2, 6]);
}

#[test]
fn an_error_costs_its_picture_and_an_idr() {
    let mut rig = Rig::new([(3, Fault::Failed(Status(-12912)))]);
    let outcomes = rig.push_each(6, None);
    holds(&outcomes, &[3]);
    assert_eq!(idrs(&outcomes), [1, 4]);
    assert_eq!(rig.simulator.made(), 1, "the session lives on");
}

#[test]
fn an_invalid_session_is_made_anew_with_an_idr_and_its_rate() {
    let mut rig = Rig::new([(5, Fault::Invalidated)]);
    rig.encoder.set_rate(600, 30).expect("taken");
    let outcomes = rig.push_each(10, None);
    // The picture that found out is encoded by the new session: nothing is lost.
    holds(&outcomes, &[]);
    assert_eq!(idrs(&outcomes), [1, 5]);
    for output in outcomes.iter().flatten().filter(|output| output.idr) {
        assert!(annexb::is_entry_point(&output.data));
    }
    assert_eq!((rig.encoder.rebuilt(), rig.simulator.made(), rig.simulator.sessions()), (1, 2, 1));
}

#[test]
fn a_session_lost_with_pictures_under_way_fails_those() {
    let mut rig = Rig::new([(2, Fault::Late(Duration::from_millis(200))), (5, Fault::Invalidated)]);
    rig.push_all(10);
    let outcomes = rig.settled();
    let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.is_err()).map(ticket).collect();
    assert!(failed.iter().all(|number| (2..5).contains(number)), "{failed:?}");
    holds(&outcomes, &failed);
    assert!(idrs(&outcomes).contains(&5));
}

#[test]
fn a_session_whose_callback_says_invalid_is_made_anew() {
    let mut rig = Rig::new([(3, Fault::Failed(Status::INVALID_SESSION))]);
    let outcomes = rig.push_each(6, None);
    holds(&outcomes, &[3]);
    assert_eq!((idrs(&outcomes), rig.simulator.made()), (vec![1, 4], 2));
}

#[test]
fn a_rate_survives_an_invalid_session() {
    let mut rig = Rig::new([(2, Fault::Invalidated)]);
    rig.push_all(1);
    rig.encoder.set_rate(900, 60).expect("taken");
    rig.push_all(1);
    rig.encoder.set_rate(800, 60).expect("taken by the new session");
    holds(&rig.settled(), &[]);
}

#[test]
fn missing_parameter_sets_are_the_last_known_ones() {
    let mut rig = Rig::new([(4, Fault::NoParameterSets)]);
    let outcomes = rig.push_each(6, Some(4));
    holds(&outcomes, &[]);
    assert!(outcomes[3].as_ref().is_ok_and(|output| annexb::is_entry_point(&output.data)));
}

#[test]
fn a_first_keyframe_without_parameter_sets_is_of_no_use() {
    let mut rig = Rig::new([(1, Fault::NoParameterSets)]);
    let outcomes = rig.push_each(4, None);
    holds(&outcomes, &[1]);
    assert_eq!(idrs(&outcomes), [2]);
}

#[test]
fn a_second_callback_is_counted_and_forgotten() {
    let mut rig = Rig::new([(2, Fault::Twice), (5, Fault::Twice)]);
    rig.push_all(8);
    holds(&rig.settled(), &[]);
    assert_eq!(rig.encoder.strays(), 2);
}

#[test]
fn callbacks_of_a_session_long_gone_are_harmless() {
    let mut rig = Rig::new([(2, Fault::Haunting), (4, Fault::Invalidated), (6, Fault::Haunting)]);
    rig.push_all(3);
    rig.settled();
    rig.push_all(5);
    holds(&rig.settled(), &[]);
    assert_eq!(rig.simulator.haunt(), 2);
    assert_eq!(rig.settled().len(), 8, "neither was taken for a picture");
    let Rig { simulator, encoder, outcomes, .. } = rig;
    drop(encoder);
    assert_eq!(Arc::strong_count(&outcomes), 1, "the sink is gone with the encoder");
    assert_eq!((simulator.haunt(), simulator.sessions()), (0, 0));
}

#[test]
fn an_access_unit_that_is_cut_off_is_refused_and_an_idr_follows() {
    let mut rig = Rig::new([(3, Fault::Cut)]);
    let outcomes = rig.push_each(6, None);
    holds(&outcomes, &[3]);
    assert_eq!(idrs(&outcomes), [1, 4]);
}

#[test]
fn an_idr_that_did_not_come_is_asked_for_again() {
    let mut rig = Rig::new([(3, Fault::NoIdr)]);
    let outcomes = rig.push_each(6, Some(3));
    holds(&outcomes, &[]);
    assert_eq!(idrs(&outcomes), [1, 4]);
}

#[test]
fn an_encoder_that_fails_on_and_on_says_so() {
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
    let refused = refused.expect("it gives up");
    assert!(refused.to_string().contains("10 pictures failed in a row"), "{refused}");
}

#[test]
fn no_session_is_said_clearly() {
    let simulator = Simulator::new([]);
    let admission = Arc::new(Admission::new(Limits::default()));
    let open = || {
        let api = Arc::new(Handle(Arc::clone(&simulator)));
        VideoToolbox::new(api, &admission, SETTINGS, Box::new(|_| {}))
    };
    simulator.refuse(Some(Status::NO_ENCODER));
    let refused = open().expect_err("no encoder");
    assert!(matches!(&refused, EncodeError::Unsupported(text) if text.contains("320 x 240")), "{refused}");
    simulator.refuse(Some(Status::NOT_NOW));
    let refused = open().expect_err("taken");
    assert!(matches!(&refused, EncodeError::Broken(text) if text.contains("-12915")), "{refused}");
    assert_eq!(admission.taken().0, 0, "what never was takes no place");
    simulator.refuse(None);
    let encoder = open().expect("can again");
    assert_eq!(admission.taken().0, 1);
    drop(encoder);
    assert_eq!(admission.taken().0, 0);
}

#[test]
fn a_lost_session_that_cannot_be_replaced_is_an_error_until_it_can() {
    let mut rig = Rig::new([(2, Fault::Invalidated)]);
    rig.push_all(1);
    rig.settled();
    rig.simulator.refuse(Some(Status::NOT_NOW));
    assert!(matches!(rig.push(false), Err(EncodeError::Broken(_))));
    rig.simulator.refuse(None);
    rig.push(false).expect("there is one again");
    rig.pushed = 2;
    let outcomes = rig.settled();
    assert!(outcomes[1].as_ref().is_ok_and(|output| output.idr && output.ticket == 3));
}

#[test]
fn teardown_with_pictures_under_way_delivers_them_and_no_more() {
    for late in [0, 5, 50] {
        let script = (1..=8).map(|number| (number, Fault::Late(Duration::from_millis(late))));
        let mut rig = Rig::new(script);
        rig.push_all(5);
        let Rig { simulator, encoder, outcomes, .. } = rig;
        drop(encoder);
        assert_eq!((Arc::strong_count(&outcomes), simulator.sessions()), (1, 0));
        holds(&outcomes.lock().expect("not poisoned"), &[]);
        assert_eq!(outcomes.lock().expect("not poisoned").len(), 5);
    }
}
