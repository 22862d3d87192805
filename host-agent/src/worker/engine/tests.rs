use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use encode::{Output, Picture, PixelFormat};
use protocol::stream::{Codec, Path};

use super::*;
use crate::waker;

/// What the test's encoder does with a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Act {
    Encode,
    Break,
    Refuse,
    /// Takes it and never gives anything.
    Keep,
}

type Plan = Arc<Mutex<Vec<Act>>>;

/// Does as planned, then encodes.
struct Planned {
    plan: Plan,
    sink: Sink,
    first: bool,
}

impl std::fmt::Debug for Planned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Planned")
    }
}

impl Encoder for Planned {
    fn name(&self) -> &'static str {
        "planned"
    }

    fn submit(&mut self, _: &Picture, ticket: u64, _: u64, idr: bool) -> Result<(), EncodeError> {
        let mut plan = self.plan.lock().expect("not poisoned");
        let act = if plan.is_empty() { Act::Encode } else { plan.remove(0) };
        match act {
            Act::Encode => {
                let first = std::mem::take(&mut self.first);
                let idr = idr || first;
                (self.sink)(Ok(Output { ticket, idr, data: Bytes::from_static(&[1]) }));
                Ok(())
            }
            Act::Break => Err(EncodeError::Broken("as planned".to_owned())),
            Act::Refuse => Err(EncodeError::BadPicture("as planned")),
            Act::Keep => Ok(()),
        }
    }

    fn set_rate(&mut self, _: u32, _: u32) -> Result<(), EncodeError> {
        Ok(())
    }
}

struct Fixture {
    engine: Engine,
    meter: Meter,
    made: Arc<AtomicUsize>,
}

fn fixture(plan: &[Act]) -> Fixture {
    let (waker, _) = waker::pair().expect("a pair");
    let meter = Meter::new(Arc::default());
    let outbox = Arc::new(Outbox::new(waker.clone(), meter.clone()));
    let plan: Plan = Arc::new(Mutex::new(plan.to_vec()));
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let open: Opener = Box::new(move |_, sink| {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Planned { plan: Arc::clone(&plan), sink, first: true }))
    });
    let mut engine = Engine::new(open, outbox, meter.clone(), waker);
    let (format, codec, path) = (PixelFormat::Bgrx, Codec::H264, Path::Pixels);
    let config =
        Config { width: 2, height: 2, format, max_fps: 60, bitrate_kbps: 1, keyframe_ms: 0, codec, path };
    assert_eq!(engine.configure(&config).as_deref(), Ok("planned"));
    Fixture { engine, meter, made }
}

fn fresh() -> Fresh {
    let data = Bytes::from_static(&[0; 16]);
    let picture = Picture { format: PixelFormat::Bgrx, width: 2, height: 2, stride: 8, data };
    Fresh { picture, seq: 1, capture_ns: 0, since_ns: 0 }
}

impl Fixture {
    fn counts(&self) -> [u64; 3] {
        [Count::Encoded, Count::Idr, Count::EncoderFailure].map(|count| self.meter.own.count(count))
    }
}

#[test]
fn an_encoder_that_breaks_is_made_anew_and_the_picture_is_not_lost() {
    let mut f = fixture(&[Act::Encode, Act::Encode, Act::Break]);
    for _ in 0..5 {
        assert_eq!(f.engine.encode(&fresh(), false, false), Ok(()));
    }
    assert_eq!(f.counts(), [5, 2, 1], "five pictures, an IDR of each encoder, one failure");
    assert_eq!(f.made.load(Ordering::Relaxed), 2);
}

#[test]
fn one_that_breaks_again_is_given_up_until_configured() {
    let mut f = fixture(&[Act::Break, Act::Encode, Act::Break]);
    assert_eq!(f.engine.encode(&fresh(), false, false), Ok(()));
    let failure = f.engine.encode(&fresh(), false, false).expect_err("given up").expect("a text");
    assert!(failure.contains("--encoder"), "{failure}");
    assert!(!f.engine.is_ready());
    assert_eq!(f.made.load(Ordering::Relaxed), 2);
}

#[test]
fn one_that_breaks_at_once_after_being_made_anew_is_given_up() {
    let mut f = fixture(&[Act::Break, Act::Break]);
    assert!(matches!(f.engine.encode(&fresh(), false, false), Err(Some(_))));
    assert!(!f.engine.is_ready());
}

#[test]
fn a_bad_picture_harms_nothing() {
    let mut f = fixture(&[Act::Refuse]);
    assert_eq!(f.engine.encode(&fresh(), false, false), Err(None));
    assert_eq!(f.engine.encode(&fresh(), false, false), Ok(()));
    assert_eq!(f.counts(), [1, 1, 0]);
    assert_eq!(f.engine.patience(), None, "nothing is thought to be under way");
}

#[test]
fn an_encoder_gets_no_more_pictures_than_it_may_hold() {
    let mut f = fixture(&[Act::Keep; 9]);
    for _ in 0..UNDER_WAY {
        assert!(f.engine.is_ready());
        assert_eq!(f.engine.encode(&fresh(), false, false), Ok(()));
    }
    assert!(!f.engine.is_ready());
    let patience = f.engine.patience().expect("pictures are under way");
    assert!(patience <= PATIENCE + Duration::from_millis(1));
    assert_eq!(f.engine.check(), None, "it still has time");
    f.engine.flight.age(2 * PATIENCE);
    f.engine.pardon();
    assert_eq!((f.engine.check(), f.made.load(Ordering::Relaxed)), (None, 1), "it stood still with us");
    f.engine.flight.age(PATIENCE + Duration::from_millis(1));
    assert_eq!(f.engine.check(), None, "made anew");
    assert!(f.engine.is_ready());
    assert_eq!(f.made.load(Ordering::Relaxed), 2);
    assert_eq!(f.meter.own.count(Count::Dropped), UNDER_WAY as u64, "what it held is told");
}
