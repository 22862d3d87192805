//! The GStreamer backend: `appsrc ! ENCODER ! h264parse ! appsink`, used as a function.
//!
//! [`Gst::submit`] converts a picture straight into a buffer of the pipeline's, pushes it, and waits for
//! its access unit, so at most one picture is under way and order, matching and back-pressure need no
//! bookkeeping. An encoder that keeps a picture to itself for [`PATIENCE`] is broken.
//!
//! Keyframes are ours, not the element's: its own interval is off, and an IDR is asked for when the
//! caller wants one or the interval has passed *in time*. What differs from element to element is in
//! [`elements`]; this file does not know their names.

pub mod elements;
mod output;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::{AppSink, AppSinkCallbacks, AppSrc};
use gstreamer_video::{
    UpstreamForceKeyUnitEvent, VideoBufferPool, VideoColorimetry, VideoFormat, VideoFrame, VideoFrameExt,
    VideoFrameFlags, VideoInfo, VideoMeta,
};

use crate::convert::{self, Plane, Planes, coded_side};
use crate::encoder::{Codec, EncodeError, Encoder, Output, PATIENCE, Picture, PixelFormat, Settings, Sink};
use crate::null::keyframe_due;
use crate::picture;
use elements::Element;
use output::Pending;

/// Starts GStreamer once per process.
pub(crate) fn init() -> Result<(), EncodeError> {
    static INIT: OnceLock<Result<(), String>> = OnceLock::new();
    INIT.get_or_init(|| gst::init().map_err(|error| error.to_string())).clone().map_err(|error| {
        EncodeError::Unavailable(format!("GStreamer does not start ({error}); install libgstreamer1.0-0"))
    })
}

/// An encoder element in a pipeline of its own.
pub struct Gst {
    element: &'static Element,
    settings: Settings,
    /// The frame rate that the pipeline was made for: changing it would make a new stream with an IDR.
    caps_fps: u32,
    pipeline: gst::Pipeline,
    source: AppSrc,
    encoder: gst::Element,
    pool: VideoBufferPool,
    info: VideoInfo,
    pending: Arc<Pending>,
    last_idr_us: Option<u64>,
    last_pts_us: Option<u64>,
}

impl std::fmt::Debug for Gst {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gst")
            .field("element", &self.element.name)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

fn broken(what: &str) -> impl FnOnce(gst::glib::BoolError) -> EncodeError {
    move |error| EncodeError::Broken(format!("{what}: {error}"))
}

impl Gst {
    /// Makes the pipeline and waits until it plays.
    pub fn new(element: &'static Element, settings: Settings, sink: Sink) -> Result<Self, EncodeError> {
        init()?;
        picture::check_settings(&settings)?;
        if settings.codec != Codec::H264 {
            return Err(EncodeError::Unsupported(format!("{} makes H.264 only", element.name)));
        }
        let encoder = make(element.name, element.package)?;
        let parse = make("h264parse", "gstreamer1.0-plugins-bad")?;
        parse.set_property("config-interval", -1i32);
        (element.configure)(&encoder, &settings);

        let info = video_info(element.format, &settings)?;
        let caps = info.to_caps().map_err(broken("making caps"))?;
        let source =
            AppSrc::builder().caps(&caps).format(gst::Format::Time).is_live(true).block(false).build();
        let pending = Arc::new(Pending::new(sink));
        let appsink = appsink(Arc::clone(&pending));
        let pipeline = gst::Pipeline::new();
        let chain = [source.upcast_ref(), &encoder, &parse, appsink.upcast_ref()];
        pipeline.add_many(chain).map_err(broken("building the pipeline"))?;
        gst::Element::link_many(chain).map_err(broken("linking the pipeline"))?;
        if let Some(bus) = pipeline.bus() {
            let pending = Arc::clone(&pending);
            bus.set_sync_handler(move |_, message| {
                if let gst::MessageView::Error(error) = message.view() {
                    tracing::debug!(error = %error.error(), debug = ?error.debug(), "encoder pipeline error");
                    pending.fail(error.error().to_string());
                }
                gst::BusSyncReply::Drop
            });
        }
        let pool = pool(&caps, &info)?;
        let gst = Self {
            element,
            settings,
            caps_fps: settings.max_fps,
            pipeline,
            source,
            encoder,
            pool,
            info,
            pending,
            last_idr_us: None,
            last_pts_us: None,
        };
        gst.play()?;
        Ok(gst)
    }

    fn play(&self) -> Result<(), EncodeError> {
        let patience = gst::ClockTime::try_from(PATIENCE).ok();
        let reached =
            self.pipeline.set_state(gst::State::Playing).and_then(|_| self.pipeline.state(patience).0);
        match (reached, self.pending.failure()) {
            (Ok(gst::StateChangeSuccess::Async), None) => {
                Err(EncodeError::Broken(format!("{} did not start within {PATIENCE:?}", self.element.name)))
            }
            (Ok(_), None) => Ok(()),
            (_, Some(failure)) => Err(EncodeError::Broken(failure)),
            (Err(_), None) => Err(EncodeError::Broken(format!("{} does not start", self.element.name))),
        }
    }

    /// The picture as a buffer of the pipeline's: converted, or for NV12 of even size just wrapped.
    fn buffer(&self, picture: &Picture, pts_us: u64) -> Result<gst::Buffer, EncodeError> {
        let pts = gst::ClockTime::from_useconds(pts_us);
        if let Some(mut buffer) = self.wrapped(picture)? {
            if let Some(buffer) = buffer.get_mut() {
                buffer.set_pts(pts);
            }
            return Ok(buffer);
        }
        let mut buffer = self
            .pool
            .acquire_buffer(None)
            .map_err(|error| EncodeError::Broken(format!("no buffer for the picture: {error}")))?;
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(pts);
        }
        let mut frame = VideoFrame::from_buffer_writable(buffer, &self.info)
            .map_err(|_| EncodeError::Broken("a buffer can't be mapped".to_owned()))?;
        let [first, second, third, ..] =
            [0, 1, 2].map(|plane| frame.plane_stride().get(plane).copied().unwrap_or(0));
        let plane = |data, stride: i32| Plane { data, stride: stride.unsigned_abs() };
        let [y, u, v, _] = frame.planes_data_mut();
        let mut planes = match self.element.format {
            VideoFormat::I420 => Planes::I420(plane(y, first), plane(u, second), plane(v, third)),
            _ => Planes::Nv12(plane(y, first), plane(u, second)),
        };
        convert::convert(picture, &mut planes)?;
        Ok(frame.into_buffer())
    }

    /// Wraps a picture that needs no conversion, no padding and no copy.
    fn wrapped(&self, picture: &Picture) -> Result<Option<gst::Buffer>, EncodeError> {
        let (width, height, stride) = (picture.width, picture.height, picture.stride as usize);
        let even = width.is_multiple_of(2) && height.is_multiple_of(2);
        let (Ok(signed), true) = (i32::try_from(stride), even) else { return Ok(None) };
        if picture.format != PixelFormat::Nv12 || self.element.format != VideoFormat::Nv12 {
            return Ok(None);
        }
        let mut buffer = gst::Buffer::from_slice(picture.data.clone());
        if let Some(buffer) = buffer.get_mut() {
            let offsets = [0, stride * height as usize];
            let flags = VideoFrameFlags::empty();
            VideoMeta::add_full(buffer, flags, VideoFormat::Nv12, width, height, &offsets, &[signed, signed])
                .map_err(broken("describing the picture"))?;
        }
        Ok(Some(buffer))
    }
}

impl Encoder for Gst {
    fn name(&self) -> &str {
        self.element.name
    }

    fn submit(&mut self, picture: &Picture, ticket: u64, pts_us: u64, idr: bool) -> Result<(), EncodeError> {
        picture::check(picture, &self.settings)?;
        if self.last_pts_us.is_some_and(|last| pts_us <= last) {
            return Err(EncodeError::BadPicture("its time does not rise"));
        }
        let idr = idr || keyframe_due(self.last_idr_us, pts_us, self.settings.keyframe_ms);
        let buffer = self.buffer(picture, pts_us)?;
        if idr && self.last_idr_us.is_some() {
            let event = UpstreamForceKeyUnitEvent::builder().all_headers(true).build();
            if !self.encoder.send_event(event) {
                return Err(EncodeError::Broken(format!("{} takes no keyframe request", self.element.name)));
            }
        }
        self.last_pts_us = Some(pts_us);
        self.pending.begin(ticket);
        if let Err(error) = self.source.push_buffer(buffer) {
            self.pending.fail(format!("the pipeline takes no picture: {error}"));
        }
        let was_idr = self.pending.wait(PATIENCE).map_err(EncodeError::Broken)?;
        if was_idr {
            self.last_idr_us = Some(pts_us);
        }
        Ok(())
    }

    fn set_rate(&mut self, bitrate_kbps: u32, max_fps: u32) -> Result<(), EncodeError> {
        picture::check_rate(bitrate_kbps, max_fps)?;
        // The element reckons with the frame rate in its caps: what it should spend on one picture stays
        // right if the bit rate is scaled instead.
        let scaled = u64::from(bitrate_kbps) * u64::from(self.caps_fps) / u64::from(max_fps);
        (self.element.set_bitrate)(&self.encoder, scaled.clamp(1, picture::MAX_BITRATE_KBPS.into()) as u32);
        (self.settings.bitrate_kbps, self.settings.max_fps) = (bitrate_kbps, max_fps);
        Ok(())
    }
}

impl Drop for Gst {
    fn drop(&mut self) {
        if let Some(bus) = self.pipeline.bus() {
            bus.unset_sync_handler();
        }
        // Joins the streaming thread, so the sink is not called after this.
        if self.pipeline.set_state(gst::State::Null).is_err() {
            tracing::warn!(element = self.element.name, "the encoder did not stop cleanly");
        }
        if let Err(error) = self.pool.set_active(false) {
            tracing::debug!(%error, "the buffer pool did not stop");
        }
    }
}

fn make(name: &str, package: &str) -> Result<gst::Element, EncodeError> {
    gst::ElementFactory::make(name).build().map_err(|_| {
        EncodeError::Unavailable(format!("GStreamer has no element `{name}`; install {package}"))
    })
}

fn video_info(format: VideoFormat, settings: &Settings) -> Result<VideoInfo, EncodeError> {
    let colorimetry: VideoColorimetry = "bt709".parse().map_err(broken("naming BT.709"))?;
    VideoInfo::builder(format, coded_side(settings.width), coded_side(settings.height))
        .fps(gst::Fraction::new(settings.max_fps as i32, 1))
        .colorimetry(&colorimetry)
        .build()
        .map_err(broken("describing the video"))
}

fn pool(caps: &gst::Caps, info: &VideoInfo) -> Result<VideoBufferPool, EncodeError> {
    let pool = VideoBufferPool::new();
    let mut config = pool.config();
    config.set_params(Some(caps), info.size() as u32, 2, 0);
    pool.set_config(config).map_err(broken("configuring the buffer pool"))?;
    pool.set_active(true).map_err(broken("starting the buffer pool"))?;
    Ok(pool)
}

fn appsink(pending: Arc<Pending>) -> AppSink {
    let caps = gst::Caps::builder("video/x-h264")
        .field("stream-format", "byte-stream")
        .field("alignment", "au")
        .build();
    let appsink =
        AppSink::builder().caps(&caps).sync(false).async_(false).enable_last_sample(false).qos(false).build();
    let take = move |appsink: &AppSink| {
        let sample = appsink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
        let mapped = sample.buffer_owned().map(gst::Buffer::into_mapped_buffer_readable);
        let Some(Ok(mapped)) = mapped else {
            pending.fail("an access unit can't be mapped".to_owned());
            return Err(gst::FlowError::Error);
        };
        let data = Bytes::from_owner(mapped);
        let idr = crate::annexb::is_idr(&data);
        pending.complete(|ticket| Output { ticket, idr, data });
        Ok(gst::FlowSuccess::Ok)
    };
    appsink.set_callbacks(AppSinkCallbacks::builder().new_sample(take).build());
    appsink
}
