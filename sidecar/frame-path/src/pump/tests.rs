//! The pump with frames from an external capture and events injected in place of a host-agent's.

use std::sync::mpsc::{Sender, channel};

use capture::{FrameBuffer, FrameSink, Lease, ShmView};
use contract::{Endpoint, SidecarStatus};
use protocol::Rect;
use virtgpu::SharedMap;

use super::*;
use crate::source_switch::DiscardUnits;
use crate::upstream::{EndpointSource, SIDECAR, TokenSource, UpstreamError, UpstreamOptions};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Running pump with a null encoder as the local one.
struct Bench {
    sink: FrameSink,
    events: Sender<Event>,
    report: Arc<Report>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    frames: u64,
}

impl Bench {
    fn start(upstream: Option<Upstream>) -> Self {
        let (sink, capture) = capture::external();
        let (events, received) = channel();
        let report = Arc::new(Report::new("test".into()));
        let stop = Arc::new(AtomicBool::new(false));
        let options = PumpOptions {
            only_path: None,
            push_nv12: true,
            local_encoder: encode::Choice::Null,
            bitrate_kbps: 1000,
            max_fps: 240,
            keyframe_ms: 0,
            codec: Codec::H264,
        };
        let parts = Parts {
            capture,
            device: Err("no render node in this test".into()),
            upstream,
            events: received,
            switch: Arc::new(SourceSwitch::new(DiscardUnits, Arc::clone(&report))),
            report: Arc::clone(&report),
            want_idr: Arc::default(),
            stop: Arc::clone(&stop),
        };
        let thread = std::thread::spawn(move || Pump::new(options, parts).run());
        Self { sink, events, report, stop, thread: Some(thread), frames: 0 }
    }

    fn put(&mut self, width: u32, height: u32) {
        let len = (4 * width * height) as usize;
        let (map, _) = SharedMap::create("test", len).expect("memfd");
        self.frames += 1;
        self.sink.put(Frame {
            seq: self.frames,
            capture_ns: self.frames,
            width,
            height,
            format: PixelFormat::Bgrx,
            damage: Rect::full(width, height),
            buffer: FrameBuffer::Shm(ShmView::new(Arc::new(map), 0, 4 * width, height).expect("fits")),
            lease: Lease::default(),
        });
    }

    fn event(&self, event: Event) {
        self.events.send(event).expect("the pump runs");
    }

    fn wait(&self, condition: impl Fn(&SidecarStatus) -> bool) -> SidecarStatus {
        let start = Instant::now();
        loop {
            let status = self.report.status(0, 0);
            if condition(&status) {
                return status;
            }
            assert!(start.elapsed() < TIMEOUT, "{status:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map_or(Ok(()), JoinHandle::join);
        assert!(ended.is_ok() || std::thread::panicking(), "the pump panicked");
    }
}

fn endpoint() -> Endpoint {
    "tcp://127.0.0.1:9".parse().expect("an endpoint")
}

fn session(max_pixels: u32) -> Session {
    Session { endpoint: endpoint(), session: 1, nonce: [0; 16], taps: 0, max_pixels, server: "test".into() }
}

/// A connection whose own events are ignored: tests inject theirs.
fn upstream(runtime: &tokio::runtime::Runtime) -> Upstream {
    let _entered = runtime.enter();
    let options = UpstreamOptions {
        endpoint: EndpointSource::Fixed(endpoint()),
        tls_key: None,
        token: TokenSource::None,
        client: SIDECAR,
    };
    Upstream::start(options, |_| true)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

#[test]
fn every_captured_frame_is_encoded_or_counted_as_dropped() {
    let mut bench = Bench::start(None);
    for _ in 0..200 {
        bench.put(16, 16);
    }
    let status = bench.wait(|status| {
        let frames = &status.frames;
        frames.captured == 200 && frames.encoded > 0 && frames.encoded + frames.dropped == 200
    });
    assert_eq!(status.frame_path, Some(FramePath::Local));
    assert!(status.frames.drops.capture > 0, "the slot holds one frame: {status:?}");
}

#[test]
fn picture_above_the_host_agents_limit_falls_back_to_local_until_it_fits() {
    let runtime = runtime();
    let mut bench = Bench::start(Some(upstream(&runtime)));
    bench.event(Event::Connected(session(32 * 32)));
    bench.put(32, 32);
    bench.wait(|status| status.frame_path == Some(FramePath::Pixels));
    bench.put(64, 32);
    let status = bench.wait(|status| status.frame_path == Some(FramePath::Local));
    let reason = Reason::PictureTooLarge { pixels: 64 * 32, limit: 32 * 32 };
    assert_eq!(status.frame_path_reason, reason.to_string());
    bench.put(32, 16);
    bench.wait(|status| status.frame_path == Some(FramePath::Pixels));
}

#[test]
fn connection_state_follows_the_connections_events() {
    let runtime = runtime();
    let mut bench = Bench::start(Some(upstream(&runtime)));
    bench.wait(|status| status.host_agent == HostAgentConnection::Connecting);
    bench.event(Event::Connected(session(u32::MAX)));
    let connected = HostAgentConnection::Connected { endpoint: endpoint(), server: "test".into() };
    bench.wait(|status| status.host_agent == connected);
    bench.event(Event::Disconnected(UpstreamError::Refused {
        code: protocol::stream::ErrorCode::ExpiredToken,
        message: "any text".into(),
    }));
    bench.wait(|status| matches!(status.host_agent, HostAgentConnection::TokenExpired { .. }));
    bench.put(16, 16);
    bench.wait(|status| status.frame_path == Some(FramePath::Local));
}
