//! A stand-alone viewers' server over a numbered test pattern: for looking at the page, and for the tests
//! of the page. `cargo run -p sidecar --example viewer`, then open http://127.0.0.1:8080/.
//!
//! The pattern is the one of tests/fixtures/pattern: 16 x 9 cells; rows 0 and 1 are the frame number in binary,
//! rows 7 and 8 its complement, and what is between changes with every frame.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use clap::Parser;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::{AppSink, AppSinkCallbacks, AppSrc};
use gstreamer_video::{UpstreamForceKeyUnitEvent, VideoFormat, VideoInfo};
use protocol::stream::AccessUnit;
use encode::clock::clock_ns;
use viewers::recording::Recording;
use viewers::{Hub, HubOptions, Server, ServerOptions, StreamInfo};

/// Serves a numbered test pattern to viewers.
#[derive(Debug, Parser)]
struct Args {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// What viewers must show.
    #[arg(long)]
    token: Option<String>,
    /// Serve everyone.
    #[arg(long)]
    insecure_no_viewer_auth: bool,
    /// Most viewers.
    #[arg(long, default_value_t = 16)]
    max_viewers: usize,
    /// Width in pixels.
    #[arg(long, default_value_t = 1280)]
    width: u32,
    /// Height in pixels.
    #[arg(long, default_value_t = 720)]
    height: u32,
    /// Frames per second.
    #[arg(long, default_value_t = 30)]
    fps: u32,
    /// Frames between keyframes; 0 means on demand only.
    #[arg(long, default_value_t = 0)]
    keyframe_every: u32,
    /// Change size and encoder after so many seconds, again and again.
    #[arg(long)]
    switch_every: Option<u64>,
    /// The rung to claim.
    #[arg(long, default_value = "Local")]
    rung: String,
    /// Record to this file, until stopped by SIGINT.
    #[arg(long)]
    record: Option<std::path::PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Args {
        listen,
        token,
        insecure_no_viewer_auth,
        max_viewers,
        width,
        height,
        fps,
        keyframe_every,
        switch_every,
        rung,
        record,
    } = Args::parse();
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    gst::init()?;
    let hub = Hub::new(HubOptions::default());
    let wanted = Arc::new(AtomicBool::new(false));
    let stop = Arc::new(AtomicBool::new(false));
    let feeder = std::thread::spawn({
        let (hub, wanted, stop) = (hub.clone(), Arc::clone(&wanted), Arc::clone(&stop));
        move || feed(&hub, &wanted, &stop, (width, height), fps, keyframe_every, switch_every, &rung)
    });
    let mut requests = hub.keyframe_requests();
    tokio::spawn(async move {
        while requests.next().await.is_some() {
            wanted.store(true, Ordering::Relaxed);
        }
    });
    let recording = match record {
        Some(path) => Some(Recording::start(&hub, &path, 1 << 30).await?),
        None => None,
    };
    let listener =
        tokio::net::TcpListener::bind(listen).await.with_context(|| format!("listening on {listen}"))?;
    let options = ServerOptions {
        viewer_token: token,
        insecure_no_auth: insecure_no_viewer_auth,
        max_viewers,
        ..ServerOptions::default()
    };
    println!("http://{}/", listener.local_addr()?);
    tokio::select! {
        ended = Server::new(hub.clone(), options).serve(listener) => ended?,
        _ = tokio::signal::ctrl_c() => {}
    }
    if let Some(recording) = recording {
        println!("{:?}", recording.finish().await?);
    }
    stop.store(true, Ordering::Relaxed);
    hub.close();
    feeder.join().map_err(|_| anyhow::anyhow!("the feeder panicked"))?
}

#[expect(clippy::too_many_arguments, reason = "an example's wiring")]
fn feed(
    hub: &Hub,
    wanted: &AtomicBool,
    stop: &AtomicBool,
    (width, height): (u32, u32),
    fps: u32,
    keyframe_every: u32,
    switch_every: Option<u64>,
    rung: &str,
) -> anyhow::Result<()> {
    let mut number = 0;
    let mut small = false;
    while !stop.load(Ordering::Relaxed) {
        let (width, height) = if small { ((width / 2) & !1, (height / 2) & !1) } else { (width, height) };
        hub.set_info(StreamInfo {
            name: "test-pattern".into(),
            rung: rung.into(),
            rung_reason: match rung {
                "ResourceId" => String::new(),
                "Pixels" => "no tap in this VM: start it with the tap preloaded".into(),
                _ => "no host-agent: an example has none".into(),
            },
            width,
            height,
            encoder: "x264enc".into(),
        });
        let end = switch_every.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let encoder = Encoder::new(hub, width, height, fps, keyframe_every)?;
        let mut due = Instant::now();
        while !stop.load(Ordering::Relaxed) && end.is_none_or(|end| Instant::now() < end) {
            if wanted.swap(false, Ordering::Relaxed) {
                encoder.force_keyframe();
            }
            encoder.push(number, width as usize, height as usize)?;
            number += 1;
            due += Duration::from_secs(1) / fps;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        encoder.end()?;
        hub.discontinuity();
        small = !small;
    }
    Ok(())
}

/// Most pictures in the encoder at once; it gives each back before the next is due, or is too slow.
const MOST_INSIDE: usize = 3;

struct Encoder {
    pipeline: gst::Pipeline,
    source: AppSrc,
    sink: AppSink,
    /// Number and capture time of what is in the encoder: x264enc moves timestamps, and keeps order.
    inside: Arc<Mutex<VecDeque<(u32, u64)>>>,
}

impl Encoder {
    fn new(hub: &Hub, width: u32, height: u32, fps: u32, keyframe_every: u32) -> anyhow::Result<Self> {
        let info = VideoInfo::builder(VideoFormat::I420, width, height)
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
        let inside = Arc::new(Mutex::new(VecDeque::new()));
        let (hub, numbers) = (hub.clone(), Arc::clone(&inside));
        let callbacks = AppSinkCallbacks::builder()
            .new_sample(move |sink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                let buffer = sample.buffer().ok_or(gst::FlowError::Error)?;
                let data = buffer.map_readable().map_err(|_| gst::FlowError::Error)?;
                let front = numbers.lock().map_err(|_| gst::FlowError::Error)?.pop_front();
                let (number, capture_ns): (u32, u64) = front.ok_or(gst::FlowError::Error)?;
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
        Ok(Self { pipeline, source, sink, inside })
    }

    fn force_keyframe(&self) {
        self.sink.send_event(UpstreamForceKeyUnitEvent::builder().all_headers(true).build());
    }

    /// Gives a picture to the encoder, or leaves it out when the encoder is behind.
    fn push(&self, number: u32, width: usize, height: usize) -> anyhow::Result<()> {
        let capture_ns = clock_ns();
        let panicked = || anyhow::anyhow!("the encoder's thread panicked");
        if self.inside.lock().map_err(|_| panicked())?.len() >= MOST_INSIDE {
            return Ok(());
        }
        let mut buffer = gst::Buffer::from_slice(pattern(number, width, height));
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(gst::ClockTime::from_nseconds(capture_ns));
        }
        self.inside.lock().map_err(|_| panicked())?.push_back((number, capture_ns));
        self.source.push_buffer(buffer)?;
        Ok(())
    }

    fn end(self) -> anyhow::Result<()> {
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

/// An I420 picture of 16 x 9 cells.
fn pattern(number: u32, width: usize, height: usize) -> Vec<u8> {
    let bit = |i: usize, row: usize, of: u32| of >> (31 - (row * 16 + i)) & 1 == 1;
    let colour = |i: usize, j: usize| -> [u8; 3] {
        let grey = |on| if on { [235, 128, 128] } else { [16, 128, 128] };
        match j {
            0 | 1 => grey(bit(i, j, number)),
            7 | 8 => grey(bit(i, j - 7, !number)),
            _ => {
                let phase = number as usize * 3 + i * 11 + j * 29;
                [
                    60 + (phase % 120) as u8,
                    64 + ((phase * 2) % 128) as u8,
                    64 + ((phase * 3 + 40) % 128) as u8,
                ]
            }
        }
    };
    let mut picture = Vec::with_capacity(width * height * 3 / 2);
    for (plane, width, height) in [(0, width, height), (1, width / 2, height / 2), (2, width / 2, height / 2)]
    {
        let mut row = Vec::with_capacity(width);
        for y in 0..height {
            let j = y * 9 / height;
            if y == 0 || (y - 1) * 9 / height != j {
                row.clear();
                row.extend((0..width).map(|x| colour(x * 16 / width, j)[plane]));
            }
            picture.extend_from_slice(&row);
        }
    }
    picture
}
