//! The promises, one function each.

use std::time::Duration;

use bytes::Bytes;
use encode::annexb;
use encode::{Codec, EncodeError, Picture, PixelFormat, Settings};

use crate::pictures::{flat, moving, noise};
use crate::{Bench, SIZE, Subject, decode, stream};

/// 500 pictures give 500 access units, in order, the first alone an IDR.
pub fn one_in_one_out_in_order(subject: &Subject) {
    let mut bench = Bench::new(subject, subject.settings()).expect("opens");
    for number in 0..500 {
        bench.push(&moving(number, SIZE), false).expect("encodes");
    }
    let outputs = bench.end();
    let tickets: Vec<_> = outputs.iter().map(|output| output.ticket).collect();
    assert_eq!(tickets, (100..600).collect::<Vec<_>>());
    assert!(outputs.iter().all(|output| !output.data.is_empty()));
    let idrs: Vec<_> = outputs.iter().filter(|output| output.idr).map(|output| output.ticket).collect();
    assert_eq!(idrs, [100], "only the first, as no other was asked for");
}

/// The first access unit has its parameter sets, once, and the size.
pub fn first_is_an_entry_point(subject: &Subject) {
    let mut bench = Bench::new(subject, subject.settings()).expect("opens");
    bench.push(&moving(0, SIZE), false).expect("encodes");
    let first = bench.outputs().remove(0);
    assert!(first.idr);
    assert!(stream::is_entry_point(subject.codec, &first.data));
    for kind in stream::parameter_sets(subject.codec) {
        let count = annexb::nal_units(&first.data)
            .filter(|unit| stream::kind(subject.codec, unit) == Some(*kind))
            .count();
        assert_eq!(count, 1, "parameter sets of type {kind} are there once");
    }
    if subject.codec == Codec::H264 {
        let sps = annexb::sps(&first.data).expect("an SPS that parses");
        assert_eq!((sps.width, sps.height), SIZE);
        assert!(annexb::codec_string(&first.data).is_some_and(|codec| codec.starts_with("avc1.")));
    }
}

/// IDRs come where they are asked for, and a decoder can begin there.
pub fn idr_on_demand(subject: &Subject) {
    let mut bench = Bench::new(subject, subject.settings()).expect("opens");
    for number in 0..30 {
        bench.push(&moving(number, SIZE), number % 10 == 7).expect("encodes");
    }
    let outputs = bench.outputs();
    let idrs: Vec<_> = outputs.iter().filter(|output| output.idr).map(|output| output.ticket - 100).collect();
    assert_eq!(idrs, [0, 7, 17, 27]);
    for output in outputs.iter().filter(|output| output.idr) {
        assert!(
            stream::is_entry_point(subject.codec, &output.data),
            "a decoder can begin at {}",
            output.ticket
        );
    }
}

/// Keyframes are due by time, not by count.
pub fn keyframe_interval_is_kept_in_time(subject: &Subject) {
    let mut bench = Bench::new(subject, Settings { keyframe_ms: 1000, ..subject.settings() }).expect("opens");
    // Ten pictures at 60 fps, then a pause of two seconds, then ten more.
    for number in 0..20u64 {
        let pts = number * 16_667 + if number >= 10 { 2_000_000 } else { 0 };
        bench.submit(&moving(number, SIZE), number, pts, false).expect("encodes");
    }
    let idrs: Vec<_> =
        bench.outputs().iter().filter(|output| output.idr).map(|output| output.ticket).collect();
    assert_eq!(idrs, [0, 10]);
}

/// A tenth of the bit rate is a tenth of the bytes, without an IDR where the encoder can.
pub fn rate_changes_without_an_idr(subject: &Subject) {
    let mut bench =
        Bench::new(subject, Settings { bitrate_kbps: 6000, ..subject.settings() }).expect("opens");
    let spent = |bench: &mut Bench, from: u64| -> usize {
        for number in from..from + 120 {
            bench.push(&noise(number, SIZE), false).expect("encodes");
        }
        bench.outputs()[from as usize + 60..].iter().map(|output| output.data.len()).sum()
    };
    let before = spent(&mut bench, 0);
    bench.encoder.set_rate(600, 60).expect("takes a new rate");
    let after = spent(&mut bench, 120);
    let idrs = bench.outputs().iter().filter(|output| output.idr).count();
    let most = subject.idrs_of_a_rate;
    assert!(idrs <= most, "{idrs} IDRs: the rate changed without one");
    if subject.video {
        assert!(after * 3 < before, "a tenth of the bit rate: {before} bytes before, {after} after");
    }
    assert!(matches!(bench.encoder.set_rate(0, 60), Err(EncodeError::Unsupported(_))));
    assert!(matches!(bench.encoder.set_rate(100, 0), Err(EncodeError::Unsupported(_))));
    bench.push(&noise(0, SIZE), false).expect("a refused rate changes nothing");
}

/// What contradicts itself is refused, and the encoder lives on.
pub fn bad_pictures_are_refused_and_harmless(subject: &Subject) {
    let mut bench = Bench::new(subject, subject.settings()).expect("opens");
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
        let refused = bench.encoder.submit(picture, 7, 1, false);
        assert!(matches!(refused, Err(EncodeError::BadPicture(_))), "{refused:?}");
    }
    bench.push(&good, false).expect("encodes after all that");
    assert_eq!(bench.outputs().len(), 1);
    for settings in [
        Settings { width: 0, ..subject.settings() },
        Settings { height: 8193, ..subject.settings() },
        Settings { codec: Codec::Hevc, width: if subject.hevc { 0 } else { 320 }, ..subject.settings() },
        Settings { bitrate_kbps: 0, ..subject.settings() },
        Settings { max_fps: 241, ..subject.settings() },
    ] {
        let refused = Bench::new(subject, settings).map(|_| ());
        assert!(matches!(refused, Err(EncodeError::Unsupported(_))), "{settings:?}: {refused:?}");
    }
}

/// Pictures are let go of once they are encoded.
pub fn picture_memory_is_given_back(subject: &Subject) {
    let mut bench = Bench::new(subject, subject.settings()).expect("opens");
    let nv12 = |value: u8| Picture {
        format: PixelFormat::Nv12,
        width: SIZE.0,
        height: SIZE.1,
        stride: SIZE.0,
        data: vec![value; PixelFormat::Nv12.bytes(SIZE.0, SIZE.1)].into(),
    };
    let pictures: Vec<_> = (0..10).map(nv12).collect();
    for picture in &pictures {
        bench.push(picture, false).expect("encodes");
    }
    bench.outputs();
    let held = pictures.iter().filter(|picture| !picture.data.is_unique()).count();
    assert!(held <= 1, "of ten pictures the encoder still holds {held}: a ring would run dry");
    drop(bench.encoder);
    assert!(pictures.iter().all(|picture| picture.data.is_unique()), "a dropped encoder holds nothing");
}

/// Dropping ends everything within seconds.
pub fn dropping_is_quick_and_final(subject: &Subject) {
    for pictures in [0, 1, 5] {
        let mut bench = Bench::new(subject, subject.settings()).expect("opens");
        for number in 0..pictures {
            bench.push(&moving(number, SIZE), false).expect("encodes");
        }
        let start = std::time::Instant::now();
        bench.end();
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

/// Sides need not be even.
pub fn odd_sizes_work(subject: &Subject) {
    for size in [(321, 241), (319, 240), (320, 239), (65, 33), (1366, 768), (1919, 1079)] {
        let mut bench = Bench::new(subject, Settings { width: size.0, height: size.1, ..subject.settings() })
            .expect("opens");
        bench.push(&flat([200, 30, 90], PixelFormat::Bgrx, size, 12), false).expect("encodes");
        bench.push(&flat([200, 30, 90], PixelFormat::Bgra, size, 0), false).expect("encodes");
        assert_eq!(bench.outputs().len(), 2);
    }
}

/// What is decoded has the colours that were encoded.
pub fn colours_survive(subject: &Subject) {
    const COLOURS: [[u8; 3]; 5] = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [20, 120, 70]];
    const FORMATS: [(PixelFormat, u32); 4] =
        [(PixelFormat::Bgrx, 0), (PixelFormat::Bgra, 64), (PixelFormat::Rgbx, 4), (PixelFormat::Rgba, 100)];
    for size in [SIZE, (161, 99)] {
        let mut bench = Bench::new(subject, Settings { width: size.0, height: size.1, ..subject.settings() })
            .expect("opens");
        let mut want = Vec::new();
        for colour in COLOURS {
            for (format, padding) in FORMATS {
                bench.push(&flat(colour, format, size, padding), false).expect("encodes");
                want.push((colour, format));
            }
        }
        let outputs = bench.outputs();
        let means = decode::means(subject.codec, &outputs);
        assert_eq!(means.len(), want.len(), "every access unit is a picture, shown at once");
        for (got, (colour, format)) in means.iter().zip(&want) {
            let expected = decode::bt709(*colour);
            let off = got.yuv.iter().zip(expected).map(|(got, want)| (got - want).abs()).fold(0.0, f64::max);
            assert!(off < 3.0, "{colour:?} as {format:?} came out as {:?}, not {expected:?}", got.yuv);
            assert_eq!((got.width, got.height), (size.0.next_multiple_of(2), size.1.next_multiple_of(2)));
        }
        if subject.codec != Codec::H264 {
            continue;
        }
        let sps = annexb::sps(&outputs[0].data).expect("an SPS");
        assert!(!sps.full_range);
        assert!(sps.shows_at_once() || !subject.tags, "a decoder need not wait: {sps:?}");
        assert!(sps.matrix == 1 || !subject.tags, "BT.709 is signalled: {sps:?}");
    }
}
