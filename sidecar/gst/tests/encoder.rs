//! `desktopstreamenc` without a GPU: pixels to a fake host-agent and H.264 back, and its failures.

mod agent;
mod support;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use agent::{Agent, Behaviour};
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::AppSink;
use gstreamer_video::UpstreamForceKeyUnitEvent;
use pattern::layout::read_number;
use protocol::PixelFormat;
use support::{load, pipeline, run};

const SOURCE: &str = "desktopstreamsrc source=test-pattern width=320 height=180 max-framerate=60";

fn streaming(agent: &Agent, frames: i32, after: &str) -> gst::Pipeline {
    let host_agent = agent.address;
    pipeline(&format!(
        "{SOURCE} num-buffers={frames} ! desktopstreamenc name=enc host-agent=tcp://{host_agent} ! {after}"
    ))
}

fn numbers(pipeline: &gst::Pipeline) -> Vec<u32> {
    pipeline.set_state(gst::State::Playing).expect("plays");
    let out: AppSink = pipeline.by_name("out").expect("there").downcast().expect("an appsink");
    let mut numbers = Vec::new();
    while let Ok(sample) = out.pull_sample() {
        let map = sample.buffer().expect("a buffer").map_readable().expect("readable");
        numbers.push(read_number(&map, 320, 180, 320, PixelFormat::Nv12).expect("whole"));
    }
    numbers
}

const DECODED: &str = "h264parse ! avdec_h264 ! video/x-raw,format=I420 ! appsink name=out sync=false";

#[test]
fn encoder_has_documented_properties_and_pads() {
    load();
    let encoder = gst::ElementFactory::make("desktopstreamenc")
        .property("host-agent", "vsock://2:7900")
        .property("token", "secret")
        .property_from_str("require", "zero-copy")
        .build()
        .expect("made");
    assert_eq!(encoder.property::<u32>("bitrate"), 6000);
    assert_eq!(encoder.property::<u32>("keyframe-interval"), 10_000);
    assert_eq!(encoder.property::<String>("frame-path"), "");
    let token = encoder.find_property("token").expect("a property");
    assert!(!token.flags().contains(gst::glib::ParamFlags::READABLE), "a secret can't be read");
    let src = encoder.static_pad("src").expect("a pad").pad_template_caps();
    let h264: gst::Caps = "video/x-h264,stream-format=byte-stream,alignment=au".parse().expect("caps");
    assert!(src.is_subset(&h264), "{src}");
    let sink = encoder.static_pad("sink").expect("a pad").pad_template_caps();
    for text in ["video/x-raw(memory:DMABuf),format=BGRx", "video/x-raw,format=RGBA"] {
        assert!(sink.can_intersect(&text.parse::<gst::Caps>().expect("caps")), "{text}");
    }
}

#[test]
fn every_picture_returns_once_and_in_order() {
    let agent = Agent::start(Behaviour::Encode);
    let pipeline = streaming(&agent, 60, DECODED);
    let numbers = numbers(&pipeline);
    let encoder = pipeline.by_name("enc").expect("there");
    assert_eq!(encoder.property::<String>("frame-path"), "Pixels");
    assert_eq!(encoder.property::<u64>("lost"), 0);
    assert_eq!(numbers.len(), 60);
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    pipeline.set_state(gst::State::Null).expect("stops");
}

#[test]
fn lost_connection_is_reestablished_and_stream_resumes_with_a_keyframe() {
    let agent = Agent::start(Behaviour::HangUpAfter(20));
    let pipeline = streaming(&agent, 60, DECODED);
    let numbers = numbers(&pipeline);
    assert_eq!(agent.sessions.load(Ordering::Relaxed), 2);
    assert!(numbers.len() > 50, "{} of 60", numbers.len());
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    pipeline.set_state(gst::State::Null).expect("stops");
}

#[test]
fn requested_keyframe_arrives() {
    let agent = Agent::start(Behaviour::Encode);
    let pipeline = streaming(&agent, -1, "appsink name=out sync=false max-buffers=4");
    pipeline.set_state(gst::State::Playing).expect("plays");
    let out: AppSink = pipeline.by_name("out").expect("there").downcast().expect("an appsink");
    let next = || {
        let sample = out.pull_sample().expect("a picture");
        let buffer = sample.buffer().expect("a buffer");
        assert_eq!(buffer.pts(), buffer.dts());
        (buffer.pts().expect("a time"), !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT))
    };
    let (mut last, first_is_idr) = next();
    assert!(first_is_idr);
    for _ in 0..5 {
        let (pts, idr) = next();
        assert!(pts > last && !idr);
        last = pts;
    }
    assert!(out.send_event(UpstreamForceKeyUnitEvent::builder().all_headers(true).build()));
    let begin = Instant::now();
    while !next().1 {
        assert!(begin.elapsed() < Duration::from_secs(30), "no keyframe");
    }
    assert_eq!(agent.keyframe_requests.load(Ordering::Relaxed), 1);
    pipeline.set_state(gst::State::Null).expect("stops");
}

#[test]
fn failure_message_names_the_cause() {
    let cases = [
        (String::new(), "set host-agent=tls://"),
        ("host-agent=http://x".to_owned(), "host-agent=http://x"),
        ("host-agent=tcp://10.0.0.1:1".to_owned(), "plaintext-tcp=true"),
        ("host-agent=tls://127.0.0.1:1".to_owned(), "append #sha256="),
        ("host-agent=tcp://127.0.0.1:1".to_owned(), "cannot reach the host-agent at tcp://127.0.0.1:1"),
        ("host-agent=tcp://127.0.0.1:1 require=zero-copy".to_owned(), "no resource ID"),
        (
            format!("host-agent=tcp://{} token-file=/nowhere", Agent::start(Behaviour::Encode).address),
            "cannot read the token file /nowhere",
        ),
        (format!("host-agent=tcp://{}", Agent::start(Behaviour::Refuse).address), "the token has expired"),
        (format!("host-agent=tcp://{}", Agent::start(Behaviour::Mute).address), "has sent no access unit"),
    ];
    for (properties, expected) in cases {
        let error = run(&pipeline(&format!("{SOURCE} ! desktopstreamenc {properties} ! fakesink")))
            .expect_err("an error");
        assert!(error.contains(expected), "{properties}: {error}");
    }
}

#[test]
fn pipeline_stops_while_the_host_agent_does_not_answer() {
    let agent = Agent::start(Behaviour::Mute);
    let pipeline = streaming(&agent, -1, "fakesink");
    pipeline.set_state(gst::State::Playing).expect("plays");
    let begin = Instant::now();
    while agent.sessions.load(Ordering::Relaxed) == 0 {
        assert!(begin.elapsed() < Duration::from_secs(30), "not connected");
        std::thread::sleep(Duration::from_millis(10));
    }
    let begin = Instant::now();
    pipeline.set_state(gst::State::Null).expect("stops");
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
}
