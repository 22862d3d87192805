//! The conformance tests, one function each.

use std::time::Duration;

use bytes::Bytes;
use encode::annexb;
use encode::{Codec, EncodeError, Picture, PixelFormat, Settings};

use crate::pictures::{flat, moving, noise};
use crate::{Harness, SIZE, Subject, byte_stream, decode};

/// 500 pictures give 500 access units in order, of which only the first is an IDR.
pub fn every_picture_gives_one_access_unit_in_order(subject: &Subject) {
    let mut harness = Harness::open(subject, subject.settings());
    for number in 0..500 {
        harness.push(&moving(number, SIZE), false).expect("encodes");
    }
    let outputs = harness.finish();
    let tickets: Vec<_> = outputs.iter().map(|output| output.ticket).collect();
    assert_eq!(tickets, (100..600).collect::<Vec<_>>());
    assert!(outputs.iter().all(|output| !output.data.is_empty()));
    let idrs: Vec<_> = outputs.iter().filter(|output| output.idr).map(|output| output.ticket).collect();
    assert_eq!(idrs, [100], "only the first, because no other was requested");
}

/// The first access unit has each parameter set once, with the right size.
pub fn first_access_unit_is_an_entry_point(subject: &Subject) {
    let mut harness = Harness::open(subject, subject.settings());
    harness.push(&moving(0, SIZE), false).expect("encodes");
    let first = harness.outputs().remove(0);
    assert!(first.idr);
    assert!(byte_stream::is_entry_point(subject.codec, &first.data));
    for kind in byte_stream::parameter_sets(subject.codec) {
        let count = annexb::nal_units(&first.data)
            .filter(|unit| byte_stream::kind(subject.codec, unit) == Some(*kind))
            .count();
        assert_eq!(count, 1, "one parameter set of type {kind}");
    }
    if subject.codec == Codec::H264 {
        let sps = annexb::sps(&first.data).expect("a valid SPS");
        assert_eq!((sps.width, sps.height), SIZE);
        assert!(annexb::codec_string(&first.data).is_some_and(|codec| codec.starts_with("avc1.")));
    }
}

/// IDRs are made on request only, and a decoder can start at each.
pub fn idr_is_made_on_request(subject: &Subject) {
    let mut harness = Harness::open(subject, subject.settings());
    for number in 0..30 {
        harness.push(&moving(number, SIZE), number % 10 == 7).expect("encodes");
    }
    let outputs = harness.outputs();
    let idrs: Vec<_> = outputs.iter().filter(|output| output.idr).map(|output| output.ticket - 100).collect();
    assert_eq!(idrs, [0, 7, 17, 27]);
    for output in outputs.iter().filter(|output| output.idr) {
        assert!(
            byte_stream::is_entry_point(subject.codec, &output.data),
            "a decoder can start at {}",
            output.ticket
        );
    }
}

/// The keyframe interval is measured in time, not in pictures.
pub fn keyframe_interval_is_measured_in_time(subject: &Subject) {
    let mut harness = Harness::open(subject, Settings { keyframe_ms: 1000, ..subject.settings() });
    // Ten pictures at 60 fps, then a pause of two seconds, then ten more.
    for number in 0..20u64 {
        let pts = number * 16_667 + if number >= 10 { 2_000_000 } else { 0 };
        harness.submit(&moving(number, SIZE), number, pts, false).expect("encodes");
    }
    let idrs: Vec<_> =
        harness.outputs().iter().filter(|output| output.idr).map(|output| output.ticket).collect();
    assert_eq!(idrs, [0, 10]);
}

/// A lower bit rate makes the stream smaller, without an IDR where the encoder supports that.
pub fn rate_change_needs_no_idr(subject: &Subject) {
    let mut harness = Harness::open(subject, Settings { bitrate_kbps: 6000, ..subject.settings() });
    let bytes_of = |harness: &mut Harness, from: u64| -> usize {
        for number in from..from + 120 {
            harness.push(&noise(number, SIZE), false).expect("encodes");
        }
        harness.outputs()[from as usize + 60..].iter().map(|output| output.data.len()).sum()
    };
    let before = bytes_of(&mut harness, 0);
    harness.encoder.set_rate(600, 60).expect("accepts a new rate");
    let after = bytes_of(&mut harness, 120);
    let idrs = harness.outputs().iter().filter(|output| output.idr).count();
    let limit = subject.idrs_with_rate_change;
    assert!(idrs <= limit, "{idrs} IDRs, but at most {limit} are needed");
    if subject.makes_video {
        assert!(after * 3 < before, "{before} bytes before, {after} at a tenth of the bit rate");
    }
    assert!(matches!(harness.encoder.set_rate(0, 60), Err(EncodeError::Unsupported(_))));
    assert!(matches!(harness.encoder.set_rate(100, 0), Err(EncodeError::Unsupported(_))));
    harness.push(&noise(0, SIZE), false).expect("a refused rate has no effect");
}

/// Invalid pictures and settings are refused, and a refused picture has no effect.
pub fn invalid_picture_is_refused_without_effect(subject: &Subject) {
    let mut harness = Harness::open(subject, subject.settings());
    let good = moving(0, SIZE);
    let bad = [
        Picture { width: 318, ..good.clone() },
        Picture { height: 242, ..good.clone() },
        Picture { stride: good.stride - 1, ..good.clone() },
        Picture { data: good.data.slice(1..), ..good.clone() },
        Picture { data: Bytes::new(), ..good.clone() },
        Picture { format: PixelFormat::Nv12, stride: u32::MAX, ..good.clone() },
    ];
    for picture in &bad {
        let refused = harness.encoder.submit(picture, 7, 1, false);
        assert!(matches!(refused, Err(EncodeError::BadPicture(_))), "{refused:?}");
    }
    harness.push(&good, false).expect("encodes a valid picture");
    assert_eq!(harness.outputs().len(), 1);
    for settings in [
        Settings { width: 0, ..subject.settings() },
        Settings { height: 8193, ..subject.settings() },
        Settings {
            codec: Codec::Hevc,
            width: if subject.supports_hevc { 0 } else { 320 },
            ..subject.settings()
        },
        Settings { bitrate_kbps: 0, ..subject.settings() },
        Settings { max_fps: 241, ..subject.settings() },
    ] {
        let refused = Harness::try_open(subject, settings).map(|_| ());
        assert!(matches!(refused, Err(EncodeError::Unsupported(_))), "{settings:?}: {refused:?}");
    }
}

/// The encoder releases pictures once they are encoded.
pub fn picture_memory_is_released(subject: &Subject) {
    let mut harness = Harness::open(subject, subject.settings());
    let nv12 = |value: u8| Picture {
        format: PixelFormat::Nv12,
        width: SIZE.0,
        height: SIZE.1,
        stride: SIZE.0,
        data: vec![value; PixelFormat::Nv12.bytes(SIZE.0, SIZE.1)].into(),
    };
    let pictures: Vec<_> = (0..10).map(nv12).collect();
    for picture in &pictures {
        harness.push(picture, false).expect("encodes");
    }
    harness.outputs();
    let held = pictures.iter().filter(|picture| !picture.data.is_unique()).count();
    assert!(held <= 1, "the encoder holds {held} of ten pictures, so a ring would have no free slot");
    drop(harness.encoder);
    assert!(pictures.iter().all(|picture| picture.data.is_unique()), "a dropped encoder holds no picture");
}

/// Dropping the encoder returns within seconds, after all access units.
pub fn drop_is_prompt_and_final(subject: &Subject) {
    for pictures in [0, 1, 5] {
        let mut harness = Harness::open(subject, subject.settings());
        for number in 0..pictures {
            harness.push(&moving(number, SIZE), false).expect("encodes");
        }
        let start = std::time::Instant::now();
        harness.finish();
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

/// Pictures with odd sides are encoded.
pub fn odd_size_is_encoded(subject: &Subject) {
    for size in [(321, 241), (319, 240), (320, 239), (65, 33), (1366, 768), (1919, 1079)] {
        let mut harness =
            Harness::open(subject, Settings { width: size.0, height: size.1, ..subject.settings() });
        harness.push(&flat([200, 30, 90], PixelFormat::Bgrx, size, 12), false).expect("encodes");
        harness.push(&flat([200, 30, 90], PixelFormat::Bgra, size, 0), false).expect("encodes");
        assert_eq!(harness.outputs().len(), 2);
    }
}

/// Decoded pictures have the colours of the encoded ones.
pub fn colours_are_preserved(subject: &Subject) {
    const COLOURS: [[u8; 3]; 5] = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [20, 120, 70]];
    const FORMATS: [(PixelFormat, u32); 4] =
        [(PixelFormat::Bgrx, 0), (PixelFormat::Bgra, 64), (PixelFormat::Rgbx, 4), (PixelFormat::Rgba, 100)];
    for size in [SIZE, (161, 99)] {
        let mut harness =
            Harness::open(subject, Settings { width: size.0, height: size.1, ..subject.settings() });
        let mut want = Vec::new();
        for colour in COLOURS {
            for (format, padding) in FORMATS {
                harness.push(&flat(colour, format, size, padding), false).expect("encodes");
                want.push((colour, format));
            }
        }
        let outputs = harness.outputs();
        let means = decode::means(subject.codec, &outputs);
        assert_eq!(means.len(), want.len(), "every access unit decodes to a picture without delay");
        for (got, (colour, format)) in means.iter().zip(&want) {
            let expected = decode::bt709(*colour);
            let off = got.yuv.iter().zip(expected).map(|(got, want)| (got - want).abs()).fold(0.0, f64::max);
            assert!(off < 3.0, "{colour:?} as {format:?} decodes as {:?}, not {expected:?}", got.yuv);
            assert_eq!((got.width, got.height), (size.0.next_multiple_of(2), size.1.next_multiple_of(2)));
        }
        if subject.codec != Codec::H264 {
            continue;
        }
        let sps = annexb::sps(&outputs[0].data).expect("an SPS");
        assert!(!sps.full_range);
        assert!(sps.has_no_reordering() || !subject.signals_colours_and_order, "no reordering: {sps:?}");
        assert!(sps.matrix == 1 || !subject.signals_colours_and_order, "BT.709: {sps:?}");
    }
}
