//! The contract, for each encoder of this crate. What is installed is run; what is not is named.

use encode::{Choice, EncodeError, annexb, open};
use encode_testkit::pictures::moving;
use encode_testkit::{Bench, SETTINGS, SIZE, Subject, contract};

const NULL: Subject =
    Subject { video: false, ..Subject::new("null", |settings, sink| open(&Choice::Null, settings, sink)) };
const X264: Subject = Subject::new("x264enc", |settings, sink| open(&"x264enc".parse()?, settings, sink));
const OPENH264: Subject = Subject {
    // It begins a new sequence when its rate changes by much.
    idrs_of_a_rate: 2,
    tags: false,
    ..Subject::new("openh264enc", |settings, sink| open(&"openh264enc".parse()?, settings, sink))
};
const AUTO: Subject = Subject::new("auto", |settings, sink| open(&Choice::Auto, settings, sink));

contract!(
    null,
    crate::NULL,
    one_in_one_out_in_order,
    idr_on_demand,
    keyframe_interval_is_kept_in_time,
    rate_changes_without_an_idr,
    bad_pictures_are_refused_and_harmless,
    picture_memory_is_given_back,
    dropping_is_quick_and_final,
    odd_sizes_work,
);

contract!(
    x264,
    crate::X264,
    one_in_one_out_in_order,
    first_is_an_entry_point,
    idr_on_demand,
    keyframe_interval_is_kept_in_time,
    rate_changes_without_an_idr,
    bad_pictures_are_refused_and_harmless,
    picture_memory_is_given_back,
    dropping_is_quick_and_final,
    odd_sizes_work,
    colours_survive,
);

contract!(
    openh264,
    crate::OPENH264,
    one_in_one_out_in_order,
    first_is_an_entry_point,
    idr_on_demand,
    keyframe_interval_is_kept_in_time,
    rate_changes_without_an_idr,
    bad_pictures_are_refused_and_harmless,
    picture_memory_is_given_back,
    dropping_is_quick_and_final,
    odd_sizes_work,
    colours_survive,
);

#[test]
fn auto_takes_something_that_works() {
    let mut bench =
        Bench::new(&AUTO, SETTINGS).expect("these tests need one encoder: install gstreamer1.0-plugins-ugly");
    bench.push(&moving(0, SIZE), false).expect("encodes");
    assert_ne!(bench.encoder.name(), "null");
    assert!(annexb::is_entry_point(&bench.outputs()[0].data));
}

#[test]
fn what_is_missing_names_its_package() {
    for found in encode::available() {
        if let Err(EncodeError::Unavailable(text)) = found.trial {
            assert!(text.contains("install"), "{}: {text}", found.name);
        }
    }
}
