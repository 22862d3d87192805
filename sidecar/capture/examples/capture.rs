//! Captures a desktop and prints the negotiated format, the frame rate of each second and the first pixel:
//! `capture --source wayland --runtime-dir /run/desktop --seconds 5`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use capture::{CaptureEvent, CaptureOptions, Frame, FrameBuffer, Memory, Source};
use clap::{Parser, ValueEnum};
use encode::clock::clock_ns;
use protocol::{PixelFormat, Rect};

/// Captures a desktop and prints statistics.
#[derive(Debug, Parser)]
struct Args {
    /// Kind of source.
    #[arg(long, value_enum, default_value = "auto")]
    source: SourceArg,
    /// Kind of buffers.
    #[arg(long, value_enum, default_value = "auto")]
    memory: MemoryArg,
    /// The desktop's runtime directory.
    #[arg(long, env = "XDG_RUNTIME_DIR", default_value = "/run/desktop")]
    runtime_dir: PathBuf,
    /// Wayland socket in the runtime directory; default: every wayland-* socket.
    #[arg(long)]
    wayland_display: Option<String>,
    /// PipeWire node; default: a node created by Mutter.
    #[arg(long)]
    node: Option<u32>,
    /// Render node.
    #[arg(long, default_value = "/dev/dri/renderD128")]
    render_node: PathBuf,
    /// Maximum frame rate.
    #[arg(long, default_value_t = 60)]
    max_fps: u32,
    /// Duration in seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Stop after this many frames, and fail if there were fewer; 0 sets no number.
    #[arg(long, default_value_t = 0)]
    frames: u64,
    /// Write the last frame to this PPM file.
    #[arg(long)]
    ppm: Option<PathBuf>,
    /// Hold each frame for this many milliseconds, as a slow consumer.
    #[arg(long, default_value_t = 0)]
    hold_ms: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SourceArg {
    Auto,
    Pipewire,
    Wayland,
    Testpattern,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum MemoryArg {
    Auto,
    Dmabuf,
    Shm,
}

fn main() -> std::process::ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let args = Args::parse();
    let device = match virtgpu::Device::open(&args.render_node) {
        Ok(device) => Some(device),
        Err(error) => {
            println!("render node not available: {error}");
            None
        }
    };
    let capture = capture::start(CaptureOptions {
        source: match args.source {
            SourceArg::Auto => Source::Auto,
            SourceArg::Pipewire => Source::PipeWire,
            SourceArg::Wayland => Source::Wayland,
            SourceArg::Testpattern => Source::TestPattern,
        },
        memory: match args.memory {
            MemoryArg::Auto => Memory::Auto,
            MemoryArg::Dmabuf => Memory::DmaBuf,
            MemoryArg::Shm => Memory::Shm,
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
    let mut statistics = Statistics::new();
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
            statistics.add(&frame);
            last = Some(frame);
        }
        statistics.print_each_second();
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

/// Statistics of the current second.
struct Statistics {
    since: Instant,
    frames: u32,
    damage: f64,
    age_ns: u64,
}

impl Statistics {
    fn new() -> Self {
        Self { since: Instant::now(), frames: 0, damage: 0.0, age_ns: 0 }
    }

    fn add(&mut self, frame: &Frame) {
        self.frames += 1;
        let area = |rect: Rect| f64::from(rect.width) * f64::from(rect.height);
        self.damage += area(frame.damage) / area(Rect::full(frame.width, frame.height));
        self.age_ns += clock_ns().saturating_sub(frame.capture_ns);
    }

    fn print_each_second(&mut self) {
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
