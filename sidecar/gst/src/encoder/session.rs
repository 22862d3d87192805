//! Pump, host-agent connection and an external capture, connected for one encoder element.
//!
//! ```text
//!  frames ─▶ frame sink ─▶ pump ─┬─ mailbox ─▶ tap ─▶ host-agent ─┐
//!                                └─ upstream ─▶ host-agent ───────┤
//!  arrivals ◀─────────────────────────────────────────────────────┘
//! ```
//!
//! Frame path `Local` is not used: if the pump falls back to it, the element fails with the reason.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::Duration;

use capture::{Frame, FrameSink};
use contract::{FramePath, HostAgentConnection};
use frame_path::pump::{Parts, Pump, PumpOptions};
use frame_path::report::Report;
use frame_path::source_switch::{DiscardUnits, SourceSwitch};
use frame_path::upstream::{Event, Upstream, UpstreamOptions};
use parking_lot::Mutex;
use protocol::stream::{AccessUnit, Codec, ServerMessage};
use tokio::runtime::{Builder, Runtime};
use virtgpu::Device;

/// Maximum number of access units queued while downstream is busy.
const QUEUE: usize = 64;

/// Parameters of the stream.
#[derive(Debug, Clone, Copy)]
pub struct Parameters {
    /// Bit rate, kbit/s.
    pub bitrate_kbps: u32,
    /// Maximum frame rate, frames per second.
    pub max_fps: u16,
    /// Maximum time between keyframes, ms; 0 for keyframes on demand only.
    pub keyframe_ms: u32,
}

/// Event from the host-agent.
#[derive(Debug)]
pub enum Arrival {
    /// An access unit.
    Unit(AccessUnit),
    /// The host-agent dropped a frame.
    Dropped,
    /// A new session, and thus a new encoder.
    Interrupted,
    /// The session ended or an attempt failed, with the error; another attempt follows.
    Lost(String),
}

/// Running pump and connection.
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
    /// Starts the connection and the pump. Frames may be put at once.
    pub fn start(
        options: UpstreamOptions,
        device: Result<Device, String>,
        parameters: Parameters,
    ) -> io::Result<(Self, Receiver<Arrival>)> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("desktopstreamenc")
            .enable_all()
            .build()?;
        let report = Arc::new(Report::new("desktopstreamenc".to_owned()));
        let want_idr = Arc::new(AtomicBool::new(false));
        let stop = Arc::new(AtomicBool::new(false));
        let (event_sender, events) = mpsc::channel();
        let (arrival_sender, arrivals) = mpsc::sync_channel(QUEUE);
        let delivery =
            Mutex::new(Delivery { queue: arrival_sender, gap: false, want_idr: Arc::clone(&want_idr) });
        let upstream = {
            let _runtime = runtime.enter();
            Upstream::start(options, move |event| event_sender.send(delivery.lock().deliver(event)).is_ok())
        };
        let (sink, capture) = capture::external();
        let pump = Pump::new(
            PumpOptions {
                only_path: None,
                push_nv12: true,
                local_encoder: encode::Choice::Null,
                bitrate_kbps: parameters.bitrate_kbps,
                max_fps: parameters.max_fps,
                keyframe_ms: parameters.keyframe_ms,
                codec: Codec::H264,
            },
            Parts {
                capture,
                device,
                upstream: Some(upstream),
                events,
                switch: Arc::new(SourceSwitch::new(DiscardUnits, Arc::clone(&report))),
                report: Arc::clone(&report),
                want_idr: Arc::clone(&want_idr),
                stop: Arc::clone(&stop),
            },
        );
        let pump = std::thread::Builder::new().name("pump".to_owned()).spawn(move || pump.run())?;
        Ok((Self { sink, report, want_idr, stop, pump: Some(pump), runtime: Some(runtime) }, arrivals))
    }

    /// Hands a frame to the pump.
    pub fn put(&self, frame: Frame) {
        self.sink.put(frame);
    }

    /// True if the pump took the previous frame; otherwise another one would replace it.
    pub fn is_ready(&self) -> bool {
        self.sink.is_empty()
    }

    /// Makes the next access unit an IDR.
    pub fn want_idr(&self) {
        self.want_idr.store(true, Ordering::Relaxed);
    }

    /// Frame path in use, and the reason why no better one is.
    pub fn frame_path(&self) -> (Option<FramePath>, String) {
        self.report.read(|status| (status.frame_path, status.frame_path_reason.clone()))
    }

    /// State of the host-agent connection.
    pub fn host_agent(&self) -> HostAgentConnection {
        self.report.read(|status| status.host_agent.clone())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(pump) = self.pump.take() {
            // The pump checks `stop` every 20 ms. A panic was reported by its thread.
            let _ = pump.join();
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_millis(500));
        }
    }
}

/// Queues arrivals for the element and passes events on to the pump.
#[derive(Debug)]
struct Delivery {
    queue: SyncSender<Arrival>,
    /// An access unit was discarded: those that follow are discarded until an IDR.
    gap: bool,
    want_idr: Arc<AtomicBool>,
}

impl Delivery {
    /// Queues what the element needs of `event` and returns what the pump needs of it: access units without their
    /// bytes.
    fn deliver(&mut self, event: Event) -> Event {
        match event {
            Event::Message(ServerMessage::AccessUnit(unit)) => {
                let header = AccessUnit { data: bytes::Bytes::new(), ..unit.clone() };
                if !self.gap || unit.idr {
                    self.gap = false;
                    self.push(Arrival::Unit(unit));
                }
                Event::Message(ServerMessage::AccessUnit(header))
            }
            Event::Message(ServerMessage::Dropped { seq }) => {
                self.push(Arrival::Dropped);
                Event::Message(ServerMessage::Dropped { seq })
            }
            Event::Connected(session) => {
                self.push(Arrival::Interrupted);
                Event::Connected(session)
            }
            Event::Disconnected(error) => {
                self.push(Arrival::Lost(error.to_string()));
                Event::Disconnected(error)
            }
            event @ Event::Message(_) => event,
        }
    }

    /// Queues an arrival without blocking the connection's thread.
    fn push(&mut self, arrival: Arrival) {
        if let Err(TrySendError::Full(Arrival::Unit(_) | Arrival::Interrupted)) = self.queue.try_send(arrival)
        {
            self.gap = true;
            self.want_idr.store(true, Ordering::Relaxed);
        }
    }
}
