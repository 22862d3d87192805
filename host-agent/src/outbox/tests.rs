use bytes::Bytes;

use super::*;

fn outbox() -> (Outbox, crate::waker::Sleeper) {
    let (waker, sleeper) = crate::waker::pair().expect("a pair");
    (Outbox::new(waker, Meter::new(Arc::default())), sleeper)
}

fn unit(seq: u64, idr: bool, bytes: usize) -> AccessUnit {
    let data = Bytes::from(vec![seq as u8; bytes]);
    AccessUnit { seq, capture_ns: 0, idr, repeat: false, queue_us: 0, encode_us: 0, data }
}

fn waiting(outbox: &Outbox) -> usize {
    outbox.lock().units
}

#[test]
fn the_encoder_is_held_back_before_anything_is_lost() {
    let (outbox, _sleeper) = outbox();
    for seq in 0..ROOM as u64 {
        assert!(outbox.has_room());
        outbox.push_unit(unit(seq, seq == 0, 10), Instant::now());
    }
    assert!(!outbox.has_room());
    assert!(!outbox.needs_idr());
}

#[test]
fn a_full_queue_loses_up_to_the_next_idr() {
    let (outbox, _sleeper) = outbox();
    for seq in 0..MAX_UNITS as u64 + 3 {
        outbox.push_unit(unit(seq, seq == 0, 10), Instant::now());
    }
    assert_eq!(waiting(&outbox), MAX_UNITS);
    assert!(outbox.needs_idr());
    outbox.lock().waiting.clear();
    outbox.lock().units = 0;
    outbox.push_unit(unit(20, false, 10), Instant::now());
    assert_eq!(waiting(&outbox), 0, "it refers to what was lost");
    outbox.push_unit(unit(21, true, 10), Instant::now());
    assert_eq!(waiting(&outbox), 1);
    assert!(!outbox.needs_idr());
    assert_eq!(outbox.meter.own.count(Count::Lost), 4);
}

#[test]
fn bytes_are_bounded_but_one_large_unit_passes() {
    let (outbox, _sleeper) = outbox();
    outbox.push_unit(unit(0, true, MAX_UNIT_BYTES + 1), Instant::now());
    assert_eq!(waiting(&outbox), 1);
    outbox.push_unit(unit(1, false, 1), Instant::now());
    assert_eq!(waiting(&outbox), 1);
    assert!(outbox.needs_idr());
}

#[test]
fn too_many_answers_end_the_connection() {
    let (outbox, _sleeper) = outbox();
    for token in 0..MAX_CONTROL as u64 {
        assert!(outbox.push(&ServerMessage::Pong(token)));
    }
    assert!(!outbox.push(&ServerMessage::Pong(0)));
    assert!(matches!(outbox.take(), Next::End));
}

#[tokio::test]
async fn what_waits_is_written_in_order_and_then_it_ends() {
    let (outbox, sleeper) = outbox();
    outbox.push(&ServerMessage::Pong(1));
    outbox.push_unit(unit(1, true, 50_000), Instant::now());
    outbox.push_unit(unit(2, false, 5), Instant::now());
    outbox.close();
    assert!(!outbox.push(&ServerMessage::Pong(2)), "closed");
    // A narrow pipe: every write is partial.
    let (ours, mut theirs) = tokio::io::duplex(100);
    let read = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Ok((header, payload)) =
            crate::wire::read_message(&mut theirs, WRITE_TIME, ServerMessage::limit).await
        {
            seen.push(ServerMessage::decode(header, payload).expect("decodes"));
        }
        seen
    });
    outbox.run(Writer::other(ours)).await.expect("written");
    let seen = read.await.expect("read");
    assert_eq!(seen[0], ServerMessage::Pong(1));
    assert_eq!(seen[1], ServerMessage::AccessUnit(unit(1, true, 50_000)));
    assert_eq!(seen[2], ServerMessage::AccessUnit(unit(2, false, 5)));
    assert_eq!(seen.len(), 3);
    assert!(sleeper.drain(), "the worker was woken");
    assert_eq!(outbox.meter.own.time(Time::Wire).count, 2);
}

#[tokio::test]
async fn a_unit_that_finds_nothing_waiting_is_written_at_once() {
    let (outbox, _sleeper) = outbox();
    let outbox = Arc::new(outbox);
    let (ours, theirs) = tokio::net::UnixStream::pair().expect("a pair");
    let (_keep_reading, writer) = ours.into_split();
    let task = tokio::spawn({
        let outbox = Arc::clone(&outbox);
        async move { outbox.run(Writer::Unix(writer)).await }
    });
    // A single-threaded test: the task runs only while this waits.
    while outbox.lock().writer.is_none() {
        tokio::task::yield_now().await;
    }
    outbox.push_unit(unit(1, true, 1000), Instant::now());
    assert_eq!((waiting(&outbox), outbox.meter.own.time(Time::Wire).count), (0, 1));
    // Larger than a socket's buffer: the rest is the task's, and what comes next waits behind it.
    outbox.push_unit(unit(2, false, 4 << 20), Instant::now());
    outbox.push_unit(unit(3, false, 10), Instant::now());
    assert_eq!(waiting(&outbox), 2);
    outbox.close();
    let (mut reader, _keep_writing) = theirs.into_split();
    for seq in 1..=3 {
        let read = crate::wire::read_message(&mut reader, WRITE_TIME, ServerMessage::limit);
        let (header, payload) = read.await.expect("a message");
        let ServerMessage::AccessUnit(read) = ServerMessage::decode(header, payload).expect("decodes") else {
            unreachable!("only units were sent")
        };
        assert_eq!((read.seq, read.data.iter().all(|byte| *byte == seq as u8)), (seq, true));
    }
    task.await.expect("no panic").expect("written");
    assert!(outbox.lock().writer.is_none(), "the peer's stream ends");
}
