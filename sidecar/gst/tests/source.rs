//! `desktopstreamsrc` without a GPU: caps, properties, frames and error messages.

mod support;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::AppSink;
use pattern::layout::read_number;
use protocol::PixelFormat;
use support::{load, pipeline, run, wait_end};

#[test]
fn pad_template_offers_dma_buf_first() {
    load();
    let factory = gst::ElementFactory::find("desktopstreamsrc").expect("registered");
    let caps = factory.static_pad_templates().iter().next().expect("a pad").caps();
    let dmabuf: gst::Caps =
        "video/x-raw(memory:DMABuf),format=BGRx,width=640,height=480".parse().expect("caps");
    let drm: gst::Caps = "video/x-raw(memory:DMABuf),format=DMA_DRM,drm-format=XR24,width=640,height=480"
        .parse()
        .expect("caps");
    assert!(dmabuf.can_intersect(&caps), "{caps}");
    assert_eq!(drm.can_intersect(&caps), gst::version() >= (1, 24, 0, 0), "{caps}");
    let first = caps.features(0).expect("features");
    assert!(first.contains("memory:DMABuf"), "preferred: {caps}");
}

#[test]
fn source_has_documented_properties() {
    load();
    let source = gst::ElementFactory::make("desktopstreamsrc")
        .property_from_str("source", "wayland")
        .property("max-framerate", 30u32)
        .property("cursor", false)
        .build()
        .expect("made");
    assert_eq!(source.property::<u32>("max-framerate"), 30);
    assert!(!source.property::<bool>("cursor"));
    for (name, default) in [("width", 1280), ("height", 720), ("timeout", 30)] {
        assert_eq!(source.property::<u32>(name), default, "{name}");
    }
}

#[test]
fn frames_arrive_in_order_with_increasing_timestamps() {
    let pipeline = pipeline(
        "desktopstreamsrc source=test-pattern width=320 height=180 num-buffers=20 ! appsink name=out sync=false",
    );
    pipeline.set_state(gst::State::Playing).expect("plays");
    let out: AppSink = pipeline.by_name("out").expect("there").downcast().expect("an appsink");
    let mut seen = Vec::new();
    while let Ok(sample) = out.pull_sample() {
        let caps = sample.caps().expect("caps").to_owned();
        let wanted: gst::Caps =
            "video/x-raw,format=BGRx,width=320,height=180,framerate=0/1".parse().expect("caps");
        assert!(caps.can_intersect(&wanted), "{caps}");
        let buffer = sample.buffer().expect("a buffer");
        let map = buffer.map_readable().expect("readable");
        let number = read_number(&map, 320, 180, 320 * 4, PixelFormat::Bgrx).expect("whole");
        seen.push((buffer.pts().expect("a time"), number));
    }
    assert_eq!(seen.len(), 20);
    assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1), "{seen:?}");
    pipeline.set_state(gst::State::Null).expect("stops");
}

#[test]
fn dma_buf_only_downstream_error_names_the_cause() {
    let error = run(&pipeline(
        "desktopstreamsrc source=test-pattern render-node=/nowhere ! video/x-raw(memory:DMABuf) ! fakesink",
    ))
    .expect_err("none");
    assert!(error.contains("only DMA-BUF") && error.contains("/nowhere: render node not found"), "{error}");
}

#[test]
fn missing_desktop_error_names_timeout_and_remedy() {
    let folder = std::env::temp_dir().join("desktopstream-no-desktop");
    let text = format!("desktopstreamsrc timeout=1 runtime-dir={} ! fakesink", folder.display());
    let error = run(&pipeline(&text)).expect_err("no desktop");
    assert!(error.contains("no frame within 1 s") && error.contains("XDG_RUNTIME_DIR"), "{error}");
}

#[test]
fn eos_ends_the_source_without_a_frame() {
    let pipeline = pipeline("desktopstreamsrc timeout=0 runtime-dir=/nowhere ! fakesink");
    pipeline.set_state(gst::State::Playing).expect("plays");
    assert!(pipeline.send_event(gst::event::Eos::new()));
    assert_eq!(wait_end(&pipeline), Ok(()));
    pipeline.set_state(gst::State::Null).expect("stops");
}
