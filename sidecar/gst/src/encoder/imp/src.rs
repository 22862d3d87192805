//! The source pad: access units go out as they come back, and the rung is watched.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer::subclass::prelude::*;
use gstreamer_video::ForceKeyUnitEvent;
use protocol::stream::AccessUnit;
use frame_path::fallback::Rung;

use super::{AWAY, CAT, Encoder, LATENCY, TICK, lock};
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

    /// One turn of the source pad's task.
    pub(super) fn turn(&self, arrivals: &Receiver<Arrival>) {
        match arrivals.recv_timeout(TICK) {
            Ok(Arrival::Unit(unit)) => self.deliver(unit),
            Ok(Arrival::Dropped) => self.flow().ledger.dropped(),
            Ok(Arrival::Interrupted) => self.flow().ledger.interrupt(),
            Ok(Arrival::Lost(reason)) => gst::warning!(CAT, imp = self, "{reason}"),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(TICK),
        }
        self.changed.notify_all();
        self.look();
    }

    fn deliver(&self, unit: AccessUnit) {
        let stamp = {
            let mut flow = self.flow();
            if flow.ended || flow.last.is_err() {
                return;
            }
            let Some(stamp) = flow.ledger.land(&unit, Instant::now()) else { return };
            stamp
        };
        gst::trace!(CAT, imp = self, "{} bytes, {stamp:?}, idr {}", unit.data.len(), unit.idr);
        let mut buffer = gst::Buffer::from_slice(unit.data);
        let fresh = buffer.make_mut();
        // No frame refers to a later one: shown in the order of decoding.
        fresh.set_pts(stamp.pts);
        fresh.set_dts(stamp.pts);
        if !unit.idr {
            fresh.set_flags(gst::BufferFlags::DELTA_UNIT);
        }
        let pushed = self.src.push(buffer);
        let mut flow = self.flow();
        match pushed {
            // A flush passes; upstream sees its own.
            Ok(_) | Err(gst::FlowError::Flushing) => {}
            Err(error) if flow.last.is_ok() => {
                gst::debug!(CAT, imp = self, "downstream: {error}");
                // Told to upstream by the next frame.
                flow.last = Err(error);
            }
            Err(_) => {}
        }
    }

    /// Sees whether the rung is another, or none that we take.
    fn look(&self) {
        let Some((rung, reason, host_agent)) = lock(&self.session).as_ref().map(|session| {
            let (rung, reason) = session.rung();
            (rung, reason, session.host_agent())
        }) else {
            return;
        };
        let now = Instant::now();
        let mut flow = self.flow();
        let (before, stuck) = (flow.rung, flow.ledger.stuck(now));
        let away = if rung == Some(Rung::Local) {
            *flow.away.get_or_insert(now)
        } else {
            (flow.away, flow.rung) = (None, rung);
            now
        };
        drop(flow);
        if now.duration_since(away) >= AWAY {
            return self.fail(&format!("no encoder on the VM's host: {reason}"));
        }
        if stuck {
            let text = "the host-agent has sent no picture for a first frame; its log says why";
            return self.fail(&format!("{text} (it is {host_agent}; rung {rung:?} {reason})"));
        }
        if before == rung || !matches!(rung, Some(Rung::ResourceId | Rung::Pixels)) {
            return;
        }
        self.obj().notify_rung();
        gst::info!(CAT, imp = self, "rung {rung:?} {reason}");
        if rung == Some(Rung::Pixels) {
            self.not_by_id(&reason);
        }
    }

    fn not_by_id(&self, reason: &str) {
        if self.settings().require == Require::ZeroCopy {
            self.fail(&format!("require=zero-copy, but frames cannot go by resource ID: {reason}"));
        } else if lock(&self.input).as_ref().is_some_and(|input| input.video().memory != Memory::System) {
            let text = "frames are pushed as pixels, not by resource ID";
            gst::element_imp_warning!(self, gst::ResourceError::Settings, ("{text}: {reason}"));
        }
    }
}
