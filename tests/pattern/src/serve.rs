//! `pattern serve`: a Wayland compositor with one output and no windows, made to be captured.
//!
//! | module      | what                                                        |
//! |-------------|-------------------------------------------------------------|
//! | `desktop`   | the state: which number is on, who waits for a frame, pace  |
//! | `screencopy`| wlr-screencopy v3 and the output                            |
//! | `buffers`   | wl_shm and linux-dmabuf v3: clients' memory                 |
//!
//! Here is only the loop: one thread, it sleeps in one `poll` until a client, a signal or the pace wants
//! something.

mod buffers;
mod desktop;
mod screencopy;

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wayland_server::{BindError, Display, ListeningSocket};

use crate::egl::{Egl, GpuError};
use crate::pace::Pace;
use crate::painter::Painter;
use crate::signals::Signals;
use crate::{PictureArgs, ServeArgs};
use desktop::Desktop;

/// Why the desktop couldn't start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Gpu(#[from] GpuError),
    #[error("can't listen on {0}: {1}; set XDG_RUNTIME_DIR, or name another with --socket")]
    Socket(String, BindError),
    #[error("can't start libwayland's part: {0}")]
    Wayland(#[from] wayland_server::backend::InitError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Serves until SIGTERM or SIGINT.
pub fn run(args: ServeArgs) -> Result<(), ServeError> {
    let ServeArgs { picture, socket, fault } = args;
    let PictureArgs { size, fps, static_after, node, software, draw, log } = picture;
    let signals = Signals::take()?;
    let painter = Painter::new(Egl::open((!software).then_some(&node))?, draw)?;
    let renderer = painter.renderer();
    let pace = Pace::new(fps, static_after, Instant::now());
    let mut desktop = Desktop::new(painter, size, pace, fault, log)?;
    let mut display = Display::<Desktop>::new()?;
    buffers::advertise(&display.handle(), !software);
    screencopy::advertise(&display.handle());
    let listener =
        ListeningSocket::bind(&socket).map_err(|error| ServeError::Socket(socket.clone(), error))?;
    eprintln!("pattern: {}x{} on {socket}, drawn by {renderer}", size.0, size.1);
    let mut wake = None;
    loop {
        // A client that has gone away is no error of ours: its objects go with it.
        let _ = display.flush_clients();
        wait(&mut display, &listener, &signals, wake)?;
        if signals.stop() {
            return Ok(());
        }
        if signals.toggle() {
            desktop.toggle();
        }
        while let Some(stream) = listener.accept()? {
            display.handle().insert_client(stream, Arc::new(()))?;
        }
        display.dispatch_clients(&mut desktop)?;
        wake = desktop.turn(Instant::now());
    }
}

fn wait(
    display: &mut Display<Desktop>,
    listener: &ListeningSocket,
    signals: &Signals,
    wake: Option<Instant>,
) -> io::Result<()> {
    let [stop, toggle] = signals.fds();
    let backend = display.backend();
    let mut fds = [backend.poll_fd(), listener.as_fd(), stop, toggle]
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    let timeout = wake.map(|at| at.saturating_duration_since(Instant::now()));
    let timeout = timeout.and_then(|left| Timespec::try_from(left).ok());
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
