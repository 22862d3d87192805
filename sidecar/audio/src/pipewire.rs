//! Captures the monitor of the desktop's default sink.
//!
//! ```text
//! connect ─▶ Connecting ─▶ Paused ─▶ Streaming ─▶ samples
//!            access        link to a sink
//! ```
//!
//! The stream converts to the one format that it offers, in this process. Its buffers are this process's memory; what is in
//! them, and the size that a buffer claims, come from the daemon and are checked.

mod stream;

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use encode::clock::clock_ns;
use pipewire::loop_::Timeout;
use pipewire::main_loop::MainLoopRc;

use crate::error::AudioError;
use crate::frames::{Frame, Framer};
use crate::{AudioOptions, FRAME_BYTES};

use pipewire_buffers::Stage;
use stream::Stream;

/// Time limit for stage `Connecting`.
const CONNECTING_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for stage `Paused`.
const PAUSED_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for samples in stage `Streaming`; a sink delivers silence, too.
const SAMPLES_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval between checks of time limits, and of whether sound is wanted, while nothing happens.
const TICK: Duration = Duration::from_millis(100);
/// Maximum number of bytes taken from one buffer: 8192 sample frames, the largest cycle of a daemon by default.
const MAX_BYTES: usize = 8192 * FRAME_BYTES;

fn failed(operation: &str, error: &pipewire::Error) -> AudioError {
    AudioError::PipeWire(format!("{operation}: {error}"))
}

/// Delivers frames while sound is `wanted` (then `Ok`), or until the capture fails.
pub fn run(
    options: &AudioOptions,
    wanted: impl Fn() -> bool,
    mut deliver: impl FnMut(Frame) -> Result<(), AudioError>,
) -> Result<(), AudioError> {
    let path = options.runtime_dir.join(&options.remote);
    let socket =
        UnixStream::connect(&path).map_err(|source| AudioError::Connect { path: path.clone(), source })?;
    pipewire::init();
    let main = MainLoopRc::new(None).map_err(|error| failed("cannot make a loop", &error))?;
    let context =
        pipewire_buffers::context(&main).map_err(|error| AudioError::PipeWire(error.to_string()))?;
    let core = context
        .connect_fd_rc(socket.into(), None)
        .map_err(|error| failed(&format!("{} is not a PipeWire socket", path.display()), &error))?;
    let stream = Stream::new(&core)?;
    let truncated_pages = pipewire_buffers::truncated_pages();
    let mut framer = Framer::default();
    let mut bytes = Vec::new();
    let mut stage = Stage::Connecting;
    // Last change of the stage, or last samples.
    let mut since = Instant::now();
    while wanted() {
        main.loop_().iterate(Timeout::Finite(TICK));
        if let Some(error) = stream.take_error() {
            return Err(error);
        }
        if pipewire_buffers::truncated_pages() != truncated_pages {
            return Err(AudioError::Disconnected("it truncated memory that it shares".to_owned()));
        }
        if stream.stage() != stage {
            (stage, since) = (stream.stage(), Instant::now());
        }
        while stream.read(&mut bytes) {
            since = Instant::now();
            framer.push(&bytes, clock_ns(), &mut deliver)?;
        }
        check_timeout(stage, since.elapsed())?;
    }
    Ok(())
}

/// Fails if a stage exceeds its time limit.
fn check_timeout(stage: Stage, elapsed: Duration) -> Result<(), AudioError> {
    let (after, operation, remedy) = match stage {
        Stage::Connecting => (
            CONNECTING_TIMEOUT,
            "grant access",
            "run wireplumber beside pipewire (it grants access), and the sidecar with the desktop's uid",
        ),
        Stage::Paused => (
            PAUSED_TIMEOUT,
            "link the monitor of a sink",
            "check that wireplumber runs, and that the desktop has a sink, such as one of support.null-audio-sink",
        ),
        Stage::Streaming => {
            (SAMPLES_TIMEOUT, "deliver samples", "the sink hangs: restart the desktop's PipeWire daemon")
        }
    };
    if elapsed < after { Ok(()) } else { Err(AudioError::Timeout { operation, after, remedy }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stage_over_its_limit_fails_with_its_remedy() {
        let text = |stage, elapsed| check_timeout(stage, elapsed).err().map(|error| error.to_string());
        assert_eq!(text(Stage::Connecting, CONNECTING_TIMEOUT / 2), None);
        assert!(text(Stage::Connecting, CONNECTING_TIMEOUT).is_some_and(|text| text.contains("wireplumber")));
        assert!(text(Stage::Paused, PAUSED_TIMEOUT).is_some_and(|text| text.contains("null-audio-sink")));
        assert!(text(Stage::Streaming, SAMPLES_TIMEOUT).is_some_and(|text| text.contains("restart")));
    }

    #[test]
    fn desktop_without_pipewire_is_an_error_with_a_remedy() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = AudioOptions::new(folder.path().to_owned());
        let error = run(&options, || true, |_| Ok(())).expect_err("no socket").to_string();
        assert!(error.contains("pipewire-0") && error.contains("run pipewire"), "{error}");
    }
}
