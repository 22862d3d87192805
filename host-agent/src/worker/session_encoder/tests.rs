use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use encode::{Output, Picture, PixelFormat};
use parking_lot::Mutex;
use protocol::stream::{Codec, Path};

use super::*;

/// Reaction of the test's encoder to a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Reaction {
    Encode,
    Fail,
    Refuse,
    /// Accepts the frame and never returns an access unit.
    Keep,
}

type Script = Arc<Mutex<Vec<Reaction>>>;

/// Reacts as scripted; after the end of the script it encodes.
struct ScriptedEncoder {
    script: Script,
    sink: Sink,
    first: bool,
}

impl std::fmt::Debug for ScriptedEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ScriptedEncoder")
    }
}

impl Encoder for ScriptedEncoder {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn submit(&mut self, _: &Picture, ticket: u64, _: u64, idr: bool) -> Result<(), EncodeError> {
        let mut script = self.script.lock();
        let reaction = if script.is_empty() { Reaction::Encode } else { script.remove(0) };
        match reaction {
            Reaction::Encode => {
                let first = std::mem::take(&mut self.first);
                (self.sink)(Ok(Output { ticket, idr: idr || first, data: Bytes::from_static(&[1]) }));
                Ok(())
            }
            Reaction::Fail => Err(EncodeError::Broken("as scripted".to_owned())),
            Reaction::Refuse => Err(EncodeError::BadPicture("as scripted")),
            Reaction::Keep => Ok(()),
        }
    }

    fn set_rate(&mut self, _: u32, _: u32) -> Result<(), EncodeError> {
        Ok(())
    }
}

struct Fixture {
    encoder: SessionEncoder,
    meter: Meter,
    opened: Arc<AtomicUsize>,
}

fn fixture(script: &[Reaction]) -> Fixture {
    let (_, waker) = frame_ring::wake::pair().expect("a socket pair");
    let waker = Arc::new(waker);
    let meter = Meter::new(Arc::default());
    let outbox = Arc::new(Outbox::new(Arc::clone(&waker), meter.clone()));
    let script: Script = Arc::new(Mutex::new(script.to_vec()));
    let opened = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&opened);
    let open: Opener = Box::new(move |_, sink| {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(ScriptedEncoder { script: Arc::clone(&script), sink, first: true }))
    });
    let mut encoder = SessionEncoder::new(open, outbox, meter.clone(), waker);
    let (format, codec, path) = (PixelFormat::Bgrx, Codec::H264, Path::Pixels);
    let config =
        Config { width: 2, height: 2, format, max_fps: 60, bitrate_kbps: 1, keyframe_ms: 0, codec, path };
    assert_eq!(encoder.configure(&config).as_deref(), Ok("scripted"));
    Fixture { encoder, meter, opened }
}

fn frame() -> Frame {
    let data = Bytes::from_static(&[0; 16]);
    let picture = Picture { format: PixelFormat::Bgrx, width: 2, height: 2, stride: 8, data };
    Frame { picture, seq: 1, capture_ns: 0, available_ns: 0 }
}

impl Fixture {
    fn encode(&mut self) -> Result<(), Failure> {
        self.encoder.encode(&frame(), false, false)
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    /// Frames encoded, IDRs, encoder failures.
    fn counts(&self) -> [u64; 3] {
        [Count::Encoded, Count::Idr, Count::EncoderFailure].map(|count| self.meter.own.count(count))
    }
}

#[test]
fn failed_encoder_is_replaced_without_losing_the_frame() {
    let mut f = fixture(&[Reaction::Encode, Reaction::Encode, Reaction::Fail]);
    for _ in 0..5 {
        assert_eq!(f.encode(), Ok(()));
    }
    assert_eq!(f.counts(), [5, 2, 1], "five frames, an IDR of each encoder, one failure");
    assert_eq!(f.opened(), 2);
}

#[test]
fn encoder_that_fails_again_soon_is_given_up() {
    let mut f = fixture(&[Reaction::Fail, Reaction::Encode, Reaction::Fail]);
    assert_eq!(f.encode(), Ok(()));
    let Err(Failure::NoEncoder(message)) = f.encode() else { panic!("the encoder was not given up") };
    assert!(message.contains("--encoder"), "{message}");
    assert!(!f.encoder.is_ready());
    assert_eq!(f.opened(), 2);
}

#[test]
fn replacement_that_fails_at_once_is_given_up() {
    let mut f = fixture(&[Reaction::Fail, Reaction::Fail]);
    assert!(matches!(f.encode(), Err(Failure::NoEncoder(_))));
    assert!(!f.encoder.is_ready());
}

#[test]
fn refused_frame_does_not_affect_the_encoder() {
    let mut f = fixture(&[Reaction::Refuse]);
    assert_eq!(f.encode(), Err(Failure::FrameRefused));
    assert_eq!(f.encode(), Ok(()));
    assert_eq!(f.counts(), [1, 1, 0]);
    assert_eq!(f.encoder.time_to_stall(), None, "no frame is in flight");
}

/// An encoder that holds as many frames as it may.
fn stalled() -> Fixture {
    let mut f = fixture(&[Reaction::Keep; 9]);
    for _ in 0..MAX_IN_FLIGHT {
        assert!(f.encoder.is_ready());
        assert_eq!(f.encode(), Ok(()));
    }
    f
}

#[test]
fn encoder_is_not_given_more_frames_than_it_may_hold() {
    let mut f = stalled();
    assert!(!f.encoder.is_ready());
    let time = f.encoder.time_to_stall().expect("frames are in flight");
    assert!(time <= STALL_TIMEOUT + Duration::from_millis(1));
    assert_eq!(f.encoder.replace_if_stalled(), None);
    assert_eq!(f.opened(), 1, "it is not stalled yet");
}

#[test]
fn stalled_encoder_is_replaced_and_its_frames_are_dropped() {
    let mut f = stalled();
    f.encoder.output.age(STALL_TIMEOUT + Duration::from_millis(1));
    assert_eq!(f.encoder.replace_if_stalled(), None);
    assert!(f.encoder.is_ready());
    assert_eq!(f.opened(), 2);
    assert_eq!(f.meter.own.count(Count::Dropped), MAX_IN_FLIGHT as u64);
}

#[test]
fn encoder_is_not_stalled_by_time_in_which_the_process_did_not_run() {
    let mut f = stalled();
    f.encoder.output.age(2 * STALL_TIMEOUT);
    f.encoder.extend_deadlines();
    assert_eq!(f.encoder.replace_if_stalled(), None);
    assert_eq!(f.opened(), 1);
}
