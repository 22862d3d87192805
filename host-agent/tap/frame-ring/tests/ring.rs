//! The ring's promises: never torn, never backwards, every picture accounted for, never stuck.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use protocol::{PixelFormat, Rect};
use frame_ring::{Consumer, MAX_HELD, Meta, Producer, Ring, RingError, SLOTS, Slot};

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
fn a_picture_arrives_as_it_was_written() {
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
fn the_newest_wins_and_the_others_are_named() {
    let (mut producer, mut consumer) = pair();
    // Sequence numbers come from a guest: their order means nothing.
    for seq in [50, 9, 30, 8, 11, 10] {
        publish(&mut producer, seq);
    }
    let slot = consumer.newest().expect("full");
    assert_eq!(slot.meta().seq, 10);
    // Four slots: the first two were overwritten, the next three freed.
    assert_eq!(slot.dropped(), [50, 9, 30, 8, 11]);
    assert_eq!((producer.dropped(), consumer.overwritten()), (2, 2));
}

#[test]
fn an_unpublished_slot_is_free_again_and_keeps_its_promise() {
    let (mut producer, mut consumer) = pair();
    for seq in 1..100 {
        drop(producer.claim().expect("slot"));
        let writer = producer.claim().expect("slot");
        assert!(!writer.publish(Meta { stride: 4 * WIDTH + 4, ..meta(seq) }), "larger than the slot");
        let writer = producer.claim().expect("slot");
        assert!(!writer.publish(Meta { width: 0, ..meta(seq) }));
    }
    assert!(consumer.newest().is_none());
    assert_eq!(producer.dropped(), 0);
}

#[test]
fn a_consumer_that_holds_its_share_never_stops_the_producer() {
    let (mut producer, mut consumer) = pair();
    let mut held = Vec::new();
    for seq in 1..=MAX_HELD as u64 {
        publish(&mut producer, seq);
        held.push(consumer.newest().expect("within its share"));
    }
    for seq in 100..200 {
        publish(&mut producer, seq);
        assert!(consumer.newest().is_none(), "beyond its share");
    }
    assert!(held.iter().zip(1..).all(|(slot, seq)| slot.as_ref().iter().all(|byte| *byte == seq)));
    held.pop();
    assert_eq!(consumer.newest().expect("share is free again").meta().seq, 199);
}

#[test]
fn slots_outlive_the_ring() {
    fn shareable<T: Send + Sync + 'static>(value: T) -> T {
        value
    }
    let (mut producer, mut consumer) = pair();
    publish(&mut producer, 3);
    let slot = shareable(consumer.newest().expect("full"));
    drop((producer, consumer));
    assert_eq!(slot.as_ref(), [3; BYTES]);
}

/// Two threads, no pauses: no picture is torn, tickets rise, and every picture is either seen or named.
#[test]
fn stress() {
    const PICTURES: u64 = 60_000;
    let (mut producer, mut consumer) = pair();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for seq in 1..=PICTURES {
                let mut writer = producer.claim().expect("a slot is always found");
                writer.bytes_mut()[..8].copy_from_slice(&seq.to_le_bytes());
                writer.bytes_mut()[8..].fill(seq as u8);
                assert!(writer.publish(meta(seq)));
                if seq % 64 == 0 {
                    std::thread::yield_now();
                }
            }
            done.store(true, Ordering::Release);
        });
        let deadline = Instant::now() + Duration::from_mins(2);
        let (mut last, mut seen, mut named) = (0, 0_u64, 0_u64);
        let mut held: Vec<Slot> = Vec::new();
        loop {
            let finished = done.load(Ordering::Acquire);
            let slot = consumer.newest();
            assert!(Instant::now() < deadline, "stuck");
            let Some(slot) = slot else {
                if finished && held.is_empty() {
                    break;
                }
                held.clear();
                continue;
            };
            let seq = slot.meta().seq;
            assert_eq!(slot.ticket(), seq, "one claim, one publish");
            assert!(seq > last, "{seq} after {last}");
            assert_eq!(slot.meta(), Meta { full_at_ns: slot.meta().full_at_ns, ..meta(seq) });
            last = seq;
            seen += 1;
            named += slot.dropped().len() as u64;
            held.push(slot);
            for slot in &held {
                let (first, rest) = slot.as_ref().split_at(8);
                assert_eq!(first, slot.meta().seq.to_le_bytes(), "torn");
                assert!(rest.iter().all(|byte| *byte == slot.meta().seq as u8), "torn");
            }
            if held.len() == MAX_HELD {
                held.remove(0);
            }
        }
        assert_eq!(last, PICTURES);
        assert!(seen + named <= PICTURES, "{seen} seen and {named} named of {PICTURES}");
        assert!(seen > 10, "only {seen} seen: the threads did not meet");
        // More than the log holds may be overwritten between two looks; those are counted all the same.
        assert!(seen + named + consumer.overwritten() >= PICTURES);
    });
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
    /// Against a model: the last picture published and not seen is the newest; what was published
    /// before it and not seen is named exactly once.
    #[test]
    fn any_order_of_steps(steps in prop::collection::vec(step(), 0..60)) {
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
                    // A claim that was given up may have cost the oldest picture, and even the only one.
                    let Some(slot) = slot else { prop_assert!(producer.dropped() > 0); continue };
                    prop_assert_eq!(Some(&slot.meta().seq), waiting.last());
                    waiting.remove(&slot.meta().seq);
                    let named: BTreeSet<u64> = slot.dropped().iter().copied().collect();
                    prop_assert_eq!(named.len(), slot.dropped().len());
                    if waiting.len() <= 32 {
                        prop_assert_eq!(&named, &waiting);
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
fn a_foreign_descriptor_is_checked_before_it_is_mapped() {
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
    assert!(matches!(patch(0, b"XXXX"), RingError::NotARing(_)));
    assert!(matches!(patch(4, &9_u32.to_le_bytes()), RingError::NotARing(_)));
    assert!(matches!(patch(8, &0_u32.to_le_bytes()), RingError::Size { .. }));
    assert!(matches!(patch(8, &u32::MAX.to_le_bytes()), RingError::Size { .. }));
    assert!(matches!(patch(8, &8_u32.to_le_bytes()), RingError::NotARing(_)), "more than there is");
    assert!(matches!(patch(16, &u64::MAX.to_le_bytes()), RingError::Size { .. }));
    assert!(matches!(patch(16, &(1_u64 << 20).to_le_bytes()), RingError::NotARing(_)));
    assert!(matches!(Ring::create(2, 1), Err(RingError::Size { .. })));
    assert!(matches!(Ring::create(4, usize::MAX), Err(RingError::Size { .. })));
}

#[test]
fn the_memory_cannot_shrink() {
    let (_consumer, fd) = Ring::create(SLOTS, BYTES).expect("ring");
    assert!(File::from(fd).set_len(0).is_err());
}

/// A producer that writes nonsense beside its pictures costs itself those pictures and nothing else.
#[test]
fn a_lying_description_is_refused() {
    let (mut consumer, fd) = Ring::create(SLOTS, BYTES).expect("ring");
    let file = File::from(fd.try_clone().expect("clone"));
    let mut producer = Producer::map(fd).expect("map");
    publish(&mut producer, 1);
    // Find the stride in the header page and make it absurd.
    let mut header = vec![0; 4096];
    file.read_exact_at(&mut header, 0).expect("read");
    let described: Vec<u8> = [WIDTH, HEIGHT, 4 * WIDTH].iter().flat_map(|side| side.to_le_bytes()).collect();
    let at = header.windows(12).position(|bytes| bytes == described).expect("it is there");
    file.write_all_at(&u32::MAX.to_le_bytes(), at as u64 + 8).expect("patch");
    assert!(consumer.newest().is_none());
    assert_eq!(consumer.invalid(), 1);
    publish(&mut producer, 2);
    assert_eq!(consumer.newest().expect("the next is fine").meta().seq, 2);
}

#[test]
fn the_bell_never_blocks() {
    let (listen, fd) = frame_ring::doorbell::pair().expect("pair");
    let bell = frame_ring::doorbell::Bell::new(fd).expect("bell");
    for _ in 0..100_000 {
        bell.ring();
    }
    assert!(frame_ring::doorbell::drain(&listen));
    bell.ring();
    assert!(frame_ring::doorbell::drain(&listen));
    drop(bell);
    assert!(!frame_ring::doorbell::drain(&listen));

    let (listen, fd) = frame_ring::doorbell::pair().expect("pair");
    let bell = frame_ring::doorbell::Bell::new(fd).expect("bell");
    drop(listen);
    bell.ring();
    let file: OwnedFd = File::open("/dev/null").expect("file").into();
    assert!(frame_ring::doorbell::Bell::new(file).is_err());
}
