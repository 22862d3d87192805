//! The sink pad: buffers become frames, and wait until there is room for them.
//!
//! Events that follow pictures (caps, segment, EOS) wait until these are through.

use std::path::Path;
use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer::subclass::prelude::*;
use gstreamer_video::{ForceKeyUnitEvent, VideoMeta};
use encode::clock::clock_ns;
use virtgpu::Device;

use super::{CAT, Encoder, Flow, TICK, USUAL_FPS, lock};
use crate::caps::{Memory, Video};
use crate::encoder::Require;
use crate::encoder::input::Input;
use crate::encoder::ledger::Ledger;
use crate::encoder::session::{Session, Wishes};

impl Encoder {
    /// Waits until `ready`; else why the wait ended.
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
            flow = self.changed.wait_timeout(flow, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until all pictures are through.
    fn drain(&self) {
        if let Err(error) = self.wait(|ledger| ledger.is_empty(Instant::now())) {
            gst::debug!(CAT, imp = self, "not drained: {error}");
        }
    }

    pub(super) fn chain(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let pts = buffer.pts();
        // Not before there is room: the frame is the producer's buffer, and should be young when it goes.
        let takes = || lock(&self.session).as_ref().is_none_or(Session::takes);
        drop(self.wait(|ledger| ledger.room(Instant::now()) && takes())?);
        let capture_ns = clock_ns();
        let frame = match lock(&self.input).as_mut().map(|input| input.frame(buffer, capture_ns)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                self.fail(&error.to_string());
                return Err(gst::FlowError::Error);
            }
            None => return Err(gst::FlowError::NotNegotiated),
        };
        self.flow().ledger.enter(capture_ns, pts, Instant::now());
        if let Some(session) = &*lock(&self.session) {
            session.put(frame);
        }
        Ok(gst::FlowSuccess::Ok)
    }

    pub(super) fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::Caps(caps) => {
                self.drain();
                return match self.begin(caps.caps()) {
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
            // Rows may be apart: the meta says how far.
            allocation.add_allocation_meta::<VideoMeta>(None);
            return true;
        }
        gst::Pad::query_default(pad, Some(&*self.obj()), query)
    }

    /// Makes ready for pictures of these caps: the caps of what comes out.
    pub(super) fn begin(&self, caps: &gst::CapsRef) -> Result<gst::Caps, String> {
        let video = Video::parse(caps).map_err(|error| error.to_string())?;
        let settings = self.settings();
        let device = Device::open(Path::new(&settings.render_node)).map_err(|error| error.to_string());
        match (&device, video.memory, settings.require) {
            (_, Memory::System, Require::ZeroCopy) => {
                return Err(
                    "require=zero-copy, but the pictures come in system memory, which has no resource ID: \
                     ask the element before desktopstreamenc for video/x-raw(memory:DMABuf)"
                        .to_owned(),
                );
            }
            (Err(error), Memory::DmaBuf | Memory::DmaDrm, _) => return Err(error.clone()),
            _ => {}
        }
        self.flow().ledger.clear();
        let mut session = lock(&self.session);
        if session.is_none() {
            let wishes = Wishes {
                bitrate_kbps: settings.bitrate,
                max_fps: video.fps.unwrap_or(USUAL_FPS),
                keyframe_ms: settings.keyframe_interval,
            };
            let (made, arrivals) = Session::start(self.upstream()?, device.clone(), wishes)
                .map_err(|error| format!("cannot start threads for the host-agent's connection: {error}"))?;
            *session = Some(made);
            drop(session);
            let it = self.obj().downgrade();
            let task = move || {
                if let Some(it) = it.upgrade() {
                    it.imp().turn(&arrivals);
                }
            };
            self.src.start_task(task).map_err(|error| error.to_string())?;
        }
        *lock(&self.input) = Some(Input::new(video, device.ok()));
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
