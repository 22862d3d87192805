//! `pattern`: a tiny desktop that draws a known, numbered picture, or an ordinary client that does.
//!
//! What the picture is: the library's `layout`. This file is the command line and nothing else.

mod client;
mod egl;
mod gl;
mod pace;
mod painter;
mod serve;
mod signals;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use painter::Draw;
use pattern::layout::{COLUMNS, ROWS};
use protocol::pixel::MAX_SIDE;

/// A tiny desktop that draws a known, numbered picture: the truth for tests and benches.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Be a Wayland compositor whose only output shows the picture, for wlr-screencopy (the default)
    Serve(ServeArgs),
    /// Be a client: show the picture in a fullscreen window of the desktop at WAYLAND_DISPLAY
    Client(PictureArgs),
}

/// What both commands need to draw.
#[derive(Debug, Clone, Args)]
struct PictureArgs {
    /// Width and height in pixels
    #[arg(long, value_name = "WxH", default_value = "1280x720", value_parser = parse_size)]
    size: (u32, u32),
    /// Frames per second at most; as fast as asked if left out
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    fps: Option<u32>,
    /// Stop changing after this many frames; SIGUSR1 starts and stops at any time
    #[arg(long, value_name = "FRAMES", value_parser = clap::value_parser!(u32).range(1..))]
    static_after: Option<u32>,
    /// Render node
    #[arg(long, value_name = "PATH", default_value = "/dev/dri/renderD128")]
    node: PathBuf,
    /// Draw in software, for hosts without a render node: no DMA-BUFs
    #[arg(long)]
    software: bool,
    /// How to draw
    #[arg(long, value_enum, default_value_t = Draw::Shader)]
    draw: Draw,
    /// A line for each frame on standard error
    #[arg(long)]
    log: bool,
}

#[derive(Debug, Clone, Args)]
struct ServeArgs {
    #[command(flatten)]
    picture: PictureArgs,
    /// Name of the socket in XDG_RUNTIME_DIR
    #[arg(long, default_value = "wayland-1")]
    socket: String,
    /// Do it wrong, so that a test can show that it would notice
    #[arg(long, value_enum)]
    fault: Option<Fault>,
}

/// Mistakes on demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Fault {
    /// Say that a frame is ready 5 ms before it is drawn
    ReadyBeforeDraw,
    /// After a frame is ready, draw the top half of the next one over it
    Tear,
}

fn parse_size(text: &str) -> Result<(u32, u32), String> {
    let size = text.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    match size {
        Some((w, h)) if (COLUMNS..=MAX_SIDE).contains(&w) && (ROWS..=MAX_SIDE).contains(&h) => Ok((w, h)),
        Some(_) => Err(format!("sizes go from {COLUMNS}x{ROWS} to {MAX_SIDE}x{MAX_SIDE}")),
        None => Err("write it as 1280x720".into()),
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Client(args)) => client::run(args).map_err(|error| error.to_string()),
        Some(Command::Serve(args)) => serve::run(args).map_err(|error| error.to_string()),
        None => serve::run(cli.serve).map_err(|error| error.to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pattern: {error}");
            ExitCode::FAILURE
        }
    }
}
