//! Conformance of this crate's encoders. The software encoders must be installed.

use encode::{Choice, EncodeError, annexb, open};
use encode_testkit::pictures::moving;
use encode_testkit::{Harness, SETTINGS, SIZE, Subject, conformance_tests, hardware_conformance_tests};

const NULL: Subject = Subject {
    makes_video: false,
    ..Subject::new("null", |settings, sink| open(&Choice::Null, settings, sink))
};
const X264: Subject = Subject::new("x264enc", |settings, sink| open(&"x264enc".parse()?, settings, sink));
const OPENH264: Subject = Subject {
    // It starts a new sequence after a large change of the rate.
    idrs_with_rate_change: 2,
    signals_colours_and_order: false,
    ..Subject::new("openh264enc", |settings, sink| open(&"openh264enc".parse()?, settings, sink))
};
const AUTO: Subject = Subject::new("auto", |settings, sink| open(&Choice::Auto, settings, sink));
const NVENC: Subject =
    Subject::new("nvh264enc", |settings, sink| open(&"nvh264enc".parse()?, settings, sink));
const VA: Subject = Subject::new("vah264enc", |settings, sink| open(&"vah264enc".parse()?, settings, sink));
const VA_LOW_POWER: Subject =
    Subject::new("vah264lpenc", |settings, sink| open(&"vah264lpenc".parse()?, settings, sink));
const QUICK_SYNC: Subject =
    Subject::new("qsvh264enc", |settings, sink| open(&"qsvh264enc".parse()?, settings, sink));

conformance_tests!(
    null,
    crate::NULL,
    every_picture_gives_one_access_unit_in_order,
    idr_is_made_on_request,
    keyframe_interval_is_measured_in_time,
    rate_change_needs_no_idr,
    invalid_picture_is_refused_without_effect,
    picture_memory_is_released,
    drop_is_prompt_and_final,
    odd_size_is_encoded,
);

/// All tests, for an encoder that makes video.
macro_rules! video_tests {
    ($macro:ident, $module:ident, $subject:expr) => {
        $macro!(
            $module,
            $subject,
            every_picture_gives_one_access_unit_in_order,
            first_access_unit_is_an_entry_point,
            idr_is_made_on_request,
            keyframe_interval_is_measured_in_time,
            rate_change_needs_no_idr,
            invalid_picture_is_refused_without_effect,
            picture_memory_is_released,
            drop_is_prompt_and_final,
            odd_size_is_encoded,
            colours_are_preserved,
        );
    };
}

video_tests!(conformance_tests, x264, crate::X264);
video_tests!(conformance_tests, openh264, crate::OPENH264);
video_tests!(hardware_conformance_tests, nvenc, crate::NVENC);
video_tests!(hardware_conformance_tests, va, crate::VA);
video_tests!(hardware_conformance_tests, va_low_power, crate::VA_LOW_POWER);
video_tests!(hardware_conformance_tests, quick_sync, crate::QUICK_SYNC);

#[test]
fn auto_selects_an_encoder_that_makes_video() {
    let mut harness = Harness::open(&AUTO, SETTINGS);
    harness.push(&moving(0, SIZE), false).expect("encodes");
    assert_ne!(harness.encoder.name(), "null");
    assert!(annexb::is_entry_point(&harness.outputs()[0].data));
}

#[test]
fn every_supported_encoder_has_a_test() {
    let tested = [X264, OPENH264, NVENC, VA, VA_LOW_POWER, QUICK_SYNC].map(|subject| subject.name);
    for found in encode::available() {
        assert!(tested.contains(&found.name), "{} has no conformance tests", found.name);
    }
}

#[test]
fn error_of_a_missing_encoder_names_its_package() {
    for found in encode::available() {
        if let Err(EncodeError::Unavailable(text)) = found.trial {
            assert!(text.contains("install"), "{}: {text}", found.name);
        }
    }
}
