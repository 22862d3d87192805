//! Decodes what an encoder gave and says what one sees: the mean of each plane.

use encode::Output;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::{AppSink, AppSrc};
use gstreamer_video::{VideoFormat, VideoFrame, VideoFrameExt, VideoInfo};

/// A decoded picture.
#[derive(Debug)]
pub struct Seen {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Means of Y, Cb and Cr.
    pub yuv: [f64; 3],
}

/// BT.709, limited range (Rec. ITU-R BT.709-6, 3.2 to 3.5).
pub fn bt709([r, g, b]: [u8; 3]) -> [f64; 3] {
    let [r, g, b] = [r, g, b].map(|value| f64::from(value) / 255.0);
    let y = 0.2126 * r + 0.7152 * g + 0.0722 * b;
    [16.0 + 219.0 * y, 128.0 + 224.0 * (b - y) / 1.8556, 128.0 + 224.0 * (r - y) / 1.5748]
}

fn decoder() -> gst::Element {
    ["avdec_h264", "openh264dec"]
        .into_iter()
        .find_map(|name| gst::ElementFactory::make(name).build().ok())
        .expect("a decoder: install gstreamer1.0-libav")
}

/// Decodes all of it.
pub fn means(outputs: &[Output]) -> Vec<Seen> {
    gst::init().expect("GStreamer starts");
    let caps = gst::Caps::builder("video/x-h264")
        .field("stream-format", "byte-stream")
        .field("alignment", "au")
        .build();
    let source = AppSrc::builder().caps(&caps).format(gst::Format::Time).build();
    let parse = gst::ElementFactory::make("h264parse").build().expect("h264parse");
    let decode = decoder();
    let sink = AppSink::builder().sync(false).build();
    let pipeline = gst::Pipeline::new();
    let chain = [source.upcast_ref(), &parse, &decode, sink.upcast_ref()];
    pipeline.add_many(chain).expect("one bin");
    gst::Element::link_many(chain).expect("links");
    pipeline.set_state(gst::State::Playing).expect("plays");
    for (number, output) in outputs.iter().enumerate() {
        let mut buffer = gst::Buffer::from_slice(output.data.clone());
        let unique = buffer.get_mut().expect("unique");
        unique.set_pts(gst::ClockTime::from_mseconds(16 * number as u64));
        source.push_buffer(buffer).expect("takes it");
    }
    source.end_of_stream().expect("ends");
    let mut seen = Vec::new();
    while let Some(sample) = sink.try_pull_sample(gst::ClockTime::from_seconds(20)) {
        let info = VideoInfo::from_caps(sample.caps().expect("caps")).expect("video");
        assert_eq!(info.format(), VideoFormat::I420);
        let buffer = sample.buffer_owned().expect("a buffer");
        let frame = VideoFrame::from_buffer_readable(buffer, &info).expect("maps");
        let mean = |plane: u32, width: u32, height: u32| {
            let stride = frame.plane_stride()[plane as usize] as usize;
            let rows = frame.plane_data(plane).expect("plane").chunks(stride).take(height as usize);
            let sum: u64 = rows.flat_map(|row| &row[..width as usize]).map(|byte| u64::from(*byte)).sum();
            sum as f64 / f64::from(width * height)
        };
        let (width, height) = (info.width(), info.height());
        let (half, low) = (width / 2, height / 2);
        seen.push(Seen {
            width,
            height,
            yuv: [mean(0, width, height), mean(1, half, low), mean(2, half, low)],
        });
    }
    assert!(sink.is_eos(), "decoding ended by itself");
    pipeline.set_state(gst::State::Null).expect("stops");
    seen
}
