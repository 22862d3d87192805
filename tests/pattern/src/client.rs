//! `pattern client`: the picture as an ordinary window, fullscreen, for desktops that need moving content.
//!
//! It allocates its own buffers (GBM and linux-dmabuf with the implicit modifier, or SHM with
//! `--software`), draws one whenever the compositor's frame callback lets it, and counts what it has
//! drawn. A compositor may skip frames, so a capture of that desktop sees numbers rise, not each of them.
//! Needs no libwayland: buffers are handed over by the protocol, there is no EGL window.

mod window;

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wayland_client::globals::{BindError, GlobalError, registry_queue_init};
use wayland_client::{ConnectError, Connection, DispatchError, backend::WaylandError};

use crate::PictureArgs;
use crate::egl::{Egl, GpuError};
use crate::pace::Pace;
use crate::painter::Painter;
use crate::signals::Signals;
use window::Window;

/// Why there is no window.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no desktop: {0}; set XDG_RUNTIME_DIR and WAYLAND_DISPLAY")]
    Connect(#[from] ConnectError),
    #[error("the desktop lacks something: {0}")]
    Missing(#[from] BindError),
    #[error("no GPU buffers on this desktop: {0}; its compositor has no GPU, use --software")]
    NoDmabuf(BindError),
    #[error(transparent)]
    Globals(#[from] GlobalError),
    #[error("the desktop ended the connection: {0}")]
    Dispatch(#[from] DispatchError),
    #[error("the desktop ended the connection: {0}")]
    Wayland(#[from] WaylandError),
    #[error(transparent)]
    Gpu(#[from] GpuError),
    #[error("no GPU memory for a buffer of {0}x{1}: {2}")]
    Allocate(u32, u32, String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Shows the picture until the window is closed, SIGTERM or SIGINT.
pub fn run(args: PictureArgs) -> Result<(), ClientError> {
    let PictureArgs { size, fps, static_after, node, software, draw, log } = args;
    let signals = Signals::take()?;
    let painter = if software { None } else { Some(Painter::new(Egl::open(Some(&node))?, draw)?) };
    let renderer = painter.as_ref().map_or_else(|| String::from("the CPU"), Painter::renderer);
    let connection = Connection::connect_to_env()?;
    let (globals, mut queue) = registry_queue_init::<Window>(&connection)?;
    let pace = Pace::new(fps, static_after, Instant::now());
    let mut window = Window::open(&globals, queue.handle(), painter, size, pace, log)?;
    eprintln!("pattern: client, drawn by {renderer}");
    loop {
        queue.dispatch_pending(&mut window)?;
        let wake = window.turn(Instant::now())?;
        if window.is_closed() {
            return Ok(());
        }
        match connection.flush() {
            Ok(()) => {}
            Err(WaylandError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        let Some(read) = queue.prepare_read() else { continue };
        let [stop, toggle] = signals.fds();
        let mut fds = [read.connection_fd(), stop.as_fd(), toggle.as_fd()]
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let timeout = wake.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        if fds[0].revents().is_empty() {
            drop(read);
        } else {
            read.read()?;
        }
        if signals.stop() {
            return Ok(());
        }
        if signals.toggle() {
            window.toggle();
        }
    }
}
