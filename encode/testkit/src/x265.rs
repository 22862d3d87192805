//! An HEVC encoder for tests: GStreamer's x265enc, with one access unit per picture.

use encode::encoder::ENCODE_TIMEOUT;
use encode::{EncodeError, Encoder, Output, Picture, PixelFormat, Settings, Sink};
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::{AppSink, AppSrc};
use gstreamer_video::{UpstreamForceKeyUnitEvent, VideoColorimetry, VideoFormat, VideoInfo};

use crate::byte_stream;

/// The encoder. Accepts NV12 with even sides.
pub struct X265 {
    pipeline: gst::Pipeline,
    source: AppSrc,
    output: AppSink,
    encoder: gst::Element,
    info: VideoInfo,
    sink: Sink,
}

impl std::fmt::Debug for X265 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("X265").field("info", &self.info).finish_non_exhaustive()
    }
}

fn make(name: &str) -> Result<gst::Element, EncodeError> {
    let missing = |_| {
        EncodeError::Unavailable(format!(
            "GStreamer has no element `{name}`; install gstreamer1.0-plugins-bad"
        ))
    };
    gst::ElementFactory::make(name).build().map_err(missing)
}

/// Opens the encoder.
///
/// # Errors
/// If an element is not installed or the pipeline does not start.
pub fn open(settings: Settings, sink: Sink) -> Result<Box<dyn Encoder>, EncodeError> {
    gst::init().map_err(|error| EncodeError::Unavailable(error.to_string()))?;
    let info = VideoInfo::builder(VideoFormat::Nv12, settings.width, settings.height)
        .fps(gst::Fraction::new(60, 1))
        .colorimetry(&"bt709".parse::<VideoColorimetry>().expect("known"))
        .build()
        .expect("a picture");
    let caps = info.to_caps().expect("caps");
    let source = AppSrc::builder().caps(&caps).format(gst::Format::Time).is_live(true).build();
    let (convert, encoder, parse) = (make("videoconvert")?, make("x265enc")?, make("h265parse")?);
    encoder.set_property_from_str("tune", "zerolatency");
    encoder.set_property_from_str("speed-preset", "ultrafast");
    encoder.set_property_from_str("key-int-max", "2147483647");
    encoder.set_property("bitrate", settings.bitrate_kbps);
    // No automatic IDRs; units small enough for small pictures.
    let options = "scenecut=0:ctu=16:min-cu-size=8:pools=none:frame-threads=1:keyint=-1";
    encoder.set_property_from_str("option-string", options);
    parse.set_property("config-interval", -1i32);
    let plain = make("capsfilter")?;
    // Without this, 4:4:4 would be negotiated.
    plain.set_property("caps", gst::Caps::builder("video/x-raw").field("format", "I420").build());
    let wanted = gst::Caps::builder("video/x-h265")
        .field("stream-format", "byte-stream")
        .field("alignment", "au")
        .build();
    let output = AppSink::builder().caps(&wanted).sync(false).build();
    let pipeline = gst::Pipeline::new();
    let chain = [source.upcast_ref(), &convert, &plain, &encoder, &parse, output.upcast_ref()];
    pipeline.add_many(chain).expect("one bin");
    gst::Element::link_many(chain).expect("links");
    pipeline.set_state(gst::State::Playing).map_err(|error| EncodeError::Broken(error.to_string()))?;
    Ok(Box::new(X265 { pipeline, source, output, encoder, info, sink }))
}

impl Encoder for X265 {
    fn name(&self) -> &'static str {
        "x265enc"
    }

    fn submit(&mut self, picture: &Picture, ticket: u64, pts_us: u64, idr: bool) -> Result<(), EncodeError> {
        assert_eq!(picture.format, PixelFormat::Nv12, "the simulator submits NV12 only");
        let (width, stride) = (picture.width as usize, picture.stride as usize);
        let rows = picture.height as usize * 3 / 2;
        let mut data = Vec::with_capacity(self.info.size());
        for (from, to, count) in [
            (0, 0, picture.height as usize),
            (stride * picture.height as usize, self.info.offset()[1], rows - picture.height as usize),
        ] {
            data.resize(to, 0);
            for row in picture.data[from..].chunks(stride).take(count) {
                data.extend_from_slice(&row[..width]);
                data.resize(data.len() + self.info.stride()[0] as usize - width, 0);
            }
        }
        data.resize(self.info.size(), 0);
        if idr {
            let event = UpstreamForceKeyUnitEvent::builder().all_headers(true).build();
            self.encoder.static_pad("src").expect("a pad").send_event(event);
        }
        let mut buffer = gst::Buffer::from_mut_slice(data);
        buffer.get_mut().expect("unique").set_pts(gst::ClockTime::from_useconds(pts_us));
        self.source.push_buffer(buffer).map_err(|error| EncodeError::Broken(error.to_string()))?;
        let sample = self.output.try_pull_sample(gst::ClockTime::try_from(ENCODE_TIMEOUT).ok());
        let Some(sample) = sample else {
            return Err(EncodeError::Broken("no access unit from x265enc in time".into()));
        };
        let unit = sample.buffer().expect("a buffer").map_readable().expect("maps").to_vec();
        let idr = byte_stream::is_entry_point(encode::Codec::Hevc, &unit);
        (self.sink)(Ok(Output { ticket, idr, data: unit.into() }));
        Ok(())
    }

    /// Ignored: rate changes do not depend on the codec and are tested with H.264.
    fn set_rate(&mut self, _bitrate_kbps: u32, _max_fps: u32) -> Result<(), EncodeError> {
        Ok(())
    }
}

impl Drop for X265 {
    fn drop(&mut self) {
        // Pictures in the pipeline are discarded.
        let _stopped = self.pipeline.set_state(gst::State::Null);
    }
}
