use bytes::Bytes;
use frame_ring::wake::{self, WakeFd, WakeState};

use super::*;
use crate::framing::FramedReader;

fn outbox() -> (Outbox, WakeFd) {
    let (wake_fd, waker) = wake::pair().expect("a socket pair");
    (Outbox::new(Arc::new(waker), Meter::new(Arc::default())), wake_fd)
}

fn unit(seq: u64, idr: bool, bytes: usize) -> AccessUnit {
    let data = Bytes::from(vec![seq as u8; bytes]);
    AccessUnit { seq, capture_ns: 0, idr, repeat: false, queue_us: 0, encode_us: 0, data }
}

fn queued_units(outbox: &Outbox) -> usize {
    outbox.queue.lock().units
}

#[test]
fn encoder_is_held_back_before_a_unit_is_lost() {
    let (outbox, _wake_fd) = outbox();
    for seq in 0..MAX_UNITS_BEFORE_ENCODE as u64 {
        assert!(outbox.has_space());
        outbox.push_unit(unit(seq, seq == 0, 10), Instant::now());
    }
    assert!(!outbox.has_space());
    assert!(!outbox.needs_idr());
}

#[test]
fn full_queue_loses_units_up_to_the_next_idr() {
    let (outbox, _wake_fd) = outbox();
    for seq in 0..MAX_UNITS as u64 + 3 {
        outbox.push_unit(unit(seq, seq == 0, 10), Instant::now());
    }
    assert_eq!(queued_units(&outbox), MAX_UNITS);
    assert!(outbox.needs_idr());
    outbox.queue.lock().messages.clear();
    outbox.queue.lock().units = 0;
    outbox.push_unit(unit(20, false, 10), Instant::now());
    assert_eq!(queued_units(&outbox), 0, "it refers to a lost unit");
    outbox.push_unit(unit(21, true, 10), Instant::now());
    assert_eq!(queued_units(&outbox), 1);
    assert!(!outbox.needs_idr());
    assert_eq!(outbox.meter.own.count(Count::Lost), 4);
}

#[test]
fn single_unit_over_the_byte_limit_is_accepted() {
    let (outbox, _wake_fd) = outbox();
    outbox.push_unit(unit(0, true, MAX_UNIT_BYTES + 1), Instant::now());
    assert_eq!(queued_units(&outbox), 1);
    outbox.push_unit(unit(1, false, 1), Instant::now());
    assert_eq!(queued_units(&outbox), 1);
    assert!(outbox.needs_idr());
}

#[test]
fn too_many_control_messages_end_the_connection() {
    let (outbox, _wake_fd) = outbox();
    for token in 0..MAX_CONTROL as u64 {
        assert!(outbox.push(&ServerMessage::Pong(token)));
    }
    assert!(!outbox.push(&ServerMessage::Pong(0)));
    assert!(matches!(outbox.take_next(), Next::End));
}

#[test]
fn dropped_notices_never_end_the_connection() {
    let (outbox, _wake_fd) = outbox();
    for seq in 0..2 * MAX_CONTROL as u64 {
        outbox.push_dropped(seq);
    }
    assert!(outbox.push(&ServerMessage::Pong(0)));
}

#[tokio::test]
async fn queued_messages_are_written_in_order_after_close() {
    let (outbox, wake_fd) = outbox();
    outbox.push(&ServerMessage::Pong(1));
    outbox.push_unit(unit(1, true, 50_000), Instant::now());
    outbox.push_unit(unit(2, false, 5), Instant::now());
    outbox.close();
    assert!(!outbox.push(&ServerMessage::Pong(2)), "closed");
    // A pipe of 100 bytes makes every write partial.
    let (ours, theirs) = tokio::io::duplex(100);
    let read = tokio::spawn(async move {
        let mut reader = FramedReader::new(theirs);
        let mut messages = Vec::new();
        while let Ok((header, payload)) = reader.read(WRITE_TIMEOUT, ServerMessage::limit).await {
            messages.push(ServerMessage::decode(header, payload).expect("decoded"));
        }
        messages
    });
    outbox.run(Writer::other(ours)).await.expect("written");
    let expected = [
        ServerMessage::Pong(1),
        ServerMessage::AccessUnit(unit(1, true, 50_000)),
        ServerMessage::AccessUnit(unit(2, false, 5)),
    ];
    assert_eq!(read.await.expect("no panic"), expected);
    assert_eq!(wake_fd.clear(), WakeState::Woken, "the worker is woken");
    assert_eq!(outbox.meter.own.time(Time::Wire).count, 2);
}

#[tokio::test]
async fn unit_is_written_directly_while_the_queue_is_empty() {
    let (outbox, _wake_fd) = outbox();
    let outbox = Arc::new(outbox);
    let (ours, theirs) = tokio::net::UnixStream::pair().expect("a socket pair");
    let (_keep_reading, writer) = ours.into_split();
    let task = tokio::spawn({
        let outbox = Arc::clone(&outbox);
        async move { outbox.run(Writer::Unix(writer)).await }
    });
    // The test is single-threaded: the task runs only while this yields.
    while outbox.queue.lock().writer.is_none() {
        tokio::task::yield_now().await;
    }
    outbox.push_unit(unit(1, true, 1000), Instant::now());
    assert_eq!((queued_units(&outbox), outbox.meter.own.time(Time::Wire).count), (0, 1));
    // Larger than the socket's buffer: the task writes the rest, and later units are queued behind it.
    outbox.push_unit(unit(2, false, 4 << 20), Instant::now());
    outbox.push_unit(unit(3, false, 10), Instant::now());
    assert_eq!(queued_units(&outbox), 2);
    outbox.close();
    let (reader, _keep_writing) = theirs.into_split();
    let mut reader = FramedReader::new(reader);
    for seq in 1..=3 {
        let (header, payload) = reader.read(WRITE_TIMEOUT, ServerMessage::limit).await.expect("a message");
        let ServerMessage::AccessUnit(read) = ServerMessage::decode(header, payload).expect("decoded") else {
            unreachable!("only units were sent")
        };
        assert_eq!((read.seq, read.data.iter().all(|byte| *byte == seq as u8)), (seq, true));
    }
    task.await.expect("no panic").expect("written");
    assert!(outbox.queue.lock().writer.is_none(), "the connection is shut down");
}
