//! Encodes frames as Opus packets: `appsrc ! opusenc ! appsink`, called synchronously.
//!
//! GStreamer's element is used because the sidecar's image has it already. One frame makes one packet. The encoder's delay
//! is 2.5 ms (`restricted-lowdelay`), which capture times do not include.

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::{AppSink, AppSrc};

use crate::error::AudioError;
use crate::{CHANNELS, FRAME_BYTES, FRAMES_PER_PACKET, SAMPLE_RATE};

/// Bit rate while there is sound, bit/s.
const BITRATE: i32 = 96_000;
/// Effort of the encoder, 0 to 10. Higher values are not audible at this bit rate and take twice the time.
const COMPLEXITY: i32 = 3;
/// Time limit for a packet. Encoding takes less than a millisecond.
const TIMEOUT: gst::ClockTime = gst::ClockTime::from_seconds(2);
/// Maximum size of an Opus packet of one frame in bytes (RFC 6716, section 3.2).
const MAX_PACKET: usize = 1275 + 1;
const PACKET_DURATION: gst::ClockTime =
    gst::ClockTime::from_nseconds(FRAMES_PER_PACKET as u64 * 1_000_000_000 / SAMPLE_RATE as u64);

/// An encoder and its pipeline.
#[derive(Debug)]
pub struct Encoder {
    pipeline: gst::Pipeline,
    source: AppSrc,
    sink: AppSink,
    /// Timestamp of the next frame in the pipeline.
    pts: gst::ClockTime,
}

fn failed(error: impl std::fmt::Display) -> AudioError {
    AudioError::Encoder(error.to_string())
}

impl Encoder {
    /// Makes the pipeline.
    ///
    /// # Errors
    /// [`AudioError::Encoder`] if an element is not installed, or the pipeline does not start.
    pub fn new() -> Result<Self, AudioError> {
        gst::init().map_err(failed)?;
        let encoder = gst::ElementFactory::make("opusenc")
            .property("bitrate", BITRATE)
            .property("complexity", COMPLEXITY)
            .property_from_str("bitrate-type", "constrained-vbr")
            .property_from_str("frame-size", "10")
            .property_from_str("audio-type", "restricted-lowdelay")
            .build()
            .map_err(|error| failed(format!("{error}; install package gstreamer1.0-plugins-base")))?;
        let caps = gst::Caps::builder("audio/x-raw")
            .field("format", "S16LE")
            .field("layout", "interleaved")
            .field("rate", SAMPLE_RATE.cast_signed())
            .field("channels", CHANNELS as i32)
            .field("channel-mask", gst::Bitmask::new(0b11))
            .build();
        let source =
            AppSrc::builder().caps(&caps).format(gst::Format::Time).is_live(true).block(false).build();
        let sink = AppSink::builder().sync(false).max_buffers(4).build();
        let pipeline = gst::Pipeline::new();
        let chain = [source.upcast_ref(), &encoder, sink.upcast_ref()];
        pipeline.add_many(chain).map_err(failed)?;
        gst::Element::link_many(chain).map_err(failed)?;
        // From here on, the drop stops the pipeline.
        let encoder = Self { pipeline, source, sink, pts: gst::ClockTime::ZERO };
        encoder.pipeline.set_state(gst::State::Playing).map_err(failed)?;
        Ok(encoder)
    }

    /// Encodes the interleaved samples of one frame.
    ///
    /// # Errors
    /// [`AudioError::Encoder`] if the pipeline failed.
    pub fn encode(&mut self, samples: &[i16]) -> Result<Bytes, AudioError> {
        if size_of_val(samples) != FRAMES_PER_PACKET * FRAME_BYTES {
            return Err(failed(format!("a frame of {} samples", samples.len())));
        }
        let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        let mut buffer = gst::Buffer::from_slice(bytes);
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(self.pts);
            buffer.set_duration(PACKET_DURATION);
        }
        self.pts += PACKET_DURATION;
        self.source.push_buffer(buffer).map_err(failed)?;
        let sample = self.sink.try_pull_sample(TIMEOUT).ok_or_else(|| self.failure())?;
        let packet = sample.buffer().ok_or_else(|| failed("a sample without a buffer"))?;
        let packet = packet.map_readable().map_err(failed)?;
        if packet.is_empty() || packet.len() > MAX_PACKET {
            return Err(failed(format!("a packet of {} bytes", packet.len())));
        }
        Ok(Bytes::copy_from_slice(&packet))
    }

    /// Reason why there is no packet.
    fn failure(&self) -> AudioError {
        let message = self.pipeline.bus().and_then(|bus| bus.pop_filtered(&[gst::MessageType::Error]));
        match message.as_ref().map(|message| message.view()) {
            Some(gst::MessageView::Error(error)) => failed(error.error()),
            _ => failed("no packet after 2 s"),
        }
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        // A change to Null does not fail for these elements.
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

#[cfg(test)]
pub mod tests {
    use std::f32::consts::TAU;

    use super::*;

    /// Decodes packets into interleaved samples.
    pub fn decode(packets: &[Bytes]) -> Vec<f32> {
        gst::init().expect("GStreamer");
        let pipeline = gst::parse::launch(
            "appsrc name=in format=time caps=audio/x-opus,channel-mapping-family=0,channels=2,rate=48000 ! opusdec ! \
             audioconvert ! audio/x-raw,format=F32LE,channels=2,rate=48000 ! appsink name=out sync=false",
        )
        .expect("a pipeline")
        .downcast::<gst::Pipeline>()
        .expect("a pipeline");
        let element = |name| pipeline.by_name(name).expect("an element");
        let source = element("in").downcast::<AppSrc>().expect("appsrc");
        let sink = element("out").downcast::<AppSink>().expect("appsink");
        pipeline.set_state(gst::State::Playing).expect("plays");
        for packet in packets {
            source.push_buffer(gst::Buffer::from_slice(packet.clone())).expect("pushed");
        }
        source.end_of_stream().expect("ended");
        let mut samples = Vec::new();
        while let Ok(sample) = sink.pull_sample() {
            let buffer = sample.buffer().expect("a buffer").map_readable().expect("readable");
            samples.extend(
                buffer
                    .chunks_exact(4)
                    .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
            );
        }
        pipeline.set_state(gst::State::Null).expect("stops");
        samples
    }

    #[test]
    fn chirp_is_decoded_as_it_was_encoded() {
        const PACKETS: usize = 100;
        // From 200 Hz to 4200 Hz within a second, the right channel at half the level.
        let chirp: Vec<i16> = (0..PACKETS * FRAMES_PER_PACKET)
            .flat_map(|n| {
                let t = n as f32 / SAMPLE_RATE as f32;
                let value = (16_000.0 * (TAU * (200.0 + 2000.0 * t) * t).sin()) as i16;
                [value, value / 2]
            })
            .collect();
        let mut encoder = Encoder::new().expect("an encoder");
        let packets: Vec<Bytes> = chirp
            .chunks(FRAMES_PER_PACKET * CHANNELS)
            .map(|frame| encoder.encode(frame).expect("encoded"))
            .collect();
        let size: usize = packets.iter().map(Bytes::len).sum();
        assert!((4000..20_000).contains(&size), "{size} bytes in a second");

        let decoded = decode(&packets);
        assert_eq!(decoded.len(), chirp.len());
        // Correlation at the encoder's delay of 120 samples, apart from the start.
        let delay = 120 * CHANNELS;
        let (mut product, mut original, mut result) = (0.0, 0.0, 0.0);
        for (a, b) in chirp.iter().zip(&decoded[delay..]).skip(4800) {
            let a = f32::from(*a);
            product += a * b;
            original += a * a;
            result += b * b;
        }
        let correlation = product / (original * result).sqrt();
        assert!(correlation > 0.98, "{correlation}");
    }
}
