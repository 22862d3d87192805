//! Sink pad: converts buffers to frames and submits them when there is room.
//!
//! Serialized events (caps, segment, EOS) wait until all frames before them have returned.

use std::path::Path;
use std::time::Instant;

use encode::clock::clock_ns;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer::subclass::prelude::*;
use gstreamer_video::{ForceKeyUnitEvent, VideoMeta};
use parking_lot::MutexGuard;
use virtgpu::Device;

use super::{CAT, DEFAULT_FPS, Encoder, Flow, TICK};
use crate::caps::{Memory, Video};
use crate::encoder::Require;
use crate::encoder::input::Input;
use crate::encoder::ledger::Ledger;
use crate::encoder::session::{Parameters, Session};

impl Encoder {
    /// Waits until `ready` returns true; fails if the element flushes or downstream fails.
    fn wait(&self, ready: impl Fn(&mut Ledger) -> bool) -> Result<MutexGuard<'_, Flow>, gst::FlowError> {
        let mut flow = self.flow();
        loop {
            if flow.flushing {
                return Err(gst::FlowError::Flushing);
            }
            flow.last?;
            if ready(&mut flow.ledger) {
                return Ok(flow);
            }
            self.changed.wait_for(&mut flow, TICK);
        }
    }

    /// Waits until no frame is in flight.
    fn drain(&self) {
        if let Err(error) = self.wait(|ledger| ledger.is_empty(Instant::now())) {
            gst::debug!(CAT, imp = self, "not drained: {error}");
        }
    }

    pub(super) fn chain(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let pts = buffer.pts();
        // Waits before the conversion, so that the capture time is close to the submission.
        let session_ready = || self.session.lock().as_ref().is_none_or(Session::is_ready);
        drop(self.wait(|ledger| ledger.has_room(Instant::now()) && session_ready())?);
        let capture_ns = clock_ns();
        let frame = match self.input.lock().as_mut().map(|input| input.frame(buffer, capture_ns)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                self.fail(&error.to_string());
                return Err(gst::FlowError::Error);
            }
            None => return Err(gst::FlowError::NotNegotiated),
        };
        self.flow().ledger.begin(capture_ns, pts, Instant::now());
        if let Some(session) = &*self.session.lock() {
            session.put(frame);
        }
        Ok(gst::FlowSuccess::Ok)
    }

    pub(super) fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::Caps(caps) => {
                self.drain();
                return match self.configure(caps.caps()) {
                    Ok(caps) => self.src.push_event(gst::event::Caps::new(&caps)),
                    Err(text) => {
                        self.fail(&text);
                        false
                    }
                };
            }
            gst::EventView::Segment(_) => self.drain(),
            gst::EventView::Eos(_) => {
                self.drain();
                self.flow().ended = true;
            }
            gst::EventView::FlushStart(_) => {
                self.flow().flushing = true;
                self.changed.notify_all();
            }
            gst::EventView::FlushStop(_) => {
                let mut flow = self.flow();
                flow.ledger.clear();
                (flow.flushing, flow.ended, flow.last) = (false, false, Ok(gst::FlowSuccess::Ok));
                drop(flow);
                self.want_idr();
            }
            _ if ForceKeyUnitEvent::is(&event) => self.want_idr(),
            _ => {}
        }
        gst::Pad::event_default(pad, Some(&*self.obj()), event)
    }

    pub(super) fn sink_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        if let gst::QueryViewMut::Allocation(allocation) = query.view_mut() {
            // Row padding is supported: the meta carries the stride.
            allocation.add_allocation_meta::<VideoMeta>(None);
            return true;
        }
        gst::Pad::query_default(pad, Some(&*self.obj()), query)
    }

    /// Prepares for pictures with these caps and returns the output caps.
    pub(super) fn configure(&self, caps: &gst::CapsRef) -> Result<gst::Caps, String> {
        let video = Video::parse(caps).map_err(|error| error.to_string())?;
        let settings = self.settings();
        let device = Device::open(Path::new(&settings.render_node)).map_err(|error| error.to_string());
        match (&device, video.memory, settings.require) {
            (_, Memory::System, Require::ZeroCopy) => {
                return Err(
                    "require=zero-copy, but the pictures are in system memory, which has no resource ID: request \
                     video/x-raw(memory:DMABuf) from the element before desktopstreamenc"
                        .to_owned(),
                );
            }
            (Err(error), Memory::DmaBuf | Memory::DmaDrm, _) => return Err(error.clone()),
            _ => {}
        }
        self.flow().ledger.clear();
        let mut session = self.session.lock();
        if session.is_none() {
            let parameters = Parameters {
                bitrate_kbps: settings.bitrate,
                max_fps: video.fps.unwrap_or(DEFAULT_FPS),
                keyframe_ms: settings.keyframe_interval,
            };
            let (started, arrivals) = Session::start(self.upstream()?, device.clone(), parameters)
                .map_err(|error| format!("cannot start threads for the host-agent's connection: {error}"))?;
            *session = Some(started);
            drop(session);
            let element = self.obj().downgrade();
            let task = move || {
                if let Some(element) = element.upgrade() {
                    element.imp().run_once(&arrivals);
                }
            };
            self.src.start_task(task).map_err(|error| error.to_string())?;
        }
        *self.input.lock() = Some(Input::new(video, device.ok()));
        let mut out = gst::Caps::builder("video/x-h264")
            .field("stream-format", "byte-stream")
            .field("alignment", "au")
            .field("width", video.width as i32)
            .field("height", video.height as i32);
        if let Some(rate) = caps.structure(0).and_then(|raw| raw.get::<gst::Fraction>("framerate").ok()) {
            out = out.field("framerate", rate);
        }
        Ok(out.build())
    }
}
