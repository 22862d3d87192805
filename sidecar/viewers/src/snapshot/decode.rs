//! Decodes access units with GStreamer and encodes the last picture as PNG. Blocks for up to [`TIMEOUT`].
//!
//! All pictures must be decoded, but only the last one is converted to RGB.

use std::io::Cursor;
use std::time::Instant;

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::{AppSink, AppSrc};
use gstreamer_video::{VideoConverter, VideoFormat, VideoFrame, VideoInfo};

use super::{SnapshotError, TIMEOUT};

/// Decoders in order of preference. openh264dec loads in half the time, which dominates the cost of one picture;
/// avdec_h264 supports every profile.
const DECODERS: [&str; 2] = ["openh264dec", "avdec_h264"];
/// Time limit for one pull from the pipeline; also the latency of noticing its end.
const PULL_TIMEOUT: gst::ClockTime = gst::ClockTime::from_mseconds(500);

fn failed(error: impl std::fmt::Display) -> SnapshotError {
    SnapshotError::Failed(error.to_string())
}

/// Stops the pipeline when dropped.
struct Running(gst::Pipeline);

impl Drop for Running {
    fn drop(&mut self) {
        // A change to Null does not fail for these elements.
        let _ = self.0.set_state(gst::State::Null);
    }
}

/// Decodes the access units of one closed GOP and returns the last picture as a PNG file.
///
/// # Errors
/// [`SnapshotError`] if no decoder is installed, decoding fails or takes too long, or there is no picture.
pub fn last_picture_as_png(units: &[Bytes]) -> Result<Bytes, SnapshotError> {
    let deadline = Instant::now() + TIMEOUT;
    gst::init().map_err(failed)?;
    let mut result = Err(SnapshotError::NoDecoder);
    for name in DECODERS {
        let Ok(decoder) = gst::ElementFactory::make(name).build() else { continue };
        result = last_sample(&decoder, units, deadline);
        if !matches!(result, Err(SnapshotError::Failed(_))) {
            break;
        }
    }
    png(&result?)
}

fn last_sample(
    decoder: &gst::Element,
    units: &[Bytes],
    deadline: Instant,
) -> Result<gst::Sample, SnapshotError> {
    let caps = gst::Caps::builder("video/x-h264")
        .field("stream-format", "byte-stream")
        .field("alignment", "au")
        .build();
    let source = AppSrc::builder().caps(&caps).format(gst::Format::Time).build();
    let sink = AppSink::builder().sync(false).max_buffers(2).build();
    let running = Running(gst::Pipeline::new());
    // Adds the profile to the caps, which openh264dec requires.
    let parser = gst::ElementFactory::make("h264parse").build().ok();
    let chain: Vec<&gst::Element> =
        [Some(source.upcast_ref()), parser.as_ref(), Some(decoder), Some(sink.upcast_ref())]
            .into_iter()
            .flatten()
            .collect();
    running.0.add_many(&chain).map_err(failed)?;
    gst::Element::link_many(&chain).map_err(failed)?;
    running.0.set_state(gst::State::Playing).map_err(failed)?;
    for (unit, index) in units.iter().zip(0_u64..) {
        let mut buffer = gst::Buffer::from_slice(unit.clone());
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(gst::ClockTime::from_mseconds(index));
        }
        source.push_buffer(buffer).map_err(failed)?;
    }
    source.end_of_stream().map_err(failed)?;
    pull_last(&running.0, &sink, deadline)
}

fn pull_last(
    pipeline: &gst::Pipeline,
    sink: &AppSink,
    deadline: Instant,
) -> Result<gst::Sample, SnapshotError> {
    let bus = pipeline.bus().ok_or_else(|| failed("the pipeline has no bus"))?;
    let mut last = None;
    while !sink.is_eos() {
        if Instant::now() >= deadline {
            return Err(SnapshotError::Timeout);
        }
        if let Some(sample) = sink.try_pull_sample(PULL_TIMEOUT) {
            last = Some(sample);
        }
        if let Some(message) = bus.pop_filtered(&[gst::MessageType::Error])
            && let gst::MessageView::Error(error) = message.view()
        {
            return Err(failed(error.error()));
        }
    }
    last.ok_or_else(|| failed("the GOP holds no picture"))
}

fn png(sample: &gst::Sample) -> Result<Bytes, SnapshotError> {
    let (Some(caps), Some(buffer)) = (sample.caps(), sample.buffer_owned()) else {
        return Err(failed("the decoder produced no picture"));
    };
    let from = VideoInfo::from_caps(caps).map_err(failed)?;
    let to = VideoInfo::builder(VideoFormat::Rgb, from.width(), from.height())
        .fps(from.fps())
        .par(from.par())
        .build()
        .map_err(failed)?;
    let picture =
        VideoFrame::from_buffer_readable(buffer, &from).map_err(|_| failed("the picture is not readable"))?;
    let out = gst::Buffer::with_size(to.size()).map_err(failed)?;
    let mut rgb = VideoFrame::from_buffer_writable(out, &to).map_err(|_| failed("out of memory"))?;
    VideoConverter::new(&from, &to, None).map_err(failed)?.frame(&picture, &mut rgb);

    let (width, height) = (to.width() as usize, to.height() as usize);
    let stride = usize::try_from(to.stride()[0]).map_err(failed)?;
    let rows = rgb.plane_data(0).map_err(failed)?;
    let pixels: Vec<u8> =
        rows.chunks(stride).take(height).flat_map(|row| &row[..width * 3]).copied().collect();
    let mut file = Cursor::new(Vec::new());
    let mut encoder = png::Encoder::new(&mut file, to.width(), to.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels)).map_err(failed)?;
    Ok(file.into_inner().into())
}
