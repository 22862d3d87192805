//! Capture from outside, with no GPU and no desktop: the test pattern end to end, and what a consumer may rely on.

use std::time::{Duration, Instant};

use pattern::layout;
use protocol::Rect;
use capture::{self, Capture, CaptureEvent, CaptureOptions, Frame, FrameBuffer, Source};

const PATIENCE: Duration = Duration::from_secs(20);
const SIZE: (u32, u32) = (322, 183);

fn test_pattern(max_fps: u32) -> Capture {
    capture::start(CaptureOptions {
        source: Source::TestPattern,
        max_fps,
        pattern_size: SIZE,
        ..CaptureOptions::default()
    })
}

/// The number in a frame, every pixel of which must be right.
fn number(frame: &Frame) -> u32 {
    let FrameBuffer::Shm(view) = &frame.buffer else { unreachable!("the test pattern needs no GPU") };
    let (width, height) = SIZE;
    assert_eq!((frame.width, frame.height), SIZE);
    let number = layout::read_number(view.bytes(), width, height, view.stride(), frame.format)
        .expect("a whole picture");
    let wrong = layout::verify_exact(number, view.bytes(), width, height, view.stride(), frame.format);
    assert_eq!(wrong.expect("a whole picture"), 0, "pixels of frame {number} differ from the definition");
    number
}

#[test]
fn the_test_pattern_is_the_pattern() {
    let capture = test_pattern(200);
    let mut last: Option<(u64, u32)> = None;
    for _ in 0..20 {
        let frame = capture.recv_newest(PATIENCE).expect("a frame");
        assert_eq!(frame.damage, Rect::full(SIZE.0, SIZE.1));
        let now = (frame.seq, number(&frame));
        if let Some(last) = last {
            assert!(now.0 > last.0 && now.1 > last.1, "{last:?} then {now:?}");
        }
        last = Some(now);
    }
    let negotiated = match capture.try_event() {
        Some(CaptureEvent::Negotiated(negotiated)) => negotiated,
        other => unreachable!("{other:?}"),
    };
    assert_eq!((negotiated.width, negotiated.height, negotiated.dmabuf), (SIZE.0, SIZE.1, false));
    assert!(negotiated.reason.is_some(), "whoever has no DMA-BUF is told why");
    assert!(capture.try_event().is_none(), "told once");
}

#[test]
fn a_held_frame_stays_what_it_is_while_newer_ones_come() {
    let capture = test_pattern(500);
    let held = capture.recv_newest(PATIENCE).expect("a frame");
    let before = number(&held);
    let end = Instant::now() + PATIENCE;
    while capture.overwritten() < 20 {
        assert!(Instant::now() < end, "newer frames overwrite those that nobody takes");
        std::thread::yield_now();
    }
    assert_eq!(number(&held), before);
    assert!(number(&capture.recv_newest(PATIENCE).expect("a frame")) > before);
}

#[test]
fn whoever_holds_all_buffers_gets_no_frame_until_one_goes_back() {
    let capture = test_pattern(500);
    let mut held: Vec<Frame> = Vec::new();
    while let Some(frame) = capture.recv_newest(Duration::from_millis(500)) {
        held.push(frame);
        assert!(held.len() < 10, "buffers are few");
    }
    assert!(held.len() >= 2, "two may be under way at once");
    held.remove(0);
    assert!(capture.recv_newest(PATIENCE).is_some());
}

#[test]
fn a_desktop_that_is_not_there_is_told_once_and_waited_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = CaptureOptions { runtime_dir: folder.path().to_owned(), ..CaptureOptions::default() };
    let capture = capture::start(options);
    assert!(capture.recv_newest(Duration::from_millis(1500)).is_none());
    let events: Vec<CaptureEvent> = std::iter::from_fn(|| capture.try_event()).collect();
    let [CaptureEvent::Lost(error)] = &events[..] else { unreachable!("{events:?}") };
    let text = error.to_string();
    assert!(text.contains("no Wayland socket") && text.contains("is gnome-shell up"), "{text}");
    let start = Instant::now();
    drop(capture);
    assert!(start.elapsed() < Duration::from_secs(3), "it stops at once");
}

#[test]
fn a_pattern_too_large_is_refused() {
    let capture = capture::start(CaptureOptions {
        source: Source::TestPattern,
        pattern_size: (u32::MAX, u32::MAX),
        ..CaptureOptions::default()
    });
    assert!(capture.recv_newest(Duration::from_millis(300)).is_none());
    let event = capture.try_event();
    assert!(matches!(event, Some(CaptureEvent::Lost(_))), "{event:?}");
}
