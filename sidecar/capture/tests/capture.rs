//! The test pattern source end to end, and the guarantees to a consumer. Needs neither a GPU nor a desktop.

use std::time::{Duration, Instant};

use capture::{Capture, CaptureError, CaptureEvent, CaptureOptions, Frame, FrameBuffer, Source};
use contract::display::DisplaySize;
use protocol::Rect;

const TIMEOUT: Duration = Duration::from_secs(60);
const SIZE: (u32, u32) = (322, 183);

fn test_pattern(max_fps: u32) -> Capture {
    capture::start(CaptureOptions {
        source: Source::TestPattern,
        max_fps,
        initial_size: SIZE,
        ..CaptureOptions::default()
    })
}

/// The frame number in the picture. Verifies every pixel.
fn number(frame: &Frame) -> u32 {
    let FrameBuffer::Shm(view) = &frame.buffer else { unreachable!("the test pattern is in shared memory") };
    let (width, height) = (frame.width, frame.height);
    let number = numbered::read_number(view.bytes(), width, height, view.stride(), frame.format)
        .expect("a complete picture");
    let wrong = numbered::verify_exact(number, view.bytes(), width, height, view.stride(), frame.format);
    assert_eq!(wrong.expect("a complete picture"), 0, "wrong pixels in frame {number}");
    number
}

/// Waits for an event.
fn event(capture: &Capture) -> CaptureEvent {
    let end = Instant::now() + TIMEOUT;
    loop {
        if let Some(event) = capture.try_event() {
            return event;
        }
        assert!(Instant::now() < end, "timed out: an event");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn test_pattern_frames_match_the_definition_and_increase() {
    let capture = test_pattern(200);
    let mut last: Option<(u64, u32)> = None;
    for _ in 0..20 {
        let frame = capture.recv_newest(TIMEOUT).expect("a frame");
        assert_eq!((frame.width, frame.height), SIZE);
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
    assert!(negotiated.shm_reason.is_some(), "shared memory has a reason");
    assert!(capture.try_event().is_none(), "a negotiation is reported once");
}

#[test]
fn resized_test_pattern_goes_on_with_its_numbers() {
    let capture = test_pattern(200);
    let resizer = capture.resizer();
    let mut last = number(&capture.recv_newest(TIMEOUT).expect("a frame"));
    for (width, height) in [(640.0, 480.0), (1281.0, 719.0), (320.0, 1000.0), (640.0, 480.0)] {
        let size = DisplaySize::fit(width, height, 1.0).expect("finite");
        resizer.request(size);
        let end = Instant::now() + TIMEOUT;
        loop {
            let frame = capture.recv_newest(TIMEOUT).expect("a frame");
            let now = number(&frame);
            assert!(now > last, "{last} then {now}");
            last = now;
            if (frame.width, frame.height) == (size.width(), size.height()) {
                break;
            }
            assert!(Instant::now() < end, "timed out: {size:?}");
        }
    }
    assert_eq!(resizer.error(), "");
}

#[test]
fn held_frame_keeps_its_pixels_while_newer_frames_are_captured() {
    let capture = test_pattern(500);
    let held = capture.recv_newest(TIMEOUT).expect("a frame");
    let before = number(&held);
    let end = Instant::now() + TIMEOUT;
    while capture.overwritten() < 20 {
        assert!(Instant::now() < end, "timed out: newer frames replace unreceived ones");
        std::thread::yield_now();
    }
    assert_eq!(number(&held), before);
    assert!(number(&capture.recv_newest(TIMEOUT).expect("a frame")) > before);
}

#[test]
fn consumer_that_holds_all_buffers_gets_a_frame_after_releasing_one() {
    let capture = test_pattern(500);
    let mut held: Vec<Frame> = Vec::new();
    // Three buffers: with three frames held the source cannot deliver a fourth, however long this waits.
    while held.len() < 3 {
        held.push(capture.recv_newest(TIMEOUT).expect("a frame"));
    }
    assert!(capture.recv_newest(Duration::from_millis(100)).is_none(), "all buffers are leased");
    held.remove(0);
    assert!(capture.recv_newest(TIMEOUT).is_some());
}

#[test]
fn missing_desktop_is_reported_once_while_capture_retries() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = CaptureOptions { runtime_dir: directory.path().to_owned(), ..CaptureOptions::default() };
    let capture = capture::start(options);
    let first = event(&capture);
    let CaptureEvent::Lost(CaptureError::NoDesktop { wayland, mutter }) = &first else {
        unreachable!("{first:?}")
    };
    assert!(matches!(**wayland, CaptureError::NoWaylandSocket(_)), "{wayland}");
    assert!(matches!(**mutter, CaptureError::NoMutter { .. }), "{mutter}");
    // Several retries: the back-off is at most 1 s.
    assert!(capture.recv_newest(Duration::from_secs(2)).is_none());
    assert!(capture.try_event().is_none(), "the same error is reported once");
}

#[test]
fn desktop_that_appears_later_is_tried_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = CaptureOptions {
        source: Source::Wayland,
        runtime_dir: directory.path().to_owned(),
        ..CaptureOptions::default()
    };
    let capture = capture::start(options);
    assert!(matches!(event(&capture), CaptureEvent::Lost(CaptureError::NoWaylandSocket(_))));
    // A socket that closes its connections: the next attempt reaches it and reports another error.
    let listener = std::os::unix::net::UnixListener::bind(directory.path().join("wayland-0")).expect("bound");
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let next = event(&capture);
    assert!(matches!(next, CaptureEvent::Lost(CaptureError::Disconnected { .. })), "{next:?}");
}

#[test]
fn test_pattern_too_large_is_refused() {
    let capture = capture::start(CaptureOptions {
        source: Source::TestPattern,
        initial_size: (u32::MAX, u32::MAX),
        ..CaptureOptions::default()
    });
    let event = event(&capture);
    assert!(matches!(event, CaptureEvent::Lost(CaptureError::Size { .. })), "{event:?}");
    assert!(capture.recv_newest(Duration::ZERO).is_none());
}
