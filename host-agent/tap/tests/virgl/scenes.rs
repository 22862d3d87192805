//! Scenes between VMM, guest and host-agent. `main.rs` runs each in a separate process.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use frame_ring::Ring;
use frame_ring::wake;
use protocol::PixelFormat;
use protocol::frame::Header;
use protocol::link::{Context, FromTap, RingRefusal, ToTap, VERSION};
use protocol::mailbox::{self, FrameRequest, Operation, Status};

use crate::agent::{Agent, Link, Session};
use crate::guest::{Screen, Sidecar, pattern, start};
use crate::virgl;

/// Slot size for 1080p.
const SLOT_BYTES: usize = 4 * 1920 * 1080;

/// A sidecar with a session.
fn bound(agent: &Agent, slot_bytes: usize) -> (Sidecar, Link, Context, Session) {
    let mut sidecar = Sidecar::new(7, 100);
    let mut link = agent.accept();
    sidecar.bind([5; 16]);
    let (context, name) = link.bound([5; 16]);
    assert_eq!((context.id, name.as_str()), (7, "sidecar"));
    let session = link.attach(11, context, slot_bytes);
    (sidecar, link, context, session)
}

/// Sends a frame request; repeats it until the session that was just attached is bound.
fn first_frame(sidecar: &mut Sidecar, request: FrameRequest) {
    let status = sidecar.until(Operation::Frame(request), |status| status != Status::NotBound);
    assert_eq!(status, Status::Ok);
}

#[test]
#[ignore = "a scene; run the test of the same name in main.rs"]
fn frames_are_read_bit_exactly() {
    let agent = Agent::listen();
    start();
    let (mut sidecar, mut link, _, mut session) = bound(&agent, SLOT_BYTES);
    let mut pictures = 0;
    let mut bytes = 0;
    for (id, virgl_format, format, width, height, flags) in [
        (201, 1, PixelFormat::Bgra, 1280, 720, 0),
        (202, 2, PixelFormat::Bgrx, 1920, 1080, 0),
        (203, 67, PixelFormat::Rgba, 641, 359, 0),
        (204, 134, PixelFormat::Rgbx, 1, 1, 0),
        (205, 1, PixelFormat::Bgrx, 333, 7, 0),
        // Y_0_TOP, as the guest's text console: virglrenderer stores it upside down and flips it on reads.
        (206, 2, PixelFormat::Bgra, 64, 64, 1),
        (207, 1, PixelFormat::Bgra, 800, 3, 1),
    ] {
        let screen = Screen::new(id, virgl_format, width, height, flags);
        virgl::ctx_attach(sidecar.context, id);
        for seed in [3, 200] {
            let picture = pattern(width, height, seed);
            screen.draw(sidecar.context, &picture);
            first_frame(&mut sidecar, screen.request(format));
            let slot = session.take_frame();
            let meta = slot.meta();
            assert_eq!((meta.width, meta.height, meta.format), (width, height, format));
            assert_eq!((meta.stride, meta.capture_ns), (4 * width, 1234));
            // Padding bytes are undefined.
            let opaque = matches!(virgl_format, 2 | 134);
            let same = slot
                .as_ref()
                .chunks(4)
                .zip(picture.chunks(4))
                .all(|(got, drawn)| if opaque { got[..3] == drawn[..3] } else { got == drawn });
            assert!(
                same && slot.as_ref().len() == picture.len(),
                "{id} {format:?} {width}x{height} flags {flags}"
            );
            pictures += 1;
            bytes += picture.len() as u64;
        }
    }
    let stats = link.stats(|stats| stats.read.count == pictures);
    assert_eq!((stats.picture_bytes, stats.faults, stats.disabled), (bytes, 0, 0));
    assert_eq!((stats.contexts, stats.resources), (1, 8));
    assert!(stats.entry.p50 >= stats.read.p50 && stats.read.p50 > 0);
}

#[test]
#[ignore = "a scene; run the test of the same name in main.rs"]
fn frame_that_the_context_may_not_read_is_refused() {
    let agent = Agent::listen();
    start();
    let screen = Screen::new(200, 2, 640, 360, 0);
    let request = screen.request(PixelFormat::Bgrx);
    let (mut sidecar, mut link, first, _session) = bound(&agent, 4 * 640 * 360);
    sidecar.until(Operation::Frame(request), |status| status == Status::NotAttached);
    virgl::ctx_attach(7, 200);
    assert_eq!(sidecar.frame(request), Status::Ok);
    assert_eq!(sidecar.frame(FrameRequest { resource: 999, ..request }), Status::UnknownResource);
    assert_eq!(sidecar.frame(screen.request(PixelFormat::Rgba)), Status::BadFormat);
    assert_eq!(sidecar.frame(FrameRequest { width: 641, ..request }), Status::BadBox);
    let large = Screen::new(201, 2, 641, 360, 0);
    virgl::ctx_attach(7, 201);
    assert_eq!(sidecar.frame(large.request(PixelFormat::Bgrx)), Status::TooLarge);
    virgl::ctx_detach(7, 200);
    assert_eq!(sidecar.frame(request), Status::NotAttached);
    virgl::ctx_attach(7, 200);
    assert_eq!(sidecar.frame(request), Status::Ok);

    // A second context that is attached to the screen but has no session, and one that uses a foreign mailbox.
    let mut other = Sidecar::new(8, 101);
    virgl::ctx_attach(8, 200);
    assert_eq!(other.frame(request), Status::NotBound);
    assert!(sidecar.request_as(8, Operation::Frame(request)).is_none());
    assert!(sidecar.request_as(0, Operation::Echo).is_none());

    // A context that reuses the ID inherits nothing.
    virgl::context_destroy(7);
    assert_eq!(link.next_event(), FromTap::ContextGone(first));
    assert_eq!(virgl::context_create(7, "another"), 0);
    assert!(sidecar.request_as(7, Operation::Frame(request)).is_none());
    virgl::ctx_attach(7, 100);
    virgl::ctx_attach(7, 200);
    assert_eq!(sidecar.frame(request), Status::NotBound);
    let _stale = link.attach(12, first, 4 * 640 * 360);
    let status = sidecar.until(Operation::Bind([6; 16]), |status| status != Status::RateLimited);
    assert_eq!(status, Status::Ok);
    let (second, name) = link.bound([6; 16]);
    assert_eq!((second.id, name.as_str()), (7, "another"));
    assert!(second.generation > first.generation);
    assert_eq!(sidecar.frame(request), Status::NotBound);
    let mut session = link.attach(13, second, 4 * 640 * 360);
    first_frame(&mut sidecar, request);
    session.take_frame();
    link.send_message(&ToTap::Detach { session: 13 }, &[]);
    sidecar.until(Operation::Frame(request), |status| status == Status::NotBound);

    virgl::resource_unref(200);
    sidecar.bind([7; 16]);
    let (context, _) = link.bound([7; 16]);
    let _session = link.attach(14, context, 4 * 640 * 360);
    sidecar.until(Operation::Frame(request), |status| status == Status::UnknownResource);
    virgl::resource_detach(100);
    assert!(sidecar.request_as(7, Operation::Echo).is_none());
}

#[test]
#[ignore = "a scene; run the test of the same name in main.rs"]
fn second_host_agent_is_found_after_the_first() {
    let agent = Agent::listen();
    start();
    let screen = Screen::new(200, 2, 64, 64, 0);
    let request = screen.request(PixelFormat::Bgrx);
    let (mut sidecar, link, _, session) = bound(&agent, 1 << 20);
    virgl::ctx_attach(7, 200);
    first_frame(&mut sidecar, request);
    drop((agent, link, session));
    sidecar.until(Operation::Frame(request), |status| status == Status::NoHostAgent);

    let agent = Agent::listen();
    let mut link = agent.accept();
    sidecar.until(Operation::Frame(request), |status| status == Status::NotBound);
    sidecar.bind([8; 16]);
    let (context, _) = link.bound([8; 16]);
    let mut session = link.attach(1, context, 1 << 20);
    let picture = pattern(64, 64, 9);
    screen.draw(7, &picture);
    first_frame(&mut sidecar, request);
    assert!(
        session
            .take_frame()
            .as_ref()
            .chunks(4)
            .zip(picture.chunks(4))
            .all(|(got, drawn)| got[..3] == drawn[..3])
    );
}

#[test]
#[ignore = "a scene; run the test of the same name in main.rs"]
fn restarted_renderer_keeps_context_generations() {
    let agent = Agent::listen();
    start();
    let (mut sidecar, mut link, first, _session) = bound(&agent, 1 << 20);
    virgl::reset();
    assert_eq!(link.next_event(), FromTap::ContextGone(first));
    link.stats(|stats| (stats.contexts, stats.resources) == (0, 0));
    assert!(sidecar.request_as(7, Operation::Echo).is_none());

    let mut sidecar = Sidecar::new(7, 100);
    sidecar.bind([1; 16]);
    let (second, _) = link.bound([1; 16]);
    assert!(second.generation > first.generation);

    virgl::cleanup();
    assert_eq!(link.next_event(), FromTap::ContextGone(second));
    start();
    let mut sidecar = Sidecar::new(7, 100);
    let screen = Screen::new(200, 2, 64, 64, 0);
    virgl::ctx_attach(7, 200);
    sidecar.bind([2; 16]);
    let (third, _) = link.bound([2; 16]);
    let mut session = link.attach(3, third, 1 << 20);
    first_frame(&mut sidecar, screen.request(PixelFormat::Bgrx));
    session.take_frame();
}

#[test]
#[ignore = "a scene; run the test of the same name in main.rs"]
fn hostile_host_agent_only_loses_its_connection() {
    let agent = Agent::listen();
    start();
    let mut sidecar = Sidecar::new(7, 100);
    let context = Context { id: 7, generation: 1 };
    let hello = ToTap::HelloAck { version: VERSION };
    let attach = ToTap::Attach { session: 1, ring: 1, context }.encode().to_vec();
    // Before the hello is answered, each message ends the connection, and the tap reconnects.
    for bytes in [
        vec![0xff; 64],
        Header { len: u32::MAX, kind: 0x81 }.encode().to_vec(),
        Header { len: 0, kind: 0x81 }.encode().to_vec(),
        Header { len: 4, kind: 0x01 }.encode().to_vec(),
        ToTap::HelloAck { version: VERSION + 1 }.encode().to_vec(),
        attach.clone(),
    ] {
        let stream = agent.accept_raw();
        let mut link = Link::from(stream);
        assert!(matches!(link.next(), Some(FromTap::Hello { .. })));
        link.send_raw(&bytes);
        while link.next().is_some() {}
        assert_eq!(sidecar.request(Operation::Bind([1; 16])).status, Status::NoHostAgent);
    }
    let null: OwnedFd = std::fs::File::open("/dev/null").expect("null").into();
    let (_consumer, memory) = Ring::create(frame_ring::SLOTS, 4096).expect("ring");
    let (_wake_fd, waker) = wake::pair().expect("pair");
    let waker = OwnedFd::from(waker);
    let (_peer, pipe) = UnixStream::pair().expect("pair");
    let ended = |link: &mut Link| while link.next().is_some() {};
    // After the hello, so does each wrong set of descriptors.
    let mut link = agent.accept();
    link.send_message(&hello, &[]);
    ended(&mut link);
    let mut link = agent.accept();
    link.send(&attach, &[]);
    ended(&mut link);
    let mut link = agent.accept();
    link.send(&attach, &[memory.as_fd()]);
    ended(&mut link);
    let mut link = agent.accept();
    link.send(&attach, &[memory.as_fd(); 16]);
    ended(&mut link);
    // A ring that cannot be used is refused and leaves the link as it is.
    let mut link = agent.accept();
    let (closed, gone) = wake::pair().expect("pair");
    drop(closed);
    let gone = OwnedFd::from(gone);
    for (descriptors, expected) in [
        ([null.as_fd(), waker.as_fd()], RingRefusal::Memfd),
        ([pipe.as_fd(), waker.as_fd()], RingRefusal::Memfd),
        ([memory.as_fd(), null.as_fd()], RingRefusal::WakeFd),
    ] {
        link.send(&attach, &descriptors);
        assert_eq!(link.refusal(), expected);
    }
    link.send(&attach, &[memory.as_fd(), gone.as_fd()]);
    assert!(matches!(link.next_event(), FromTap::RingReady { .. } | FromTap::RingRefused { .. }));
    // So are any number of messages to the idle VM.
    let detach = ToTap::Detach { session: 1 }.encode().to_vec();
    link.send_raw(&detach.repeat(1000));
    for session in 0..1000 {
        link.attach(session, context, 64);
    }
    // A message in single bytes is accepted, and so is a session for a context that sent no bind.
    for byte in &detach {
        link.send_raw(&[*byte]);
    }
    let _uninvited = link.attach(1, context, 4096);
    sidecar.bind([9; 16]);
    let (context, _) = link.bound([9; 16]);
    let screen = Screen::new(200, 2, 32, 32, 0);
    virgl::ctx_attach(7, 200);
    assert_eq!(sidecar.frame(screen.request(PixelFormat::Bgrx)), Status::NotBound);
    let mut session = link.attach(2, context, 4096);
    first_frame(&mut sidecar, screen.request(PixelFormat::Bgrx));
    session.take_frame();
    // A session without a consumer.
    drop(session);
    let answers: Vec<Status> = (0..50).map(|_| sidecar.frame(screen.request(PixelFormat::Bgrx))).collect();
    assert!(answers.iter().all(|status| *status == Status::Ok));
    assert_eq!(link.stats(|stats| stats.read.count >= 51).faults, 0);
}

#[test]
#[ignore = "a scene; run the test of the same name in main.rs"]
fn tap_without_host_agent_answers_and_waits() {
    start();
    let mut sidecar = Sidecar::new(7, 100);
    let screen = Screen::new(200, 2, 64, 64, 0);
    virgl::ctx_attach(7, 200);
    assert_eq!(sidecar.request(Operation::Echo).status, Status::Ok);
    assert_eq!(sidecar.request(Operation::Bind([1; 16])).status, Status::NoHostAgent);
    assert_eq!(sidecar.frame(screen.request(PixelFormat::Bgrx)), Status::NoHostAgent);
    // The tap connects once a host-agent listens.
    let agent = Agent::listen();
    let _link = agent.accept();
    sidecar.bind([1; 16]);
}

#[test]
#[ignore = "a scene; run the test of the same name in main.rs"]
fn floods_are_limited_and_malformed_requests_survived() {
    let agent = Agent::listen();
    start();
    let (mut sidecar, mut link, _, mut session) = bound(&agent, 1 << 20);
    // One pixel, so that a read takes less than the rate limit's 1 ms on any machine.
    let screen = Screen::new(200, 2, 1, 1, 0);
    virgl::ctx_attach(7, 200);
    let frame = Operation::Frame(screen.request(PixelFormat::Bgrx));
    first_frame(&mut sidecar, screen.request(PixelFormat::Bgrx));

    let statuses = |sidecar: &mut Sidecar, operation, times| -> Vec<Status> {
        (0..times).map(|_| sidecar.request(operation).status).collect()
    };
    let binds = statuses(&mut sidecar, Operation::Bind([3; 16]), 200);
    assert!(binds.contains(&Status::RateLimited) && binds.contains(&Status::Ok));
    let frames = statuses(&mut sidecar, frame, 20_000);
    assert!(frames.contains(&Status::RateLimited) && frames.contains(&Status::Ok));

    // Random and damaged requests, from a generator with a fixed seed.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let good = protocol::mailbox::Request { seq: 77, operation: frame }.encode();
    for round in 0..20_000_usize {
        let mut bytes = good;
        match round % 3 {
            0 => (0..8).for_each(|at| bytes[8 * at..8 * at + 8].copy_from_slice(&random().to_le_bytes())),
            1 => (0..3).for_each(|_| bytes[random() as usize % 64] ^= 1 << (random() % 8)),
            _ => bytes[(random() as usize % 64)..].fill(0),
        }
        let slot = round % mailbox::SLOTS;
        sidecar.put(slot, &bytes);
        let context = if round % 7 == 0 { random() as u32 } else { 7 };
        sidecar.transfer_as(context, slot);
    }
    // Contexts are created and destroyed.
    for round in 0..2000 {
        let id = 1000 + round % 50;
        virgl::context_create(id, "flood");
        virgl::ctx_attach(id, 100);
        virgl::ctx_attach(id, 200);
        virgl::context_destroy(id);
    }
    sidecar.until(Operation::Echo, |status| status == Status::Ok);
    sidecar.until(frame, |status| status == Status::Ok);
    session.take_frame();
    let counted = link.stats(|stats| stats.answers[Status::BadRequest as usize] > 1000);
    assert_eq!((counted.faults, counted.disabled, counted.contexts), (0, 0, 1));
}

/// Prints the tap's cost on this machine. Checks only that every frame was counted.
#[test]
#[ignore = "a scene; run the test of the same name in main.rs"]
fn entry_costs_are_measured() {
    let agent = Agent::listen();
    start();
    let (mut sidecar, mut link, _, mut session) = bound(&agent, SLOT_BYTES);
    let mut frames = 0;
    for (id, width, height) in [(201, 1280, 720), (202, 1920, 1080)] {
        let screen = Screen::new(id, 2, width, height, 0);
        virgl::ctx_attach(7, id);
        screen.draw(7, &pattern(width, height, 1));
        first_frame(&mut sidecar, screen.request(PixelFormat::Bgrx));
        session.take_frame();
        frames += 1;
        let mut out = vec![0; SLOT_BYTES];
        let (mut tap, mut own, mut bare) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..300 {
            let start = std::time::Instant::now();
            assert_eq!(virgl::bare_read(id, width, height, &mut out), 0);
            bare.push(start.elapsed().as_nanos() as u64);
            let answer = sidecar.request_within_limit(Operation::Frame(screen.request(PixelFormat::Bgrx)));
            assert_eq!(answer.status, Status::Ok);
            frames += 1;
            tap.push(answer.spent_ns.into());
            let slot = session.take_frame();
            own.push(u64::from(answer.spent_ns).saturating_sub(slot.meta().read_ns));
        }
        let line = |name: &str, mut ns: Vec<u64>| {
            ns.sort_unstable();
            let at = |percent: usize| ns[(ns.len() * percent).div_ceil(100) - 1] as f64 / 1e6;
            println!(
                "{width}x{height} {name}: p50 {:.3} ms, p99 {:.3} ms, max {:.3} ms",
                at(50),
                at(99),
                at(100)
            );
        };
        line("bare read", bare);
        line("tap, whole entry", tap);
        line("tap, without its read", own);
    }
    link.stats(|stats| stats.read.count == frames && stats.entry.count == frames);
}
