//! Source pad: pushes access units and watches the frame path.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use contract::FramePath;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer::subclass::prelude::*;
use gstreamer_video::ForceKeyUnitEvent;
use protocol::stream::AccessUnit;

use super::{CAT, DISCONNECTED_TIMEOUT, Encoder, LATENCY, TICK};
use crate::caps::Memory;
use crate::encoder::Require;
use crate::encoder::session::Arrival;

impl Encoder {
    pub(super) fn src_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        if ForceKeyUnitEvent::is(&event) {
            self.want_idr();
            return true;
        }
        gst::Pad::event_default(pad, Some(&*self.obj()), event)
    }

    pub(super) fn src_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        if let gst::QueryViewMut::Latency(latency) = query.view_mut() {
            let mut upstream = gst::query::Latency::new();
            if !self.sink.peer_query(&mut upstream) {
                return false;
            }
            let (live, min, max) = upstream.result();
            latency.set(live, min + LATENCY, max.map(|max| max + LATENCY));
            return true;
        }
        gst::Pad::query_default(pad, Some(&*self.obj()), query)
    }

    /// One iteration of the source pad's task.
    pub(super) fn run_once(&self, arrivals: &Receiver<Arrival>) {
        match arrivals.recv_timeout(TICK) {
            Ok(Arrival::Unit(unit)) => self.push(unit),
            Ok(Arrival::Dropped) => self.flow().ledger.dropped(),
            Ok(Arrival::Interrupted) => self.flow().ledger.interrupt(),
            Ok(Arrival::Lost(reason)) => gst::warning!(CAT, imp = self, "{reason}"),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(TICK),
        }
        self.changed.notify_all();
        self.check_frame_path();
    }

    fn push(&self, unit: AccessUnit) {
        let stamp = {
            let mut flow = self.flow();
            if flow.ended || flow.last.is_err() {
                return;
            }
            let Some(stamp) = flow.ledger.complete(&unit, Instant::now()) else { return };
            stamp
        };
        gst::trace!(CAT, imp = self, "{} bytes, {stamp:?}, idr {}", unit.data.len(), unit.idr);
        let mut buffer = gst::Buffer::from_slice(unit.data);
        let writable = buffer.make_mut();
        // Without B-frames, presentation order is decoding order.
        writable.set_pts(stamp.pts);
        writable.set_dts(stamp.pts);
        if !unit.idr {
            writable.set_flags(gst::BufferFlags::DELTA_UNIT);
        }
        let pushed = self.src.push(buffer);
        let mut flow = self.flow();
        match pushed {
            // A flush ends by itself; upstream receives its own flush events.
            Ok(_) | Err(gst::FlowError::Flushing) => {}
            Err(error) if flow.last.is_ok() => {
                gst::debug!(CAT, imp = self, "downstream: {error}");
                // The next frame returns it to upstream.
                flow.last = Err(error);
            }
            Err(_) => {}
        }
    }

    /// Announces a change of the frame path; fails the pipeline if the host-agent cannot be used or does not answer.
    fn check_frame_path(&self) {
        let Some((path, reason, host_agent)) = self.session.lock().as_ref().map(|session| {
            let (path, reason) = session.frame_path();
            (path, reason, session.host_agent())
        }) else {
            return;
        };
        let now = Instant::now();
        let mut flow = self.flow();
        let (before, stuck) = (flow.frame_path, flow.ledger.is_stuck(now));
        let disconnected = if path == Some(FramePath::Local) {
            *flow.disconnected.get_or_insert(now)
        } else {
            (flow.disconnected, flow.frame_path) = (None, path);
            now
        };
        drop(flow);
        if now.duration_since(disconnected) >= DISCONNECTED_TIMEOUT {
            return self.fail(&format!("no encoder on the VM's host: {reason}"));
        }
        if stuck {
            let text = "the host-agent has sent no access unit for the first frame; see the host-agent's log";
            return self.fail(&format!("{text} (frame path {path:?} {reason}; {host_agent:?})"));
        }
        let Some(path @ (FramePath::ResourceId | FramePath::Pixels)) = path else { return };
        if before == Some(path) {
            return;
        }
        self.obj().notify_frame_path();
        gst::info!(CAT, imp = self, "frame path {path} {reason}");
        if path == FramePath::Pixels {
            self.on_pixels_path(&reason);
        }
    }

    /// Fails or warns, depending on `require`.
    fn on_pixels_path(&self, reason: &str) {
        if self.settings().require == Require::ZeroCopy {
            self.fail(&format!("require=zero-copy, but frames cannot be sent by resource ID: {reason}"));
        } else if self.input.lock().as_ref().is_some_and(|input| input.video().memory != Memory::System) {
            let text = "frames are sent as pixels, not by resource ID";
            gst::element_imp_warning!(self, gst::ResourceError::Settings, ("{text}: {reason}"));
        }
    }
}
