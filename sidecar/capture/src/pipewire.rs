//! PipeWire: a producer (Mutter, a portal, anything) lends us its buffers.
//!
//! ```text
//! connect ─▶ Connecting ─▶ Paused ─▶ Format agreed ─▶ buffers added ─▶ Streaming ─▶ frames
//!   access: wireplumber      linked?    offer.rs         pipewire_buffers   picture.rs
//! ```
//!
//! The negotiation is our own: DMA-BUF first, shared memory as fallback; a modifier whose buffers can't be
//! imported is dropped and the rest offered again. Long in "connecting" means that nobody grants access, long
//! in "paused" that nobody linked the two nodes: different remedies, so different time limits.
//!
//! Callbacks only note facts in [`stream::Facts`]; this loop acts on them. It does not know where the node
//! comes from.

mod offer;
mod picture;
mod stream;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pipewire::loop_::Timeout;
use pipewire::main_loop::MainLoopRc;
use pipewire::spa::support::system::IoFlags;

use super::error::CaptureError;
use super::mutter::Cast;
use super::outlet::Outlet;
use super::returns::Returns;
use super::{CaptureOptions, Memory};

use picture::Pictures;
use stream::{Stage, Stream};

const WHO: &str = "PipeWire";
/// How long access may take.
const CONNECTING: Duration = Duration::from_secs(10);
/// How long a link, or its formats, may take.
const PAUSED: Duration = Duration::from_secs(10);
/// How long the first frame may take once the stream runs; Mutter sends one even of a static screen.
const FIRST_FRAME: Duration = Duration::from_secs(10);
/// How often limits are looked at when nothing happens.
const TICK: Duration = Duration::from_millis(250);

fn failed(what: &str, error: &pipewire::Error) -> CaptureError {
    CaptureError::PipeWire(format!("{what}: {error}"))
}

/// Captures `node` until it fails, or until it is told to stop (`Ok`).
pub fn run(
    options: &CaptureOptions,
    outlet: &Outlet,
    node: u32,
    cast: Option<&Cast>,
) -> Result<(), CaptureError> {
    let path = options.runtime_dir.join(&options.pipewire_remote);
    let socket =
        UnixStream::connect(&path).map_err(|source| CaptureError::Connect { path: path.clone(), source })?;
    pipewire::init();
    let main = MainLoopRc::new(None).map_err(|error| failed("cannot make a loop", &error))?;
    let context = pipewire_buffers::context(&main).map_err(|error| CaptureError::PipeWire(error.to_string()))?;
    let core = context
        .connect_fd_rc(socket.into(), None)
        .map_err(|error| failed(&format!("{} is no PipeWire socket", path.display()), &error))?;

    // The bell wakes the loop; what it rang for is looked at below.
    let bell = Arc::clone(outlet.bell());
    let _bell = bell.raw().map(|fd| {
        let bell = Arc::clone(&bell);
        main.loop_().add_io(fd, IoFlags::IN, move |_| bell.hush())
    });

    let no_dmabuf = options.no_dmabuf();
    let stream =
        Stream::new(&core, node, no_dmabuf.is_none(), options.memory != Memory::DmaBuf, options.max_fps)?;
    let (returns, returned) = Returns::new(outlet.bell());
    let source = if cast.is_some() { "pipewire (mutter)" } else { "pipewire" };
    let mut pictures = Pictures::new(source, options, no_dmabuf, returns);
    let before = outlet.delivered();
    let mut since = (Stage::Connecting, Instant::now());
    loop {
        if outlet.stopped() {
            return Ok(());
        }
        if let Some(why) = cast.and_then(Cast::closed) {
            return Err(CaptureError::Gone { who: "screen cast", why: why.to_owned() });
        }
        main.loop_().iterate(Timeout::Finite(TICK));
        for id in returned.try_iter() {
            stream.lent().give_back(id);
        }
        if let Some(error) = stream.take_error() {
            return Err(error);
        }
        pictures.forget(&stream.lent().take_removed());
        pictures.remember(stream.lent().take_added());
        if let Some(refused) = pictures.publish_newest(&stream, outlet)? {
            stream.without(refused)?;
        }
        let stage = stream.stage();
        if stage != since.0 {
            since = (stage, Instant::now());
        }
        overdue(stage, outlet.delivered() > before, since.1.elapsed())?;
    }
}

/// Whether a stage has lasted too long. Only the first frame is due: later, a static screen sends none.
fn overdue(stage: Stage, delivered: bool, elapsed: Duration) -> Result<(), CaptureError> {
    let (limit, what, remedy) = match (stage, delivered) {
        (Stage::Connecting, _) => (
            CONNECTING,
            "grant access",
            "run wireplumber beside pipewire (it grants access), and the sidecar with the desktop's uid",
        ),
        (Stage::Paused, _) => (
            PAUSED,
            "link us to the node",
            "is wireplumber up, does the node still exist, and have both sides a format in common?",
        ),
        (Stage::Streaming, false) => {
            (FIRST_FRAME, "deliver a first frame", "the producer hangs: look at its log, restart the desktop")
        }
        (Stage::Streaming, true) => return Ok(()),
    };
    if elapsed < limit {
        return Ok(());
    }
    Err(CaptureError::Timeout { who: WHO, what, after: limit, remedy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_has_its_own_limit_and_remedy() {
        let text = |stage, elapsed| overdue(stage, true, elapsed).err().map(|error| error.to_string());
        assert_eq!(text(Stage::Connecting, CONNECTING / 2), None);
        assert!(text(Stage::Connecting, CONNECTING).is_some_and(|text| text.contains("wireplumber")));
        assert!(text(Stage::Paused, PAUSED).is_some_and(|text| text.contains("link us")));
        assert_eq!(text(Stage::Streaming, Duration::from_hours(1)), None, "a static screen is no fault");
        assert!(overdue(Stage::Streaming, false, FIRST_FRAME).is_err(), "but a first frame is due");
    }
}
