//! Properties of the ring: frames are never torn, tickets only rise, every frame is taken or reported as
//! dropped, and the producer never waits.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use frame_ring::wake::{self, WakeState, Waker};
use frame_ring::{Consumer, MAX_HELD, Meta, Producer, Ring, RingError, SLOTS, Slot};
use proptest::prelude::*;
use protocol::{PixelFormat, Rect};

const WIDTH: u32 = 64;
const HEIGHT: u32 = 32;
const BYTES: usize = 4 * (WIDTH as usize) * (HEIGHT as usize);

fn meta(seq: u64) -> Meta {
    Meta {
        seq,
        format: PixelFormat::Bgrx,
        width: WIDTH,
        height: HEIGHT,
        stride: 4 * WIDTH,
        damage: Rect::full(WIDTH, HEIGHT),
        capture_ns: seq + 1,
        read_ns: seq + 2,
        full_at_ns: 0,
    }
}

fn pair() -> (Producer, Consumer) {
    let (consumer, fd) = Ring::create(SLOTS, BYTES).expect("ring");
    (Producer::map(fd).expect("map"), consumer)
}

fn publish(producer: &mut Producer, seq: u64) {
    let mut writer = producer.claim().expect("a slot is always found");
    writer.bytes_mut().fill(seq as u8);
    assert!(writer.publish(meta(seq)));
}

#[test]
fn published_frame_is_taken_unchanged() {
    let (mut producer, mut consumer) = pair();
    assert!(consumer.newest().is_none());
    let before = frame_ring::clock::monotonic_ns();
    publish(&mut producer, 7);
    let slot = consumer.newest().expect("full");
    assert_eq!(slot.meta(), Meta { full_at_ns: slot.meta().full_at_ns, ..meta(7) });
    assert!((before..=frame_ring::clock::monotonic_ns()).contains(&slot.meta().full_at_ns));
    assert_eq!(slot.as_ref(), [7; BYTES]);
    assert!(consumer.newest().is_none());
    let bytes = bytes::Bytes::from_owner(slot);
    assert_eq!(bytes.len(), BYTES);
}

#[test]
fn newest_frame_is_taken_and_older_ones_are_reported() {
    let (mut producer, mut consumer) = pair();
    // Sequence numbers come from a guest: their order means nothing.
    for seq in [50, 9, 30, 8, 11, 10] {
        publish(&mut producer, seq);
    }
    let slot = consumer.newest().expect("full");
    assert_eq!(slot.meta().seq, 10);
    // Four slots: the first two frames were overwritten, the next three freed.
    assert_eq!(slot.dropped(), [50, 9, 30, 8, 11]);
    assert_eq!(producer.overwritten(), 2);
}

#[test]
fn unpublished_slot_is_free_again() {
    let (mut producer, mut consumer) = pair();
    for seq in 1..100 {
        drop(producer.claim().expect("slot"));
        let writer = producer.claim().expect("slot");
        assert!(!writer.publish(Meta { stride: 4 * WIDTH + 4, ..meta(seq) }), "larger than the slot");
        let writer = producer.claim().expect("slot");
        assert!(!writer.publish(Meta { width: 0, ..meta(seq) }));
    }
    assert!(consumer.newest().is_none());
    assert_eq!(producer.overwritten(), 0);
}

#[test]
fn consumer_at_its_limit_does_not_stop_the_producer() {
    let (mut producer, mut consumer) = pair();
    let mut held = Vec::new();
    for seq in 1..=MAX_HELD as u64 {
        publish(&mut producer, seq);
        held.push(consumer.newest().expect("within the limit"));
    }
    for seq in 100..200 {
        publish(&mut producer, seq);
        assert!(consumer.newest().is_none(), "over the limit");
    }
    assert!(held.iter().zip(1..).all(|(slot, seq)| slot.as_ref().iter().all(|byte| *byte == seq)));
    held.pop();
    assert_eq!(consumer.newest().expect("within the limit again").meta().seq, 199);
}

#[test]
fn slot_outlives_producer_and_consumer() {
    fn shareable<T: Send + Sync + 'static>(value: T) -> T {
        value
    }
    let (mut producer, mut consumer) = pair();
    publish(&mut producer, 3);
    let slot = shareable(consumer.newest().expect("full"));
    drop((producer, consumer));
    assert_eq!(slot.as_ref(), [3; BYTES]);
}

/// Frames that the stress test must see taken.
const TAKEN: u64 = 2000;
/// Every so many frames the consumer waits until the producer has overwritten some.
const PAUSE_EVERY: u64 = 16;
/// Longest time for the stress test, whatever else the machine does.
const STRESS_TIMEOUT: Duration = Duration::from_mins(5);

/// Publishes until `stop`; counts in `published`. Returns the number of overwritten frames.
fn publish_until(stop: &AtomicBool, published: &AtomicU64, mut producer: Producer) -> u64 {
    let mut seq: u64 = 0;
    while !stop.load(Ordering::Acquire) {
        seq += 1;
        let mut writer = producer.claim().expect("a slot is always found");
        writer.bytes_mut()[..8].copy_from_slice(&seq.to_le_bytes());
        writer.bytes_mut()[8..].fill(seq as u8);
        assert!(writer.publish(meta(seq)));
        published.store(seq, Ordering::Release);
        if seq.is_multiple_of(64) {
            std::thread::yield_now();
        }
    }
    producer.overwritten()
}

/// Takes frames until [`TAKEN`] were taken; checks each. Returns how many frames were reported dropped.
fn take_frames(published: &AtomicU64, consumer: &mut Consumer) -> u64 {
    let deadline = Instant::now() + STRESS_TIMEOUT;
    let (mut last, mut taken, mut dropped) = (0, 0, 0);
    let mut held: Vec<Slot> = Vec::new();
    while taken < TAKEN {
        assert!(Instant::now() < deadline, "{taken} of {TAKEN} frames were taken in {STRESS_TIMEOUT:?}");
        let Some(slot) = consumer.newest() else {
            held.clear();
            std::thread::yield_now();
            continue;
        };
        let seq = slot.meta().seq;
        assert_eq!(slot.ticket(), seq, "one claim, one publish");
        assert!(seq > last, "{seq} after {last}");
        assert_eq!(slot.meta(), Meta { full_at_ns: slot.meta().full_at_ns, ..meta(seq) });
        last = seq;
        taken += 1;
        dropped += slot.dropped().len() as u64;
        held.push(slot);
        if taken.is_multiple_of(PAUSE_EVERY) {
            let enough = published.load(Ordering::Acquire) + 2 * SLOTS as u64;
            while published.load(Ordering::Acquire) < enough && Instant::now() < deadline {
                std::thread::yield_now();
            }
        }
        for slot in &held {
            let (first, rest) = slot.as_ref().split_at(8);
            assert_eq!(first, slot.meta().seq.to_le_bytes(), "torn");
            assert!(rest.iter().all(|byte| *byte == slot.meta().seq as u8), "torn");
        }
        if held.len() == MAX_HELD {
            held.remove(0);
        }
    }
    dropped
}

/// Two threads run until enough frames were taken and enough overwritten, at whatever speed.
#[test]
fn concurrent_producer_and_consumer_lose_and_tear_no_frame() {
    let (producer, mut consumer) = pair();
    let (stop, published) = (AtomicBool::new(false), AtomicU64::new(0));
    let (dropped, overwritten) = std::thread::scope(|scope| {
        let producing = scope.spawn(|| publish_until(&stop, &published, producer));
        let taking = scope.spawn(|| take_frames(&published, &mut consumer));
        let dropped = taking.join();
        stop.store(true, Ordering::Release);
        (dropped.expect("the consumer's checks hold"), producing.join().expect("the producer's checks hold"))
    });
    assert!(overwritten > 0, "the consumer paused, so frames were overwritten");
    let last = consumer.newest();
    let (taken, dropped) = match &last {
        Some(slot) => (TAKEN + 1, dropped + slot.dropped().len() as u64),
        None => (TAKEN, dropped),
    };
    let published = published.into_inner();
    assert!(last.is_none_or(|slot| slot.meta().seq == published), "the last frame is the newest");
    assert!(taken + dropped <= published, "{taken} taken and {dropped} dropped of {published}");
    // The log keeps 32 frames; more may have been overwritten between two calls, and only the counter has them.
    assert!(taken + dropped + overwritten >= published);
}

#[derive(Debug, Clone)]
enum Step {
    Publish,
    Abandon,
    Take,
    Release(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Publish),
        1 => Just(Step::Abandon),
        3 => Just(Step::Take),
        2 => any::<prop::sample::Index>().prop_map(Step::Release),
    ]
}

proptest! {
    /// Against a model: the last frame that was published and not taken is the newest; the ones before it
    /// are reported exactly once.
    #[test]
    fn any_order_of_steps_matches_the_model(steps in prop::collection::vec(step(), 0..60)) {
        let (mut producer, mut consumer) = pair();
        let mut waiting = BTreeSet::new();
        let mut held: Vec<Slot> = Vec::new();
        let mut seq = 0;
        for step in steps {
            match step {
                Step::Publish => {
                    seq += 1;
                    publish(&mut producer, seq);
                    waiting.insert(seq);
                }
                Step::Abandon => drop(producer.claim().expect("slot")),
                Step::Take => {
                    let slot = consumer.newest();
                    if held.len() == MAX_HELD || waiting.is_empty() {
                        prop_assert!(slot.is_none());
                        continue;
                    }
                    // An abandoned claim may have overwritten the oldest frame, or the only one.
                    let Some(slot) = slot else { prop_assert!(producer.overwritten() > 0); continue };
                    prop_assert_eq!(Some(&slot.meta().seq), waiting.last());
                    waiting.remove(&slot.meta().seq);
                    let dropped: BTreeSet<u64> = slot.dropped().iter().copied().collect();
                    prop_assert_eq!(dropped.len(), slot.dropped().len());
                    if waiting.len() <= 32 {
                        prop_assert_eq!(&dropped, &waiting);
                    }
                    waiting.clear();
                    held.push(slot);
                }
                Step::Release(index) => {
                    if !held.is_empty() {
                        held.swap_remove(index.index(held.len()));
                    }
                }
            }
            for slot in &held {
                prop_assert!(slot.as_ref().iter().all(|byte| *byte == slot.meta().seq as u8));
            }
        }
    }
}

fn refused(fd: OwnedFd) -> RingError {
    Producer::map(fd).expect_err("must be refused")
}

#[test]
fn foreign_memory_is_checked_before_it_is_mapped() {
    let file: OwnedFd = File::open("/proc/self/exe").expect("file").into();
    assert!(matches!(refused(file), RingError::NotARing(_)), "a file can shrink");

    let patch = |at: u64, bytes: &[u8]| {
        let (consumer, fd) = Ring::create(SLOTS, BYTES).expect("ring");
        let file = File::from(fd);
        file.write_all_at(bytes, at).expect("patch");
        let error = refused(file.into());
        drop(consumer);
        error
    };
    assert!(matches!(patch(0, b"XXXX"), RingError::NotARing(_)), "magic");
    assert!(matches!(patch(4, &9_u32.to_le_bytes()), RingError::NotARing(_)), "version");
    assert!(matches!(patch(8, &0_u32.to_le_bytes()), RingError::Size { .. }), "slots");
    assert!(matches!(patch(8, &u32::MAX.to_le_bytes()), RingError::Size { .. }), "slots");
    assert!(matches!(patch(8, &8_u32.to_le_bytes()), RingError::NotARing(_)), "more slots than memory");
    assert!(matches!(patch(16, &u64::MAX.to_le_bytes()), RingError::Size { .. }), "slot size");
    assert!(matches!(patch(16, &(1_u64 << 20).to_le_bytes()), RingError::NotARing(_)), "larger slots");
    assert!(matches!(Ring::create(2, 1), Err(RingError::Size { .. })));
    assert!(matches!(Ring::create(4, usize::MAX), Err(RingError::Size { .. })));
}

#[test]
fn memory_cannot_shrink() {
    let (_consumer, fd) = Ring::create(SLOTS, BYTES).expect("ring");
    assert!(File::from(fd).set_len(0).is_err());
}

#[test]
fn frame_with_invalid_metadata_is_skipped() {
    let (mut consumer, fd) = Ring::create(SLOTS, BYTES).expect("ring");
    let file = File::from(fd.try_clone().expect("clone"));
    let mut producer = Producer::map(fd).expect("map");
    publish(&mut producer, 1);
    // Find the stride in the header page and make it absurd.
    let mut header = vec![0; 4096];
    file.read_exact_at(&mut header, 0).expect("read");
    let described: Vec<u8> = [WIDTH, HEIGHT, 4 * WIDTH].iter().flat_map(|side| side.to_le_bytes()).collect();
    let at = header.windows(12).position(|bytes| bytes == described).expect("in the header");
    file.write_all_at(&u32::MAX.to_le_bytes(), at as u64 + 8).expect("patch");
    assert!(consumer.newest().is_none());
    assert_eq!(consumer.invalid(), 1);
    publish(&mut producer, 2);
    assert_eq!(consumer.newest().expect("the next frame is valid").meta().seq, 2);
}

#[test]
fn wake_fd_joins_many_wakes_and_never_blocks() {
    let (wake_fd, waker) = wake::pair().expect("pair");
    assert_eq!(wake_fd.clear(), WakeState::Idle);
    for _ in 0..100_000 {
        waker.wake();
    }
    assert_eq!(wake_fd.clear(), WakeState::Woken);
    assert_eq!(wake_fd.clear(), WakeState::Idle);
    waker.wake();
    assert_eq!(wake_fd.clear(), WakeState::Woken);
    drop(waker);
    assert_eq!(wake_fd.clear(), WakeState::Closed);
}

#[test]
fn wake_without_a_receiver_is_harmless() {
    let (wake_fd, waker) = wake::pair().expect("pair");
    drop(wake_fd);
    waker.wake();
}

#[test]
fn waker_of_a_file_is_refused() {
    let file: OwnedFd = File::open("/dev/null").expect("file").into();
    assert!(Waker::new(file).is_err());
}
