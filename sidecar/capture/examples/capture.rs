//! Captures a desktop and prints what was negotiated, each second's frame rate, and the first pixels:
//! `capture --source wayland --runtime-dir /run/desktop --seconds 5`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use protocol::{PixelFormat, Rect};
use capture::{self, CaptureEvent, CaptureOptions, Frame, FrameBuffer, Memory, Source};
use encode::clock::clock_ns;

/// Captures a desktop and prints what it sees.
#[derive(Debug, Parser)]
struct Args {
    /// auto, pipewire, wayland or testpattern.
    #[arg(long, default_value = "auto")]
    source: String,
    /// auto, dmabuf or shm.
    #[arg(long, default_value = "auto")]
    memory: String,
    /// The desktop's runtime folder.
    #[arg(long, env = "XDG_RUNTIME_DIR", default_value = "/run/desktop")]
    runtime_dir: PathBuf,
    /// Wayland socket.
    #[arg(long)]
    wayland_display: Option<String>,
    /// PipeWire node.
    #[arg(long)]
    node: Option<u32>,
    /// Render node.
    #[arg(long, default_value = "/dev/dri/renderD128")]
    render_node: PathBuf,
    /// Highest frame rate.
    #[arg(long, default_value_t = 60)]
    max_fps: u32,
    /// How long, in seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Stop after this many frames; then fewer than that is a failure.
    #[arg(long, default_value_t = 0)]
    frames: u64,
    /// Write the last frame as PPM.
    #[arg(long)]
    ppm: Option<PathBuf>,
    /// Wait this long with each frame in hand, ms: a slow consumer.
    #[arg(long, default_value_t = 0)]
    hold_ms: u64,
}

fn main() -> std::process::ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let args = Args::parse();
    let device = match virtgpu::Device::open(&args.render_node) {
        Ok(device) => Some(device),
        Err(error) => {
            println!("no render node: {error}");
            None
        }
    };
    let capture = capture::start(CaptureOptions {
        source: match args.source.as_str() {
            "pipewire" => Source::PipeWire,
            "wayland" => Source::Wayland,
            "testpattern" => Source::TestPattern,
            _ => Source::Auto,
        },
        memory: match args.memory.as_str() {
            "dmabuf" => Memory::DmaBuf,
            "shm" => Memory::Shm,
            _ => Memory::Auto,
        },
        max_fps: args.max_fps,
        runtime_dir: args.runtime_dir.clone(),
        wayland_display: args.wayland_display.clone(),
        pipewire_node: args.node,
        render_node: args.render_node.clone(),
        device,
        ..CaptureOptions::default()
    });

    let end = Instant::now() + Duration::from_secs(args.seconds);
    let mut second = Second::new();
    let mut total = 0;
    let mut last = None;
    while Instant::now() < end && (args.frames == 0 || total < args.frames) {
        while let Some(event) = capture.try_event() {
            match event {
                CaptureEvent::Negotiated(negotiated) => println!("{negotiated:#?}"),
                CaptureEvent::Lost(error) => println!("lost: {error}"),
            }
        }
        if let Some(frame) = capture.recv_newest(Duration::from_millis(100)) {
            total += 1;
            if total == 1 {
                println!("first frame: {frame:?} pixel {:?}", pixel(&frame));
            }
            std::thread::sleep(Duration::from_millis(args.hold_ms));
            second.add(&frame);
            last = Some(frame);
        }
        second.print_if_over();
    }
    println!("{total} frames, {} overwritten", capture.overwritten());
    if let (Some(path), Some(frame)) = (&args.ppm, &last) {
        match ppm(frame).and_then(|bytes| std::fs::write(path, bytes)) {
            Ok(()) => println!("wrote {}", path.display()),
            Err(error) => println!("cannot write {}: {error}", path.display()),
        }
    }
    drop(last);
    if args.frames > 0 && total < args.frames {
        return std::process::ExitCode::FAILURE;
    }
    std::process::ExitCode::SUCCESS
}

struct Second {
    since: Instant,
    frames: u32,
    damage: f64,
    age_ns: u64,
}

impl Second {
    fn new() -> Self {
        Self { since: Instant::now(), frames: 0, damage: 0.0, age_ns: 0 }
    }

    fn add(&mut self, frame: &Frame) {
        self.frames += 1;
        let area = |rect: Rect| f64::from(rect.width) * f64::from(rect.height);
        self.damage += area(frame.damage) / area(Rect::full(frame.width, frame.height));
        self.age_ns += clock_ns().saturating_sub(frame.capture_ns);
    }

    fn print_if_over(&mut self) {
        let elapsed = self.since.elapsed();
        if elapsed < Duration::from_secs(1) {
            return;
        }
        let frames = f64::from(self.frames);
        println!(
            "{:.1} fps, damage {:.0} %, age {:.2} ms",
            frames / elapsed.as_secs_f64(),
            100.0 * self.damage / frames.max(1.0),
            self.age_ns as f64 / frames.max(1.0) / 1e6
        );
        *self = Self::new();
    }
}

fn with_bytes<T>(frame: &Frame, read: impl FnOnce(&[u8], u32) -> T) -> std::io::Result<T> {
    match &frame.buffer {
        FrameBuffer::Gpu(buffer) => buffer.with_pixels(Rect::full(frame.width, frame.height), read),
        FrameBuffer::Shm(view) => Ok(read(view.bytes(), view.stride())),
    }
}

fn pixel(frame: &Frame) -> std::io::Result<Vec<u8>> {
    with_bytes(frame, |bytes, _| bytes.iter().take(4).copied().collect())
}

fn ppm(frame: &Frame) -> std::io::Result<Vec<u8>> {
    let (width, height) = (frame.width as usize, frame.height as usize);
    let swap = matches!(frame.format, PixelFormat::Bgrx | PixelFormat::Bgra);
    with_bytes(frame, |bytes, stride| {
        let mut out = format!("P6 {width} {height} 255\n").into_bytes();
        for row in bytes.chunks(stride as usize).take(height) {
            for pixel in row[..4 * width].as_chunks::<4>().0 {
                let [a, b, c, _] = *pixel;
                out.extend(if swap { [c, b, a] } else { [a, b, c] });
            }
        }
        out
    })
}
