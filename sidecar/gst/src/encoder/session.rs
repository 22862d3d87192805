//! The sidecar's parts, joined for one encoder: pump, connection, and a capture that is fed by hand.
//!
//! ```text
//!  frames ─▶ sink ──▶ pump ─┬─ mailbox ─▶ tap ─▶ host-agent ─┐
//!                           └─ upstream ─▶ host-agent ───────┤
//!  arrivals ◀────────────────────────────────────────────────┘
//! ```
//!
//! Rung `Local` is never used: where the ladder ends there, the element fails with the ladder's reason.
//! It knows nothing of GStreamer.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use protocol::stream::{AccessUnit, Codec, ServerMessage};
use capture::{self, Frame, FrameSink};
use frame_path::gate::Gate;
use frame_path::fallback::Rung;
use frame_path::pump::{Parts, Pump, PumpOptions};
use frame_path::report::Report;
use frame_path::upstream::{Event, Upstream, UpstreamOptions};
use viewers::{Hub, HubOptions};
use tokio::runtime::{Builder, Runtime};
use virtgpu::Device;

/// Access units that may wait while downstream does not take any.
const QUEUE: usize = 64;

/// What the pump is to ask the host-agent for.
#[derive(Debug, Clone, Copy)]
pub struct Wishes {
    /// Bit rate, kbit/s.
    pub bitrate_kbps: u32,
    /// Highest frame rate.
    pub max_fps: u16,
    /// Longest time between keyframes, ms.
    pub keyframe_ms: u32,
}

/// What comes from the host-agent.
#[derive(Debug)]
pub enum Arrival {
    /// An access unit.
    Unit(AccessUnit),
    /// A frame was dropped there.
    Dropped,
    /// The connection is a new one, and the encoder too.
    Interrupted,
    /// There is no connection, for that reason; another attempt follows.
    Lost(String),
}

/// A running pump.
#[derive(Debug)]
pub struct Session {
    sink: FrameSink,
    report: Arc<Report>,
    want_idr: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    pump: Option<JoinHandle<()>>,
    runtime: Option<Runtime>,
}

impl Session {
    /// Starts connecting; frames may be put at once.
    pub fn start(
        options: UpstreamOptions,
        device: Result<Device, String>,
        wishes: Wishes,
    ) -> io::Result<(Self, Receiver<Arrival>)> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("desktopstreamenc")
            .enable_all()
            .build()?;
        let report = Arc::new(Report::new("desktopstreamenc".to_owned()));
        let want_idr = Arc::new(AtomicBool::new(false));
        let stop = Arc::new(AtomicBool::new(false));
        let (event_in, events) = mpsc::channel();
        let (arrival_in, arrivals) = mpsc::sync_channel(QUEUE);
        let delivery = Mutex::new(Delivery { to: arrival_in, gap: false, want_idr: Arc::clone(&want_idr) });
        let upstream = {
            let _runtime = runtime.enter();
            Upstream::start(options, move |event| {
                let mut delivery = delivery.lock().unwrap_or_else(PoisonError::into_inner);
                event_in.send(delivery.pass(event)).is_ok()
            })
        };
        let (sink, capture) = capture::external();
        let pump = Pump::new(
            PumpOptions {
                rung: None,
                push_nv12: true,
                local_encoder: encode::Choice::Null,
                bitrate_kbps: wishes.bitrate_kbps,
                max_fps: wishes.max_fps,
                keyframe_ms: wishes.keyframe_ms,
                codec: Codec::H264,
            },
            Parts {
                capture,
                device,
                upstream: Some(upstream),
                events,
                gate: Arc::new(Gate::new(Hub::new(HubOptions::default()), Arc::clone(&report))),
                report: Arc::clone(&report),
                want_idr: Arc::clone(&want_idr),
                stop: Arc::clone(&stop),
            },
        );
        let pump = std::thread::Builder::new().name("pump".to_owned()).spawn(move || pump.run())?;
        Ok((Self { sink, report, want_idr, stop, pump: Some(pump), runtime: Some(runtime) }, arrivals))
    }

    /// Hands the pump a frame.
    pub fn put(&self, frame: Frame) {
        self.sink.put(frame);
    }

    /// Whether the pump took the frame before: another would replace it.
    pub fn takes(&self) -> bool {
        self.sink.is_empty()
    }

    /// The next access unit shall be an IDR.
    pub fn want_idr(&self) {
        self.want_idr.store(true, Ordering::Relaxed);
    }

    /// The rung in use, and why no better one.
    pub fn rung(&self) -> (Option<Rung>, String) {
        let mut seen = (None, String::new());
        self.report.update(|status| seen = (status.rung, status.rung_reason.clone()));
        seen
    }

    /// What the host-agent connection is up to.
    pub fn host_agent(&self) -> String {
        let mut text = String::new();
        self.report.update(|status| text.clone_from(&status.host_agent));
        text
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(pump) = self.pump.take() {
            // It looks at `stop` in every wait; a panic there was reported already.
            let _ = pump.join();
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_millis(500));
        }
    }
}

/// Passes what arrives to the element, and to the pump what it wants of it.
#[derive(Debug)]
struct Delivery {
    to: SyncSender<Arrival>,
    /// An access unit was lost here: the next that can be decoded is an IDR.
    gap: bool,
    want_idr: Arc<AtomicBool>,
}

impl Delivery {
    fn pass(&mut self, event: Event) -> Event {
        match event {
            Event::Message(ServerMessage::AccessUnit(unit)) => {
                // The pump wants to know which frame landed, not its bytes.
                let landed = AccessUnit { data: bytes::Bytes::new(), ..unit.clone() };
                if !self.gap || unit.idr {
                    self.gap = false;
                    self.deliver(Arrival::Unit(unit));
                }
                Event::Message(ServerMessage::AccessUnit(landed))
            }
            Event::Message(ServerMessage::Dropped { seq }) => {
                self.deliver(Arrival::Dropped);
                Event::Message(ServerMessage::Dropped { seq })
            }
            Event::Connected(session) => {
                self.deliver(Arrival::Interrupted);
                Event::Connected(session)
            }
            Event::Disconnected(error) => {
                self.deliver(Arrival::Lost(error.to_string()));
                Event::Disconnected(error)
            }
            event @ Event::Message(_) => event,
        }
    }

    /// Never waits: this is the connection's thread.
    fn deliver(&mut self, arrival: Arrival) {
        if let Err(TrySendError::Full(Arrival::Unit(_) | Arrival::Interrupted)) = self.to.try_send(arrival) {
            self.gap = true;
            self.want_idr.store(true, Ordering::Relaxed);
        }
    }
}
