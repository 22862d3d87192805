//! Input by `zwp_virtual_keyboard_v1` and `zwlr_virtual_pointer_v1`, which wlroots compositors have.
//!
//! One keyboard and one pointer exist as long as the connection: a new keyboard loses its first key, and programs have no
//! focus without one. wlroots has no virtual touch screen; the first touch point moves the pointer and holds its left button.

mod globals;

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use contract::input::{DETENT, Fraction, KeyboardLayout, PointerButton, Text};
use tokio::io::Interest;
use wayland_client::backend::WaylandError;
use wayland_client::protocol::wl_pointer::{Axis, AxisSource, ButtonState};
use wayland_client::{Connection, EventQueue};
use wayland_protocols_misc::zwp_virtual_keyboard_v1::client::zwp_virtual_keyboard_v1::ZwpVirtualKeyboardV1;
use wayland_protocols_wlr::virtual_pointer::v1::client::zwlr_virtual_pointer_v1::ZwlrVirtualPointerV1;

use self::globals::Globals;
use crate::action::Action;
use crate::backend::BackendError;
use crate::modifiers::Modifiers;
use crate::{InputOptions, keymap};

pub const PEER: &str = "compositor";
/// Time limit for the globals.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// Extent of absolute positions; finer than the pixels of any output.
const EXTENT: u32 = 1 << 16;
/// Distance of one detent in `wl_pointer.axis`, as libinput defines it.
const DETENT_AXIS: f64 = 15.0;

/// A connection with its devices.
pub struct Wayland {
    queue: EventQueue<Globals>,
    connection: Connection,
    globals: Globals,
    /// The connection's socket, for its readiness.
    socket: tokio::net::UnixStream,
    keyboard: ZwpVirtualKeyboardV1,
    pointer: ZwlrVirtualPointerV1,
    modifiers: Modifiers,
    /// Part of a detent that was not sent, horizontal and vertical, in 120ths.
    detents: [f64; 2],
    start: Instant,
    /// Socket of the compositor.
    path: PathBuf,
}

#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
pub fn disconnected<E: ToString>(reason: E) -> BackendError {
    BackendError::Disconnected { peer: PEER, reason: reason.to_string() }
}

/// The result of `connect` for the first socket for which it succeeds, or the error of the first one.
async fn first<T>(
    options: &InputOptions,
    connect: impl AsyncFn(PathBuf) -> Result<T, BackendError>,
) -> Result<T, BackendError> {
    let mut first_error = None;
    for path in desktop_session::wayland_sockets(&options.runtime_dir, options.wayland_display.as_deref()) {
        match connect(path).await {
            Ok(result) => return Ok(result),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or_else(|| BackendError::NoSocket(options.runtime_dir.clone())))
}

/// A connection whose globals are known.
struct Listed {
    queue: EventQueue<Globals>,
    connection: Connection,
    globals: Globals,
    /// The connection's socket, for its readiness.
    socket: tokio::net::UnixStream,
}

impl Listed {
    /// Connects to a socket and lists the globals.
    async fn connect(path: &Path) -> Result<Self, BackendError> {
        let (connection, socket) = open(path)?;
        let mut queue = connection.new_event_queue();
        let handle = queue.handle();
        connection.display().get_registry(&handle, ());
        connection.display().sync(&handle, ());
        let mut globals = Globals::default();
        let listed = async {
            while !globals.is_listed {
                dispatch(&mut queue, &mut globals, &socket).await?;
            }
            Ok(())
        };
        tokio::time::timeout(REPLY_TIMEOUT, listed).await.map_err(|_| BackendError::Timeout(PEER))??;
        Ok(Self { queue, connection, globals, socket })
    }
}

impl Wayland {
    /// Connects to the first compositor that has the protocols.
    pub async fn connect(options: &InputOptions) -> Result<Self, BackendError> {
        first(options, Self::connect_to).await
    }

    /// Looks for a compositor that has the protocols, and creates no devices.
    pub async fn probe(options: &InputOptions) -> Result<(), BackendError> {
        first(options, async |path| Listed::connect(&path).await?.globals.required().map(drop)).await
    }

    /// Connects to a socket and creates the devices.
    async fn connect_to(path: PathBuf) -> Result<Self, BackendError> {
        let Listed { queue, connection, globals, socket } = Listed::connect(&path).await?;
        let (keyboard, pointer) = globals.create_devices(&queue.handle())?;
        let mut wayland = Self {
            queue,
            connection,
            globals,
            socket,
            keyboard,
            pointer,
            modifiers: Modifiers::new(KeyboardLayout::US),
            detents: [0.0; 2],
            start: Instant::now(),
            path,
        };
        wayland.set_layout(KeyboardLayout::US)?;
        wayland.flush()?;
        Ok(wayland)
    }

    /// Socket of the compositor.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sends actions.
    pub fn apply(&mut self, actions: Vec<Action>) -> Result<(), BackendError> {
        for action in actions {
            self.send(action)?;
        }
        self.flush()
    }

    /// Processes events until the connection ends. Cancel safe.
    pub async fn until_end(&mut self) -> BackendError {
        loop {
            if let Err(error) = dispatch(&mut self.queue, &mut self.globals, &self.socket).await {
                return error;
            }
        }
    }

    fn flush(&self) -> Result<(), BackendError> {
        flush(self.connection.flush())
    }

    /// Time of an event, ms since the connection; wraps around.
    fn time(&self) -> u32 {
        let elapsed = self.start.elapsed().as_millis() & u128::from(u32::MAX);
        u32::try_from(elapsed).unwrap_or(0)
    }

    fn send(&mut self, action: Action) -> Result<(), BackendError> {
        let time = self.time();
        match action {
            Action::Key { code, down } => {
                self.keyboard.key(time, code.evdev().into(), down.into());
                if self.modifiers.key(code, down) {
                    self.send_modifiers();
                }
            }
            Action::Text(text) => self.enter(&text)?,
            Action::Layout(layout) => self.set_layout(layout)?,
            Action::Pointer { x, y } | Action::TouchMove { slot: 0, x, y } => self.point(x, y),
            Action::Motion { dx, dy } => {
                self.pointer.motion(time, dx, dy);
                self.pointer.frame();
            }
            Action::Button { button, down } => self.button(button, down),
            Action::Scroll { dx, dy } => self.scroll(dx, dy),
            Action::Wheel { dx, dy } => self.wheel([dx, dy]),
            Action::TouchDown { slot: 0, x, y } => {
                self.point(x, y);
                self.touch_button(true);
            }
            Action::TouchUp { slot: 0 } => self.touch_button(false),
            Action::TouchDown { .. } | Action::TouchMove { .. } | Action::TouchUp { .. } => {}
        }
        Ok(())
    }

    fn send_modifiers(&self) {
        self.keyboard.modifiers(self.modifiers.depressed(), 0, self.modifiers.locked(), 0);
    }

    fn set_keymap(&self, text: &str) -> Result<(), BackendError> {
        let (file, size) = keymap::file(text).map_err(BackendError::Keymap)?;
        self.keyboard.keymap(keymap::FORMAT_XKB_V1, file.as_fd(), size);
        Ok(())
    }

    fn set_layout(&mut self, layout: KeyboardLayout) -> Result<(), BackendError> {
        self.set_keymap(&keymap::of_layout(layout))?;
        self.modifiers.set_layout(layout);
        self.send_modifiers();
        Ok(())
    }

    /// Enters text by keymaps that have its characters, then restores the layout's. Modifiers do not apply.
    fn enter(&mut self, text: &Text) -> Result<(), BackendError> {
        for (characters, sequence) in keymap::parts(text.as_str()) {
            self.set_keymap(&keymap::of_characters(&characters))?;
            self.keyboard.modifiers(0, 0, 0, 0);
            for index in sequence {
                let (time, code) = (self.time(), keymap::character_code(index));
                self.keyboard.key(time, code, 1);
                self.keyboard.key(time, code, 0);
            }
        }
        self.set_layout(self.modifiers.layout())
    }

    fn point(&self, x: Fraction, y: Fraction) {
        self.pointer.motion_absolute(self.time(), x.of(EXTENT), y.of(EXTENT), EXTENT, EXTENT);
        self.pointer.frame();
    }

    fn button(&self, button: PointerButton, down: bool) {
        let state = if down { ButtonState::Pressed } else { ButtonState::Released };
        self.pointer.button(self.time(), button.evdev().into(), state);
        self.pointer.frame();
    }

    fn touch_button(&self, down: bool) {
        if let Some(left) = PointerButton::new(0) {
            self.button(left, down);
        }
    }

    fn scroll(&self, dx: f64, dy: f64) {
        for (axis, distance) in [(Axis::HorizontalScroll, dx), (Axis::VerticalScroll, dy)] {
            if distance != 0.0 {
                self.pointer.axis_source(AxisSource::Finger);
                self.pointer.axis(self.time(), axis, distance);
                self.pointer.frame();
            }
        }
    }

    fn wheel(&mut self, distances: [f64; 2]) {
        let time = self.time();
        let axes = [Axis::HorizontalScroll, Axis::VerticalScroll];
        for ((axis, distance), rest) in axes.into_iter().zip(distances).zip(&mut self.detents) {
            *rest += distance;
            let detents = (*rest / DETENT).trunc();
            if detents == 0.0 {
                continue;
            }
            *rest -= detents * DETENT;
            self.pointer.axis_source(AxisSource::Wheel);
            #[expect(clippy::cast_possible_truncation, reason = "at most MAX_DELTA")]
            self.pointer.axis_discrete(time, axis, detents * DETENT_AXIS, detents as i32);
            self.pointer.frame();
        }
    }
}

/// Connects to a compositor. The second one is the connection's socket, for its readiness.
pub fn open(path: &Path) -> Result<(Connection, tokio::net::UnixStream), BackendError> {
    let stream = UnixStream::connect(path)
        .map_err(|source| BackendError::Connect { path: path.to_owned(), source })?;
    stream.set_nonblocking(true).map_err(disconnected)?;
    let socket = stream.try_clone().and_then(tokio::net::UnixStream::from_std).map_err(disconnected)?;
    Ok((Connection::from_socket(stream).map_err(disconnected)?, socket))
}

/// Dispatches events, after waiting for some if there are none. Cancel safe.
pub async fn dispatch<S: 'static>(
    queue: &mut EventQueue<S>,
    state: &mut S,
    socket: &tokio::net::UnixStream,
) -> Result<(), BackendError> {
    if queue.dispatch_pending(state).map_err(disconnected)? > 0 {
        return Ok(());
    }
    flush(queue.flush())?;
    socket.readable().await.map_err(disconnected)?;
    if let Some(guard) = queue.prepare_read() {
        let read = socket.try_io(Interest::READABLE, || match guard.read() {
            Ok(_) => Ok(Ok(())),
            Err(WaylandError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            Err(error) => Ok(Err(disconnected(error))),
        });
        // Not ready after all, otherwise.
        if let Ok(read) = read {
            read?;
        }
    }
    queue.dispatch_pending(state).map_err(disconnected)?;
    Ok(())
}

/// Result of a flush. If the compositor does not read, requests stay buffered, and the library ends the connection when
/// its buffer is full.
pub fn flush(result: Result<(), WaylandError>) -> Result<(), BackendError> {
    match result {
        Err(WaylandError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        other => other.map_err(disconnected),
    }
}
