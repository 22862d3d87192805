//! A viewers' server with a test pattern, for viewing the page and for the page's tests.
//! `cargo run -p viewers --example viewer`, then open http://127.0.0.1:8080/.
//!
//! The pictures are those of crate `numbered`: a grid of cells that encodes the frame number. The sound is a tone of 1 kHz in the
//! first half of each second of `CLOCK_MONOTONIC`; the other half has no packets, as silence.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use clap::Parser;
use contract::FramePath;
use encode::clock::clock_ns;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::{AppSink, AppSinkCallbacks, AppSrc};
use gstreamer_video::{UpstreamForceKeyUnitEvent, VideoFormat, VideoInfo};
use parking_lot::Mutex;
use protocol::PixelFormat;
use protocol::stream::AccessUnit;
use viewers::{
    Hub, HubOptions, Server, ServerOptions, SoundHub, SoundPacket, SoundState, StreamInfo, ViewerToken,
};

/// Name of the stream.
const NAME: &str = "test-pattern";

/// Serves a test pattern to viewers.
#[derive(Debug, Clone, Parser)]
struct Args {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Token that viewers must present.
    #[arg(long)]
    token: Option<ViewerToken>,
    /// Serve all clients without a token.
    #[arg(long)]
    insecure_no_viewer_auth: bool,
    /// Origins besides the server's own that may open the WebSocket, comma separated.
    #[arg(long, value_delimiter = ',')]
    allowed_origins: Vec<String>,
    /// Maximum number of viewers.
    #[arg(long, default_value_t = 16)]
    max_viewers: usize,
    /// Width in pixels; a multiple of 8.
    #[arg(long, default_value_t = 1280)]
    width: u32,
    /// Height in pixels; a multiple of 8.
    #[arg(long, default_value_t = 720)]
    height: u32,
    /// Frames per second.
    #[arg(long, default_value_t = 30)]
    fps: u32,
    /// Frames between keyframes; 0 encodes keyframes on request only.
    #[arg(long, default_value_t = 0)]
    keyframe_every: u32,
    /// Alternate between full and half size, with a new encoder, every so many seconds.
    #[arg(long)]
    switch_every: Option<u64>,
    /// Frame path to report.
    #[arg(long, default_value = "local")]
    frame_path: FramePath,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    gst::init()?;
    let hub = Hub::new(HubOptions::default());
    let keyframe = Arc::new(AtomicBool::new(false));
    let stop = Arc::new(AtomicBool::new(false));
    let producer = std::thread::spawn({
        let (args, hub) = (args.clone(), hub.clone());
        let (keyframe, stop) = (Arc::clone(&keyframe), Arc::clone(&stop));
        move || produce(&args, &hub, &keyframe, &stop)
    });
    let mut requests = hub.keyframe_requests();
    tokio::spawn(async move {
        while requests.next().await.is_some() {
            keyframe.store(true, Ordering::Relaxed);
        }
    });
    let Args { listen, token, insecure_no_viewer_auth, allowed_origins, max_viewers, .. } = args;
    let listener =
        tokio::net::TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let options = ServerOptions {
        stream: NAME.into(),
        viewer_token: token.map(|token| tokio::sync::watch::channel(token).1),
        insecure_no_auth: insecure_no_viewer_auth,
        allowed_origins,
        max_viewers,
        ..ServerOptions::default()
    };
    println!("http://{}/", listener.local_addr()?);
    let (sound, tone) = tone()?;
    tokio::select! {
        result = Server::new(hub.clone(), options).with_sound(sound).serve(listener) => result?,
        _ = tokio::signal::ctrl_c() => {}
    }
    stop.store(true, Ordering::Relaxed);
    tone.set_state(gst::State::Null)?;
    hub.close();
    producer.join().map_err(|_| anyhow::anyhow!("the producer panicked"))?
}

/// Publishes the tone while its pipeline plays.
fn tone() -> anyhow::Result<(SoundHub, gst::Pipeline)> {
    const PACKET_NS: u64 = 10_000_000;
    const HALF_SECOND_NS: u64 = 500_000_000;
    let hub = SoundHub::default();
    hub.set_state(SoundState { running: true, error: String::new() });
    let pipeline = gst::parse::launch(
        "audiotestsrc is-live=true freq=1000 volume=0.3 samplesperbuffer=480 ! audio/x-raw,rate=48000,channels=2 ! \
         opusenc frame-size=10 audio-type=restricted-lowdelay ! appsink name=out sync=false",
    )?
    .downcast::<gst::Pipeline>()
    .map_err(|_| anyhow::anyhow!("not a pipeline"))?;
    let sink = pipeline.by_name("out").and_then(|sink| sink.downcast::<AppSink>().ok()).context("no sink")?;
    let (publisher, mut seq, mut start_ns, mut silent) = (hub.clone(), 0, None, true);
    let new_sample = move |sink: &AppSink| {
        let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
        let buffer = sample.buffer().ok_or(gst::FlowError::Error)?;
        let data = buffer.map_readable().map_err(|_| gst::FlowError::Error)?;
        let start_ns = *start_ns.get_or_insert_with(|| clock_ns() - PACKET_NS);
        let capture_ns = start_ns + seq * PACKET_NS;
        let discontinuity = std::mem::replace(&mut silent, capture_ns / HALF_SECOND_NS % 2 == 1) && !silent;
        if !silent {
            let data = Bytes::copy_from_slice(&data);
            publisher.publish(&SoundPacket { seq, capture_ns, discontinuity, data });
        }
        seq += 1;
        Ok(gst::FlowSuccess::Ok)
    };
    sink.set_callbacks(AppSinkCallbacks::builder().new_sample(new_sample).build());
    pipeline.set_state(gst::State::Playing)?;
    Ok((hub, pipeline))
}

/// Draws, encodes and publishes pictures until `stop`.
fn produce(args: &Args, hub: &Hub, keyframe: &AtomicBool, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut number = 0;
    let mut half = false;
    while !stop.load(Ordering::Relaxed) {
        let divisor = if half { 2 } else { 1 };
        let (width, height) = (args.width / divisor, args.height / divisor);
        hub.set_info(StreamInfo {
            name: NAME.into(),
            frame_path: Some(args.frame_path),
            frame_path_reason: match args.frame_path {
                FramePath::ResourceId => String::new(),
                FramePath::Pixels => "no tap in this VM; start the VMM with the tap preloaded".into(),
                FramePath::Local => "no host-agent is configured".into(),
            },
            width,
            height,
            encoder: "x264enc".into(),
            ..StreamInfo::default()
        });
        let end = args.switch_every.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let encoder = Encoder::new(hub, width, height, args.fps, args.keyframe_every)?;
        let mut due = Instant::now();
        while !stop.load(Ordering::Relaxed) && end.is_none_or(|end| Instant::now() < end) {
            if keyframe.swap(false, Ordering::Relaxed) {
                encoder.force_keyframe();
            }
            encoder.push(number, width, height)?;
            number += 1;
            due += Duration::from_secs(1) / args.fps;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        encoder.finish()?;
        hub.discontinuity();
        half = !half;
    }
    Ok(())
}

/// Maximum number of pictures in the encoder; further pictures are skipped.
const MAX_IN_FLIGHT: usize = 3;

struct Encoder {
    pipeline: gst::Pipeline,
    source: AppSrc,
    sink: AppSink,
    /// Number and capture time of each picture in the encoder. x264enc changes timestamps but keeps the order.
    in_flight: Arc<Mutex<VecDeque<(u32, u64)>>>,
}

impl Encoder {
    fn new(hub: &Hub, width: u32, height: u32, fps: u32, keyframe_every: u32) -> anyhow::Result<Self> {
        let info = VideoInfo::builder(VideoFormat::Nv12, width, height)
            .fps(gst::Fraction::new(fps as i32, 1))
            .build()?;
        let source = AppSrc::builder().caps(&info.to_caps()?).format(gst::Format::Time).is_live(true).build();
        let key_int_max = if keyframe_every == 0 { i32::MAX as u32 } else { keyframe_every };
        let encoder = gst::ElementFactory::make("x264enc")
            .property_from_str("tune", "zerolatency")
            .property_from_str("speed-preset", "ultrafast")
            .property("bitrate", 4000_u32)
            .property("key-int-max", key_int_max)
            .property("byte-stream", true)
            .build()
            .context("x264enc is missing: install gstreamer1.0-plugins-ugly")?;
        let caps = gst::Caps::builder("video/x-h264")
            .field("stream-format", "byte-stream")
            .field("alignment", "au")
            .field("profile", "constrained-baseline")
            .build();
        let in_flight = Arc::new(Mutex::new(VecDeque::new()));
        let (hub, encoded) = (hub.clone(), Arc::clone(&in_flight));
        let callbacks = AppSinkCallbacks::builder()
            .new_sample(move |sink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                let buffer = sample.buffer().ok_or(gst::FlowError::Error)?;
                let data = buffer.map_readable().map_err(|_| gst::FlowError::Error)?;
                let oldest = encoded.lock().pop_front();
                let (number, capture_ns): (u32, u64) = oldest.ok_or(gst::FlowError::Error)?;
                hub.publish(AccessUnit {
                    seq: number.into(),
                    capture_ns,
                    idr: !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT),
                    repeat: false,
                    queue_us: 0,
                    encode_us: 0,
                    data: Bytes::copy_from_slice(&data),
                });
                Ok(gst::FlowSuccess::Ok)
            })
            .build();
        let sink = AppSink::builder().caps(&caps).sync(false).callbacks(callbacks).build();
        let pipeline = gst::Pipeline::new();
        pipeline.add_many([source.upcast_ref(), &encoder, sink.upcast_ref()])?;
        gst::Element::link_many([source.upcast_ref(), &encoder, sink.upcast_ref()])?;
        pipeline.set_state(gst::State::Playing)?;
        Ok(Self { pipeline, source, sink, in_flight })
    }

    fn force_keyframe(&self) {
        self.sink.send_event(UpstreamForceKeyUnitEvent::builder().all_headers(true).build());
    }

    /// Encodes a picture, or skips it if the encoder is behind.
    fn push(&self, number: u32, width: u32, height: u32) -> anyhow::Result<()> {
        let capture_ns = clock_ns();
        if self.in_flight.lock().len() >= MAX_IN_FLIGHT {
            return Ok(());
        }
        let mut picture = vec![0; width as usize * height as usize * 3 / 2];
        numbered::draw(number, &mut picture, width, height, width, PixelFormat::Nv12)?;
        let mut buffer = gst::Buffer::from_slice(picture);
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(gst::ClockTime::from_nseconds(capture_ns));
        }
        self.in_flight.lock().push_back((number, capture_ns));
        self.source.push_buffer(buffer)?;
        Ok(())
    }

    fn finish(self) -> anyhow::Result<()> {
        self.source.end_of_stream()?;
        if let Some(bus) = self.pipeline.bus() {
            bus.timed_pop_filtered(
                gst::ClockTime::from_seconds(5),
                &[gst::MessageType::Eos, gst::MessageType::Error],
            );
        }
        self.pipeline.set_state(gst::State::Null)?;
        Ok(())
    }
}
