//! Supported H.264 encoder elements and their configuration: one access unit per picture, no B-frames, no
//! lookahead, no automatic keyframes.
//!
//! A property that an installed version lacks is skipped. The conformance tests fail if one was needed for
//! correctness. To support another element, add a row to [`ELEMENTS`] and run those tests with it.

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video::VideoFormat;

use crate::encoder::Settings;

/// A supported element.
#[derive(Debug)]
pub struct Element {
    /// Factory name.
    pub name: &'static str,
    /// True for a hardware encoder.
    pub hardware: bool,
    /// Packages to install.
    pub package: &'static str,
    /// Input format.
    pub(super) format: VideoFormat,
    pub(super) configure: fn(&gst::Element, &Settings),
    pub(super) set_bitrate: fn(&gst::Element, u32),
}

/// All supported elements, in the order in which `auto` tries them: hardware first.
pub static ELEMENTS: [Element; 6] = [
    Element {
        name: "nvh264enc",
        hardware: true,
        package: "gstreamer1.0-plugins-bad and the NVIDIA driver's libnvidia-encode",
        format: VideoFormat::Nv12,
        configure: nvenc,
        set_bitrate: kilobits,
    },
    Element {
        name: "vah264lpenc",
        hardware: true,
        package: "gstreamer1.0-plugins-bad and the VA-API driver of the GPU (intel-media-va-driver, mesa-va-drivers)",
        format: VideoFormat::Nv12,
        configure: va,
        set_bitrate: kilobits,
    },
    Element {
        name: "vah264enc",
        hardware: true,
        package: "gstreamer1.0-plugins-bad and the VA-API driver of the GPU (intel-media-va-driver, mesa-va-drivers)",
        format: VideoFormat::Nv12,
        configure: va,
        set_bitrate: kilobits,
    },
    Element {
        name: "qsvh264enc",
        hardware: true,
        package: "gstreamer1.0-plugins-bad and libmfx-gen1.2 or libmfx1",
        format: VideoFormat::Nv12,
        configure: quick_sync,
        set_bitrate: kilobits,
    },
    Element {
        name: "x264enc",
        hardware: false,
        package: "gstreamer1.0-plugins-ugly",
        format: VideoFormat::Nv12,
        configure: x264,
        set_bitrate: kilobits,
    },
    Element {
        name: "openh264enc",
        hardware: false,
        package: "gstreamer1.0-plugins-bad",
        format: VideoFormat::I420,
        configure: openh264,
        set_bitrate: bits,
    },
];

/// The supported element with this name.
pub fn find(name: &str) -> Option<&'static Element> {
    ELEMENTS.iter().find(|element| element.name == name)
}

/// Keyframe interval in frames that is never reached.
const NEVER: &str = "2147483647";

/// Sets properties; skips those that the element lacks.
fn set(element: &gst::Element, properties: &[(&str, &str)]) {
    for (name, value) in properties {
        let Some(spec) = element.find_property(name) else {
            tracing::debug!(element = %element.name(), name, "encoder property missing");
            continue;
        };
        match gst::glib::Value::deserialize_with_pspec(value, &spec) {
            Ok(value) => element.set_property_from_value(name, &value),
            Err(error) => {
                tracing::debug!(element = %element.name(), name, value, %error, "encoder property refused");
            }
        }
    }
}

fn kilobits(element: &gst::Element, kbps: u32) {
    set(element, &[("bitrate", &kbps.to_string())]);
}

fn bits(element: &gst::Element, kbps: u32) {
    let bits = u64::from(kbps) * 1000;
    set(element, &[("bitrate", &bits.to_string())]);
}

/// Pixels per second above which x264 uses several threads. 720p60 takes 0.17 of a core with its fastest
/// preset.
const MANY_PIXELS: u64 = 1280 * 720 * 60;

fn x264(element: &gst::Element, settings: &Settings) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let pixels = u64::from(settings.width) * u64::from(settings.height) * u64::from(settings.max_fps);
    let (preset, threads) = match (pixels > MANY_PIXELS, cores) {
        (_, ..=3) => ("ultrafast", 1),
        (true, _) => ("ultrafast", (cores / 2).min(4)),
        (false, _) => ("superfast", 1),
    };
    set(
        element,
        &[
            ("speed-preset", preset),
            ("tune", "zerolatency"),
            ("sliced-threads", if threads > 1 { "true" } else { "false" }),
            ("threads", &threads.to_string()),
            ("bframes", "0"),
            ("ref", "1"),
            ("byte-stream", "true"),
            ("aud", "false"),
            ("key-int-max", NEVER),
            ("option-string", "scenecut=0"),
            // In ms at the bit rate: bounds the size of an IDR.
            ("vbv-buf-capacity", "300"),
        ],
    );
    kilobits(element, settings.bitrate_kbps);
}

fn openh264(element: &gst::Element, settings: &Settings) {
    set(
        element,
        &[
            ("usage-type", "camera"),
            ("complexity", "low"),
            ("rate-control", "bitrate"),
            ("enable-frame-skip", "false"),
            ("scene-change-detection", "false"),
            ("background-detection", "false"),
            ("adaptive-quantization", "false"),
            ("multi-thread", "1"),
            ("gop-size", "0"),
        ],
    );
    bits(element, settings.bitrate_kbps);
}

fn va(element: &gst::Element, settings: &Settings) {
    set(
        element,
        &[
            ("rate-control", "cbr"),
            ("b-frames", "0"),
            ("ref-frames", "1"),
            ("target-usage", "6"),
            ("key-int-max", "1024"),
            ("aud", "false"),
        ],
    );
    kilobits(element, settings.bitrate_kbps);
}

fn nvenc(element: &gst::Element, settings: &Settings) {
    set(
        element,
        &[
            ("preset", "low-latency-hq"),
            ("zerolatency", "true"),
            ("rc-mode", "cbr"),
            ("bframes", "0"),
            ("rc-lookahead", "0"),
            ("gop-size", "-1"),
            ("aud", "false"),
        ],
    );
    kilobits(element, settings.bitrate_kbps);
}

fn quick_sync(element: &gst::Element, settings: &Settings) {
    set(
        element,
        &[
            ("low-latency", "true"),
            ("rate-control", "cbr"),
            ("b-frames", "0"),
            ("ref-frames", "1"),
            ("gop-size", NEVER),
        ],
    );
    kilobits(element, settings.bitrate_kbps);
}
