//! The GStreamer backend: `appsrc ! ENCODER ! h264parse ! appsink`, called synchronously.
//!
//! [`Gst::submit`] converts a picture into a pipeline buffer, pushes it and waits for its access unit. At
//! most one picture is in flight, which ensures order, matching and back-pressure. An encoder that takes
//! longer than [`ENCODE_TIMEOUT`] counts as failed.
//!
//! The elements' own keyframe intervals are off, because they count frames: an IDR is requested when the
//! caller asks for one or the interval has passed in time. [`elements`] has the differences between
//! elements.

mod completion;
pub mod elements;

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
use crate::encoder::{
    Codec, ENCODE_TIMEOUT, EncodeError, Encoder, Output, Picture, PixelFormat, Settings, Sink,
};
use crate::null::keyframe_due;
use crate::picture;
use completion::Completion;
use elements::Element;

/// Initialises GStreamer, once per process.
pub(crate) fn init() -> Result<(), EncodeError> {
    static INIT: OnceLock<Result<(), String>> = OnceLock::new();
    INIT.get_or_init(|| gst::init().map_err(|error| error.to_string())).clone().map_err(|error| {
        EncodeError::Unavailable(format!(
            "GStreamer failed to initialise ({error}); install libgstreamer1.0-0"
        ))
    })
}

/// An encoder element and its pipeline.
pub struct Gst {
    element: &'static Element,
    settings: Settings,
    /// Frame rate in the pipeline's caps; changing it would start a new stream with an IDR.
    caps_fps: u32,
    pipeline: gst::Pipeline,
    source: AppSrc,
    encoder: gst::Element,
    pool: VideoBufferPool,
    info: VideoInfo,
    completion: Arc<Completion>,
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
    ///
    /// # Errors
    /// If GStreamer or the element is not installed, the settings are not supported, or the pipeline does not
    /// start.
    pub fn new(element: &'static Element, settings: Settings, sink: Sink) -> Result<Self, EncodeError> {
        init()?;
        picture::check_settings(&settings)?;
        if settings.codec != Codec::H264 {
            return Err(EncodeError::Unsupported(format!("{} encodes H.264 only", element.name)));
        }
        let encoder = make(element.name, element.package)?;
        let parse = make("h264parse", "gstreamer1.0-plugins-bad")?;
        parse.set_property("config-interval", -1i32);
        (element.configure)(&encoder, &settings);

        let info = video_info(element.format, &settings)?;
        let caps = info.to_caps().map_err(broken("failed to make caps"))?;
        let source =
            AppSrc::builder().caps(&caps).format(gst::Format::Time).is_live(true).block(false).build();
        let completion = Arc::new(Completion::new(sink));
        let appsink = appsink(Arc::clone(&completion));
        let pipeline = gst::Pipeline::new();
        let chain = [source.upcast_ref(), &encoder, &parse, appsink.upcast_ref()];
        pipeline.add_many(chain).map_err(broken("failed to build the pipeline"))?;
        gst::Element::link_many(chain).map_err(broken("failed to link the pipeline"))?;
        if let Some(bus) = pipeline.bus() {
            let completion = Arc::clone(&completion);
            bus.set_sync_handler(move |_, message| {
                if let gst::MessageView::Error(error) = message.view() {
                    tracing::debug!(error = %error.error(), debug = ?error.debug(), "encoder pipeline error");
                    completion.fail(error.error().to_string());
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
            completion,
            last_idr_us: None,
            last_pts_us: None,
        };
        gst.play()?;
        Ok(gst)
    }

    fn play(&self) -> Result<(), EncodeError> {
        let timeout = gst::ClockTime::try_from(ENCODE_TIMEOUT).ok();
        let reached =
            self.pipeline.set_state(gst::State::Playing).and_then(|_| self.pipeline.state(timeout).0);
        match (reached, self.completion.failure()) {
            (Ok(gst::StateChangeSuccess::Async), None) => Err(EncodeError::Broken(format!(
                "{} did not start within {ENCODE_TIMEOUT:?}",
                self.element.name
            ))),
            (Ok(_), None) => Ok(()),
            (_, Some(failure)) => Err(EncodeError::Broken(failure)),
            (Err(_), None) => Err(EncodeError::Broken(format!("{} did not start", self.element.name))),
        }
    }

    /// The picture as a pipeline buffer: converted, or wrapped if it is NV12 of even size.
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
            .map_err(|error| EncodeError::Broken(format!("failed to get a buffer: {error}")))?;
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(pts);
        }
        let mut frame = VideoFrame::from_buffer_writable(buffer, &self.info)
            .map_err(|_| EncodeError::Broken("failed to map a buffer".to_owned()))?;
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

    /// Wraps a picture that needs neither conversion nor padding, without a copy.
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
                .map_err(broken("failed to describe the picture"))?;
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
            return Err(EncodeError::BadPicture("the time stamp does not rise"));
        }
        let idr = idr || keyframe_due(self.last_idr_us, pts_us, self.settings.keyframe_ms);
        let buffer = self.buffer(picture, pts_us)?;
        if idr && self.last_idr_us.is_some() {
            let event = UpstreamForceKeyUnitEvent::builder().all_headers(true).build();
            if !self.encoder.send_event(event) {
                return Err(EncodeError::Broken(format!("{} refused a keyframe request", self.element.name)));
            }
        }
        self.last_pts_us = Some(pts_us);
        self.completion.begin(ticket);
        if let Err(error) = self.source.push_buffer(buffer) {
            self.completion.fail(format!("the pipeline refused a picture: {error}"));
        }
        let was_idr = self.completion.wait(ENCODE_TIMEOUT).map_err(EncodeError::Broken)?;
        if was_idr {
            self.last_idr_us = Some(pts_us);
        }
        Ok(())
    }

    fn set_rate(&mut self, bitrate_kbps: u32, max_fps: u32) -> Result<(), EncodeError> {
        picture::check_rate(bitrate_kbps, max_fps)?;
        // The element's rate control assumes the frame rate in the caps. Scaling the bit rate instead keeps
        // the bits per picture right.
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
        // Joins the streaming thread, so the sink is not called afterwards.
        if self.pipeline.set_state(gst::State::Null).is_err() {
            tracing::warn!(element = self.element.name, "encoder pipeline did not stop");
        }
        if let Err(error) = self.pool.set_active(false) {
            tracing::debug!(%error, "buffer pool did not stop");
        }
    }
}

fn make(name: &str, package: &str) -> Result<gst::Element, EncodeError> {
    gst::ElementFactory::make(name).build().map_err(|_| {
        EncodeError::Unavailable(format!("GStreamer has no element `{name}`; install {package}"))
    })
}

fn video_info(format: VideoFormat, settings: &Settings) -> Result<VideoInfo, EncodeError> {
    let colorimetry: VideoColorimetry = "bt709".parse().map_err(broken("failed to parse the colorimetry"))?;
    VideoInfo::builder(format, coded_side(settings.width), coded_side(settings.height))
        .fps(gst::Fraction::new(settings.max_fps as i32, 1))
        .colorimetry(&colorimetry)
        .build()
        .map_err(broken("failed to describe the video"))
}

fn pool(caps: &gst::Caps, info: &VideoInfo) -> Result<VideoBufferPool, EncodeError> {
    let pool = VideoBufferPool::new();
    let mut config = pool.config();
    config.set_params(Some(caps), info.size() as u32, 2, 0);
    pool.set_config(config).map_err(broken("failed to configure the buffer pool"))?;
    pool.set_active(true).map_err(broken("failed to start the buffer pool"))?;
    Ok(pool)
}

fn appsink(completion: Arc<Completion>) -> AppSink {
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
            completion.fail("failed to map an access unit".to_owned());
            return Err(gst::FlowError::Error);
        };
        let data = Bytes::from_owner(mapped);
        let idr = crate::annexb::is_idr(&data);
        completion.complete(|ticket| Output { ticket, idr, data });
        Ok(gst::FlowSuccess::Ok)
    };
    appsink.set_callbacks(AppSinkCallbacks::builder().new_sample(take).build());
    appsink
}
