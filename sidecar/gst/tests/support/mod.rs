//! Loads the plugin and runs pipelines with it.

use std::sync::OnceLock;

use gstreamer as gst;
use gstreamer::prelude::*;

/// Timeout of every wait.
pub const TIMEOUT: gst::ClockTime = gst::ClockTime::from_seconds(60);

/// Loads the library that cargo built.
pub fn load() {
    static LOADED: OnceLock<gst::Plugin> = OnceLock::new();
    LOADED.get_or_init(|| {
        gst::init().expect("GStreamer starts");
        let program = std::env::current_exe().expect("this program");
        let folder = program.parent().expect("target/release/deps");
        gst::Plugin::load_file(folder.join("libgstdesktopstream.so")).expect("the plugin loads")
    });
}

/// Parses a pipeline in gst-launch syntax.
pub fn pipeline(text: &str) -> gst::Pipeline {
    load();
    gst::parse::launch(text).expect(text).downcast().expect("more than one element")
}

/// Runs to EOS or to the first error, and returns its message.
pub fn run(pipeline: &gst::Pipeline) -> Result<(), String> {
    // Errors of the state change are on the bus too.
    let _ = pipeline.set_state(gst::State::Playing);
    let result = wait_end(pipeline);
    pipeline.set_state(gst::State::Null).expect("stops");
    result
}

/// Waits for EOS or an error.
pub fn wait_end(pipeline: &gst::Pipeline) -> Result<(), String> {
    let ends = [gst::MessageType::Eos, gst::MessageType::Error];
    let message = pipeline.bus().expect("a bus").timed_pop_filtered(TIMEOUT, &ends).expect("an end");
    match message.view() {
        gst::MessageView::Error(error) => Err(error.error().to_string()),
        _ => Ok(()),
    }
}
