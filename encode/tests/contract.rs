//! What every encoder must do, run for each of them. What is installed is run; what is not is named.

mod decode;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use encode::annexb::{self, nal_type};
use encode::{Choice, Codec, EncodeError, Encoder, Output, Picture, PixelFormat, Settings, Sink, open};

const SETTINGS: Settings =
    Settings { width: 320, height: 240, codec: Codec::H264, bitrate_kbps: 2000, max_fps: 60, keyframe_ms: 0 };

/// An encoder and what it gave.
struct Bench {
    encoder: Box<dyn Encoder>,
    outputs: Arc<Mutex<Vec<Output>>>,
    next: u64,
}

impl Bench {
    fn new(name: &str, settings: Settings) -> Result<Self, EncodeError> {
        let outputs: Arc<Mutex<Vec<Output>>> = Arc::default();
        let collected = Arc::clone(&outputs);
        let sink: Sink = Box::new(move |output| {
            let output = output.expect("no picture fails here");
            collected.lock().unwrap_or_else(PoisonError::into_inner).push(output);
        });
        let choice: Choice = name.parse()?;
        Ok(Self { encoder: open(&choice, settings, sink)?, outputs, next: 0 })
    }

    /// Encodes the next picture, 1/60 s after the one before.
    fn push(&mut self, picture: &Picture, idr: bool) -> Result<(), EncodeError> {
        let ticket = 100 + self.next;
        self.encoder.submit(picture, ticket, self.next * 16_667, idr)?;
        self.next += 1;
        Ok(())
    }

    fn outputs(&self) -> Vec<Output> {
        self.outputs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A flat picture whose rows are followed by `padding` bytes of another colour.
fn flat([r, g, b]: [u8; 3], format: PixelFormat, (width, height): (u32, u32), padding: u32) -> Picture {
    let pixel = match format {
        PixelFormat::Rgba | PixelFormat::Rgbx => [r, g, b, 0xFF],
        _ => [b, g, r, 0xFF],
    };
    let mut row = pixel.repeat(width as usize);
    row.extend((0..padding).map(|at| (at * 37) as u8));
    let stride = row.len() as u32;
    Picture { format, width, height, stride, data: Bytes::from(row.repeat(height as usize)) }
}

/// A picture with something moving in it.
fn moving(number: u64, (width, height): (u32, u32)) -> Picture {
    let mut data = Vec::with_capacity(PixelFormat::Bgrx.bytes(width, height));
    for y in 0..height {
        for x in 0..width {
            let at = (u64::from(x + y) + number * 3) as u8;
            data.extend([at, at.wrapping_mul(3), (x * 5) as u8 ^ (y * 7) as u8, 0]);
        }
    }
    Picture { format: PixelFormat::Bgrx, width, height, stride: 4 * width, data: data.into() }
}

const SIZE: (u32, u32) = (320, 240);

fn one_in_one_out_in_order(name: &str) {
    let mut bench = Bench::new(name, SETTINGS).expect("opens");
    for number in 0..500 {
        bench.push(&moving(number, SIZE), false).expect("encodes");
    }
    drop(bench.encoder);
    let outputs = bench.outputs.lock().expect("not poisoned");
    let tickets: Vec<_> = outputs.iter().map(|output| output.ticket).collect();
    assert_eq!(tickets, (100..600).collect::<Vec<_>>());
    assert!(outputs.iter().all(|output| !output.data.is_empty()));
    let idrs: Vec<_> = outputs.iter().filter(|output| output.idr).map(|output| output.ticket).collect();
    assert_eq!(idrs, [100], "only the first, as no other was asked for");
}

fn first_is_an_entry_point(name: &str) {
    let mut bench = Bench::new(name, SETTINGS).expect("opens");
    bench.push(&moving(0, SIZE), false).expect("encodes");
    let first = bench.outputs().remove(0);
    assert!(first.idr);
    assert!(annexb::is_entry_point(&first.data));
    for kind in [nal_type::SPS, nal_type::PPS] {
        let count = annexb::nal_units(&first.data).filter(|unit| annexb::kind(unit) == Some(kind)).count();
        assert_eq!(count, 1, "parameter sets of type {kind} are there once");
    }
    let sps = annexb::sps(&first.data).expect("an SPS that parses");
    assert_eq!((sps.width, sps.height), SIZE);
    assert!(annexb::codec_string(&first.data).is_some_and(|codec| codec.starts_with("avc1.")));
}

fn idr_on_demand(name: &str) {
    let mut bench = Bench::new(name, SETTINGS).expect("opens");
    for number in 0..30 {
        bench.push(&moving(number, SIZE), number % 10 == 7).expect("encodes");
    }
    let outputs = bench.outputs();
    let idrs: Vec<_> = outputs.iter().filter(|output| output.idr).map(|output| output.ticket - 100).collect();
    assert_eq!(idrs, [0, 7, 17, 27]);
    for output in outputs.iter().filter(|output| output.idr) {
        assert!(annexb::is_entry_point(&output.data), "a decoder can begin at {}", output.ticket);
    }
}

fn keyframe_interval_is_kept_in_time(name: &str) {
    let mut bench = Bench::new(name, Settings { keyframe_ms: 1000, ..SETTINGS }).expect("opens");
    // Ten pictures at 60 fps, then a pause of two seconds, then ten more.
    for number in 0..20u64 {
        let pts = number * 16_667 + if number >= 10 { 2_000_000 } else { 0 };
        bench.encoder.submit(&moving(number, SIZE), number, pts, false).expect("encodes");
    }
    let idrs: Vec<_> =
        bench.outputs().iter().filter(|output| output.idr).map(|output| output.ticket).collect();
    assert_eq!(idrs, [0, 10]);
}

fn rate_changes_without_an_idr(name: &str) {
    let mut bench = Bench::new(name, Settings { bitrate_kbps: 6000, ..SETTINGS }).expect("opens");
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
    // OpenH264 begins a new sequence when its rate changes by much: "where the encoder can".
    let most = if name == "openh264enc" { 2 } else { 1 };
    assert!(idrs <= most, "{idrs} IDRs: the rate changed without one");
    if name != "null" {
        assert!(after * 3 < before, "a tenth of the bit rate: {before} bytes before, {after} after");
    }
    assert!(matches!(bench.encoder.set_rate(0, 60), Err(EncodeError::Unsupported(_))));
    assert!(matches!(bench.encoder.set_rate(100, 0), Err(EncodeError::Unsupported(_))));
    bench.push(&noise(0, SIZE), false).expect("a refused rate changes nothing");
}

/// Blocks of changing brightness: costs bits at any rate.
fn noise(number: u64, (width, height): (u32, u32)) -> Picture {
    let mut data = Vec::with_capacity(PixelFormat::Bgrx.bytes(width, height));
    for y in 0..height {
        for x in 0..width {
            let mut at = u64::from(x / 4) << 40 ^ u64::from(y / 4) << 20 ^ number;
            at = at.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ at >> 29;
            at = at.wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let grey = (at >> 56) as u8;
            data.extend([grey, grey, grey, 0]);
        }
    }
    Picture { format: PixelFormat::Bgrx, width, height, stride: 4 * width, data: data.into() }
}

fn bad_pictures_are_refused_and_harmless(name: &str) {
    let mut bench = Bench::new(name, SETTINGS).expect("opens");
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
        Settings { width: 0, ..SETTINGS },
        Settings { height: 8193, ..SETTINGS },
        Settings { codec: Codec::Hevc, ..SETTINGS },
        Settings { bitrate_kbps: 0, ..SETTINGS },
        Settings { max_fps: 241, ..SETTINGS },
    ] {
        let refused = Bench::new(name, settings).map(|_| ());
        assert!(matches!(refused, Err(EncodeError::Unsupported(_))), "{settings:?}: {refused:?}");
    }
}

fn picture_memory_is_given_back(name: &str) {
    let mut bench = Bench::new(name, SETTINGS).expect("opens");
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
    let held = pictures.iter().filter(|picture| !picture.data.is_unique()).count();
    assert!(held <= 1, "of ten pictures the encoder still holds {held}: a ring would run dry");
    drop(bench.encoder);
    assert!(pictures.iter().all(|picture| picture.data.is_unique()), "a dropped encoder holds nothing");
}

fn dropping_is_quick_and_final(name: &str) {
    for pictures in [0, 1, 5] {
        let mut bench = Bench::new(name, SETTINGS).expect("opens");
        for number in 0..pictures {
            bench.push(&moving(number, SIZE), false).expect("encodes");
        }
        let start = std::time::Instant::now();
        drop(bench.encoder);
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!(Arc::strong_count(&bench.outputs), 1, "the sink is gone with the encoder");
    }
}

fn odd_sizes_work(name: &str) {
    for size in [(321, 241), (319, 240), (320, 239), (65, 33), (1366, 768), (1919, 1079)] {
        let mut bench =
            Bench::new(name, Settings { width: size.0, height: size.1, ..SETTINGS }).expect("opens");
        bench.push(&flat([200, 30, 90], PixelFormat::Bgrx, size, 12), false).expect("encodes");
        bench.push(&flat([200, 30, 90], PixelFormat::Bgra, size, 0), false).expect("encodes");
        assert_eq!(bench.outputs().len(), 2);
    }
}

fn colours_survive(name: &str) {
    const COLOURS: [[u8; 3]; 5] = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [20, 120, 70]];
    const FORMATS: [(PixelFormat, u32); 4] =
        [(PixelFormat::Bgrx, 0), (PixelFormat::Bgra, 64), (PixelFormat::Rgbx, 4), (PixelFormat::Rgba, 100)];
    for size in [SIZE, (161, 99)] {
        let mut bench =
            Bench::new(name, Settings { width: size.0, height: size.1, ..SETTINGS }).expect("opens");
        let mut want = Vec::new();
        for colour in COLOURS {
            for (format, padding) in FORMATS {
                bench.push(&flat(colour, format, size, padding), false).expect("encodes");
                want.push((colour, format));
            }
        }
        let outputs = bench.outputs();
        let means = decode::means(&outputs);
        assert_eq!(means.len(), want.len(), "every access unit is a picture, shown at once");
        for (got, (colour, format)) in means.iter().zip(&want) {
            let expected = decode::bt709(*colour);
            let off = got.yuv.iter().zip(expected).map(|(got, want)| (got - want).abs()).fold(0.0, f64::max);
            assert!(off < 3.0, "{colour:?} as {format:?} came out as {:?}, not {expected:?}", got.yuv);
            assert_eq!((got.width, got.height), (size.0.next_multiple_of(2), size.1.next_multiple_of(2)));
        }
        let sps = annexb::sps(&outputs[0].data).expect("an SPS");
        assert!(!sps.full_range);
        assert!(sps.shows_at_once() || name == "openh264enc", "a decoder need not wait: {sps:?}");
        assert!(sps.matrix == 1 || name == "openh264enc", "BT.709 is signalled: {sps:?}");
    }
}

macro_rules! contract {
    ($module:ident, $name:literal, $($test:ident),+ $(,)?) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    if let Err(missing @ super::EncodeError::Unavailable(_)) = super::Bench::new($name, super::SETTINGS) {
                        eprintln!("skipped: {missing}");
                        return;
                    }
                    super::$test($name);
                }
            )+
        }
    };
}

contract!(
    null,
    "null",
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
    "x264enc",
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
    "openh264enc",
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
    let mut bench = Bench::new("auto", SETTINGS)
        .expect("these tests need one encoder: install gstreamer1.0-plugins-ugly");
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
