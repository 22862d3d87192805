//! Decoding of access units, to check what was encoded.

use encode::{Codec, Output};
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::{AppSink, AppSrc};
use gstreamer_video::{VideoFormat, VideoFrame, VideoFrameExt, VideoInfo};

/// Size and mean colour of a decoded picture.
#[derive(Debug)]
pub struct Mean {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Mean Y, Cb and Cr.
    pub yuv: [f64; 3],
}

/// Y, Cb and Cr of a colour in BT.709, limited range (Rec. ITU-R BT.709-6, 3.2 to 3.5).
pub fn bt709([r, g, b]: [u8; 3]) -> [f64; 3] {
    let [r, g, b] = [r, g, b].map(|value| f64::from(value) / 255.0);
    let y = 0.2126 * r + 0.7152 * g + 0.0722 * b;
    [16.0 + 219.0 * y, 128.0 + 224.0 * (b - y) / 1.8556, 128.0 + 224.0 * (r - y) / 1.5748]
}

fn decoder(codec: Codec) -> gst::Element {
    let names = match codec {
        Codec::H264 => ["avdec_h264", "openh264dec"],
        Codec::Hevc => ["avdec_h265", "libde265dec"],
    };
    names
        .into_iter()
        .find_map(|name| gst::ElementFactory::make(name).build().ok())
        .expect("a decoder; install gstreamer1.0-libav")
}

/// The luma plane of a decoded picture.
#[derive(Debug)]
pub struct Luma {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Rows without padding, one byte per pixel.
    pub bytes: Vec<u8>,
}

/// Decodes access units to mean colours.
pub fn means(codec: Codec, outputs: &[Output]) -> Vec<Mean> {
    each(codec, outputs, |frame| {
        let mean = |plane: u32, width: u32, height: u32| {
            let sum: u64 = rows(frame, plane, width, height).flatten().map(|byte| u64::from(*byte)).sum();
            sum as f64 / f64::from(width * height)
        };
        let (width, height) = (frame.info().width(), frame.info().height());
        let (half, low) = (width / 2, height / 2);
        Mean { width, height, yuv: [mean(0, width, height), mean(1, half, low), mean(2, half, low)] }
    })
}

/// Decodes H.264 access units to luma planes.
pub fn lumas(outputs: &[Output]) -> Vec<Luma> {
    each(Codec::H264, outputs, |frame| {
        let (width, height) = (frame.info().width(), frame.info().height());
        Luma { width, height, bytes: rows(frame, 0, width, height).flatten().copied().collect() }
    })
}

type Frame = VideoFrame<gstreamer_video::video_frame::Readable>;

fn rows(frame: &Frame, plane: u32, width: u32, height: u32) -> impl Iterator<Item = &[u8]> {
    let stride = frame.plane_stride()[plane as usize] as usize;
    let rows = frame.plane_data(plane).expect("plane").chunks(stride).take(height as usize);
    rows.map(move |row| &row[..width as usize])
}

/// Decodes access units and maps each decoded picture.
fn each<T>(codec: Codec, outputs: &[Output], map: impl Fn(&Frame) -> T) -> Vec<T> {
    gst::init().expect("GStreamer starts");
    let (media, parser) = match codec {
        Codec::H264 => ("video/x-h264", "h264parse"),
        Codec::Hevc => ("video/x-h265", "h265parse"),
    };
    let caps =
        gst::Caps::builder(media).field("stream-format", "byte-stream").field("alignment", "au").build();
    let source = AppSrc::builder().caps(&caps).format(gst::Format::Time).build();
    let parse = gst::ElementFactory::make(parser).build().expect(parser);
    let decode = decoder(codec);
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
        source.push_buffer(buffer).expect("pushed");
    }
    source.end_of_stream().expect("ends");
    let mut decoded = Vec::new();
    while let Some(sample) = sink.try_pull_sample(gst::ClockTime::from_seconds(20)) {
        let info = VideoInfo::from_caps(sample.caps().expect("caps")).expect("video");
        assert_eq!(info.format(), VideoFormat::I420);
        let buffer = sample.buffer_owned().expect("a buffer");
        decoded.push(map(&VideoFrame::from_buffer_readable(buffer, &info).expect("maps")));
    }
    assert!(sink.is_eos(), "decoding reached the end of the stream");
    pipeline.set_state(gst::State::Null).expect("stops");
    decoded
}
