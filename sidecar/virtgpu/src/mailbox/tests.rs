//! The page without a device: the test plays the tap.

use super::*;
use crate::SharedMap;
use protocol::mailbox::Status;

fn page() -> Page {
    let (_, fd) = SharedMap::create("mailbox", layout::BYTES).expect("memfd");
    let map = Mapping::new(std::os::fd::AsFd::as_fd(&fd), 0, layout::BYTES, true).expect("mapped");
    Page::new(map)
}

#[expect(clippy::unnecessary_wraps, reason = "stands in for an ioctl")]
fn not_busy() -> io::Result<bool> {
    Ok(false)
}

fn claim(page: &mut Page) -> (usize, u64) {
    let seq = page.last_seq + 1;
    (page.claim(seq, not_busy).expect("a slot"), seq)
}

/// Reads the request in `slot` and answers it, as the tap does.
fn answer(page: &Page, slot: usize) -> Request {
    let mut bytes = [0; REQUEST_BYTES];
    for (i, word) in bytes.as_chunks_mut::<WORD>().0.iter_mut().enumerate() {
        *word = page.map.word(request_offset(slot) + i * WORD).load(Ordering::Relaxed).to_ne_bytes();
    }
    let request = Request::decode(&bytes).expect("a request");
    let answer = Answer { seq: request.seq, status: Status::Ok, spent_ns: 5, dropped: 6, tap_version: 7 };
    for (i, word) in answer.encode().as_chunks::<WORD>().0.iter().enumerate().rev() {
        page.map.word(answer_offset(slot) + i * WORD).store(u64::from_ne_bytes(*word), Ordering::Release);
    }
    request
}

#[test]
fn requests_in_flight_are_answered_in_any_order() {
    let mut page = page();
    let (a, seq_a) = claim(&mut page);
    page.put(a, &Request { seq: seq_a, operation: Operation::Echo }.encode());
    let (b, seq_b) = claim(&mut page);
    page.put(b, &Request { seq: seq_b, operation: Operation::Bind([9; 16]) }.encode());
    assert_ne!(a, b);
    assert_eq!(page.get(a, seq_a), None);
    assert_eq!(answer(&page, b), Request { seq: seq_b, operation: Operation::Bind([9; 16]) });
    assert_eq!(page.get(a, seq_a), None);
    let got = Answer::decode(&page.get(b, seq_b).expect("answered")).expect("decodes");
    assert_eq!((got.seq, got.spent_ns, got.dropped, got.tap_version), (seq_b, 5, 6, 7));
    answer(&page, a);
    assert!(page.get(a, seq_a).is_some());
}

#[test]
fn unanswered_slot_is_reused_only_after_the_queue_drained() {
    let mut page = page();
    let mut taken: Vec<usize> = (0..SLOTS).map(|_| claim(&mut page).0).collect();
    taken.sort_unstable();
    assert_eq!(taken, (0..SLOTS).collect::<Vec<_>>());
    let error = page.claim(9, || Ok(true)).expect_err("all slots wait, unread by the host");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    // Without a tap no answer arrives; after the queue has drained, the oldest slot is reused first.
    let oldest = page.claim(9, not_busy).expect("the queue has drained");
    assert_eq!(page.requested[oldest], SLOTS as u64 + 1);
    assert_eq!(page.requested.iter().min(), Some(&2));
}

#[test]
fn answered_slot_is_claimed_before_unanswered_one() {
    let mut page = page();
    let mut slots = Vec::new();
    for _ in 0..SLOTS {
        let (slot, seq) = claim(&mut page);
        page.put(slot, &Request { seq, operation: Operation::Echo }.encode());
        slots.push(slot);
    }
    answer(&page, slots[5]);
    assert_eq!(page.claim(9, || Ok(true)).expect("slot 5 is free"), slots[5]);
}

#[test]
fn stale_answer_does_not_match_new_request() {
    let mut page = page();
    let (first, seq) = claim(&mut page);
    page.put(first, &Request { seq, operation: Operation::Echo }.encode());
    answer(&page, first);
    assert!(page.get(first, seq).is_some());
    // The caller may reuse a sequence number, which may claim the same slot.
    let mut again = usize::MAX;
    while again != first {
        again = page.claim(seq, not_busy).expect("a slot");
    }
    assert_eq!(page.get(first, seq), None);
    assert!(page.claim(0, not_busy).is_err(), "0 is not a valid sequence number");
}
