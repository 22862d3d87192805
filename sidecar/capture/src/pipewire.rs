//! PipeWire source: captures a node of Mutter, a desktop portal or another producer.
//!
//! ```text
//! connect ─▶ Connecting ─▶ Paused ─▶ format agreed ─▶ buffers added ─▶ Streaming ─▶ frames
//!            access        link      offer.rs         pipewire_buffers  frames.rs
//! ```
//!
//! The stream offers DMA-BUF first and shared memory as fallback. If a modifier's buffers cannot be imported, the
//! stream renegotiates without that modifier. A stream that stays in `Connecting` lacks access; one that stays in
//! `Paused` is not linked. Each stage has its own time limit and remedy.
//!
//! Stream callbacks only record events in [`stream::Events`]; the loop in [`run`] acts on them.

mod frames;
mod offer;
mod sizing;
mod stream;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pipewire::loop_::Timeout;
use pipewire::main_loop::MainLoopRc;
use pipewire::spa::support::system::IoFlags;

use crate::CaptureOptions;
use crate::error::CaptureError;
use crate::mutter::Cast;
use crate::release::ReleaseQueue;
use crate::source_context::SourceContext;

use frames::FrameBuilder;
use pipewire_buffers::Stage;
use sizing::Sizing;
use stream::Stream;

const PEER: &str = "PipeWire daemon";
/// Time limit for stage `Connecting`.
const CONNECTING_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for stage `Paused`.
const PAUSED_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for the first frame in stage `Streaming`; Mutter sends one even for a static screen, late on a busy machine. The end
/// of the session removes the monitor that a desktop follows a viewer on.
const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval between checks of time limits while nothing happens.
const TICK: Duration = Duration::from_millis(250);

fn failed(operation: &str, error: &pipewire::Error) -> CaptureError {
    CaptureError::PipeWire(format!("{operation}: {error}"))
}

/// Captures `node` until it fails, or until the capture is stopped (`Ok`). `cast` is the screen cast that created the
/// node, if any.
pub fn run(
    options: &CaptureOptions,
    context: &SourceContext,
    node: u32,
    cast: Option<&Cast>,
) -> Result<(), CaptureError> {
    let path = options.runtime_dir.join(&options.pipewire_remote);
    let socket =
        UnixStream::connect(&path).map_err(|source| CaptureError::Connect { path: path.clone(), source })?;
    pipewire::init();
    let main = MainLoopRc::new(None).map_err(|error| failed("cannot make a loop", &error))?;
    let pipewire_context =
        pipewire_buffers::context(&main).map_err(|error| CaptureError::PipeWire(error.to_string()))?;
    let core = pipewire_context
        .connect_fd_rc(socket.into(), None)
        .map_err(|error| failed(&format!("{} is not a PipeWire socket", path.display()), &error))?;

    // A wake-up ends `iterate`; the loop below then checks for a stop and for released buffers.
    let waker = Arc::clone(context.waker());
    let _waker = waker.raw_fd().map(|fd| {
        let waker = Arc::clone(&waker);
        main.loop_().add_io(fd, IoFlags::IN, move |_| waker.clear())
    });

    let shm_reason = options.dmabuf_excluded();
    let mut sizing = Sizing::new(options, context, cast);
    let stream = Stream::new(&core, node, shm_reason.as_ref(), options, sizing.initial())?;
    let (release, released) = ReleaseQueue::new(context.waker());
    let source = if cast.is_some() { "pipewire (mutter)" } else { "pipewire" };
    let mut frames = FrameBuilder::new(source, options, shm_reason, release);
    let before = context.delivered();
    let truncated_pages = pipewire_buffers::truncated_pages();
    let mut since = (Stage::Connecting, Instant::now());
    loop {
        if context.is_stopped() {
            return Ok(());
        }
        if let Some(reason) = cast.and_then(Cast::end_reason) {
            return Err(CaptureError::Disconnected { peer: "screen cast", reason: reason.to_owned() });
        }
        main.loop_().iterate(Timeout::Finite(TICK));
        for id in released.try_iter() {
            stream.buffers().release(id);
        }
        if let Some(error) = stream.take_error() {
            return Err(error);
        }
        if pipewire_buffers::truncated_pages() != truncated_pages {
            let reason = "it truncated memory that it shares".to_owned();
            return Err(CaptureError::Disconnected { peer: PEER, reason });
        }
        sizing.update(&stream)?;
        frames.buffers_removed(&stream.buffers().take_removed());
        frames.buffers_added(stream.buffers().take_added());
        let unusable = frames.deliver_newest(&stream, context)?;
        if let Some((agreed, _)) = stream.agreed()
            && let Some(cursor) = stream.buffers().take_cursor()
        {
            context.pointer().update(cursor, (agreed.width, agreed.height));
        }
        if let Some(modifier) = unusable {
            stream.renegotiate_without(modifier)?;
        }
        let stage = stream.stage();
        if stage != since.0 {
            since = (stage, Instant::now());
        }
        check_timeout(stage, context.delivered() > before, since.1.elapsed())?;
    }
}

/// Fails if a stage exceeds its time limit. In `Streaming` only the first frame has one: a static screen sends no
/// further frames.
fn check_timeout(stage: Stage, delivered: bool, elapsed: Duration) -> Result<(), CaptureError> {
    let (limit, operation, remedy) = match (stage, delivered) {
        (Stage::Connecting, _) => (
            CONNECTING_TIMEOUT,
            "grant access",
            "run wireplumber beside pipewire (it grants access), and the sidecar with the desktop's uid",
        ),
        (Stage::Paused, _) => (
            PAUSED_TIMEOUT,
            "link the stream to the node",
            "check that wireplumber runs, that the node still exists, and that its formats include 32-bit RGB",
        ),
        (Stage::Streaming, false) => (
            FIRST_FRAME_TIMEOUT,
            "deliver a first frame",
            "the producer hangs: check its log, restart the desktop",
        ),
        (Stage::Streaming, true) => return Ok(()),
    };
    if elapsed < limit {
        return Ok(());
    }
    Err(CaptureError::Timeout { peer: PEER, operation, after: limit, remedy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stage_over_its_limit_fails_with_its_remedy() {
        let text = |stage, elapsed| check_timeout(stage, true, elapsed).err().map(|error| error.to_string());
        assert_eq!(text(Stage::Connecting, CONNECTING_TIMEOUT / 2), None);
        assert!(text(Stage::Connecting, CONNECTING_TIMEOUT).is_some_and(|text| text.contains("wireplumber")));
        assert!(text(Stage::Paused, PAUSED_TIMEOUT).is_some_and(|text| text.contains("link the stream")));
    }

    #[test]
    fn streaming_without_a_first_frame_fails_and_a_static_screen_does_not() {
        assert!(check_timeout(Stage::Streaming, false, FIRST_FRAME_TIMEOUT).is_err());
        assert!(check_timeout(Stage::Streaming, true, Duration::from_hours(1)).is_ok());
    }
}
