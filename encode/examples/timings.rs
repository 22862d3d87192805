//! Prints the time for conversion and encoding on this machine: ms per picture, median and p99.
//!
//! `cargo run --release -p encode --example timings`

use std::time::{Duration, Instant};

use bytes::Bytes;
use encode::convert::{Plane, Planes, convert};
use encode::{Choice, Codec, Picture, PixelFormat, Settings, open};

const PICTURES: usize = 200;

/// A picture like a desktop: flat areas, text-like detail and a moving block.
fn desktop(number: usize, width: u32, height: u32) -> Picture {
    let mut data = Vec::with_capacity(PixelFormat::Bgrx.bytes(width, height));
    let moving = (number as u32 * 8) % width;
    for y in 0..height {
        for x in 0..width {
            let text = ((x * 7919) ^ (y * 104_729)) % 11 < 3 && y / 16 % 2 == 0 && x < width / 2;
            let block = x.wrapping_sub(moving) < 200 && y < 300;
            data.extend(match (text, block) {
                (_, true) => [(x + y) as u8, x as u8, y as u8, 0],
                (true, _) => [20, 20, 20, 0],
                _ => [240, 235, 230, 0],
            });
        }
    }
    Picture { format: PixelFormat::Bgrx, width, height, stride: 4 * width, data: Bytes::from(data) }
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let ms = |at: usize| times[at.min(times.len() - 1)].as_secs_f64() * 1e3;
    println!("  {what:<34} {:7.3} {:7.3}", ms(times.len() / 2), ms(times.len() * 99 / 100));
}

fn timed(mut work: impl FnMut(usize)) -> Vec<Duration> {
    (0..PICTURES)
        .map(|number| {
            let start = Instant::now();
            work(number);
            start.elapsed()
        })
        .collect()
}

fn main() {
    for (width, height) in [(1280, 720), (1920, 1080)] {
        println!("{width} x {height}                            p50 ms  p99 ms");
        let pictures: Vec<_> = (0..8).map(|number| desktop(number, width, height)).collect();
        let pixels = (width * height) as usize;
        let (mut y, mut uv) = (vec![0; pixels], vec![0; pixels / 2]);
        let (mut u, mut v) = (vec![0; pixels / 4], vec![0; pixels / 4]);
        report(
            "convert BGRx to NV12",
            timed(|number| {
                let (y, uv) = (Plane { data: &mut y, stride: width }, Plane { data: &mut uv, stride: width });
                convert(&pictures[number % 8], &mut Planes::Nv12(y, uv)).expect("converts");
            }),
        );
        report(
            "convert BGRx to I420",
            timed(|number| {
                let y = Plane { data: &mut y, stride: width };
                let (u, v) =
                    (Plane { data: &mut u, stride: width / 2 }, Plane { data: &mut v, stride: width / 2 });
                convert(&pictures[number % 8], &mut Planes::I420(y, u, v)).expect("converts");
            }),
        );
        let settings =
            Settings { width, height, codec: Codec::H264, bitrate_kbps: 8000, max_fps: 60, keyframe_ms: 0 };
        for found in encode::available().iter().filter(|found| found.trial.is_ok()) {
            let mut encoder = open(&Choice::Element(found.name), settings, Box::new(|_| ())).expect("opens");
            let times = timed(|number| {
                encoder
                    .submit(&pictures[number % 8], number as u64, number as u64 * 16_667, false)
                    .expect("encodes");
            });
            report(&format!("convert and encode, {}", found.name), times);
        }
    }
}
