//! Input by `org.gnome.Mutter.RemoteDesktop`, which GNOME Shell has.
//!
//! ```text
//! RemoteDesktop.CreateSession ─▶ ScreenCast.CreateSession(remote-desktop-session-id) ─▶ RecordMonitor ─▶ Start
//! ```
//!
//! The screen cast exists for positions: Mutter wants them relative to a stream. No consumer connects to it, so that no
//! frames are copied for it. Positions are logical pixels of the monitor. Mutter ends both sessions with the connection. The
//! clipboard uses the same session.

mod layouts;

use std::collections::HashMap;

use contract::input::{DETENT, Fraction, Text};
use desktop_session::bus::{self, Target, call};
use futures_util::StreamExt as _;
use zbus::message::Flags;
use zbus::{Connection, Message, MessageStream, OwnedObjectPath, OwnedVariant, Variant};

use self::layouts::{LayoutError, Layouts};
use crate::InputOptions;
use crate::action::Action;
use crate::backend::BackendError;

pub const REMOTE_DESKTOP: &str = "org.gnome.Mutter.RemoteDesktop";
pub const REMOTE_DESKTOP_SESSION: &str = "org.gnome.Mutter.RemoteDesktop.Session";
const SCREEN_CAST: &str = "org.gnome.Mutter.ScreenCast";
const SCREEN_CAST_SESSION: &str = "org.gnome.Mutter.ScreenCast.Session";
const SCREEN_CAST_STREAM: &str = "org.gnome.Mutter.ScreenCast.Stream";
pub const PEER: &str = "GNOME Shell";
/// `KEY_LEFTSHIFT` of `<linux/input-event-codes.h>`.
const KEY_LEFT_SHIFT: u32 = 42;
/// Flags of `NotifyPointerAxis`: the source is a finger.
const AXIS_SOURCE_FINGER: u32 = 1 << 2;
/// Distance of a scrolled detent in `NotifyPointerAxis`, and source wheel.
const DETENT_AXIS: f64 = 10.0;
const AXIS_SOURCE_WHEEL: u32 = 1 << 1;

/// A remote desktop session with its screen cast.
pub struct Mutter {
    connection: Connection,
    /// Path of the remote desktop session.
    path: OwnedObjectPath,
    /// Path of the screen cast's session.
    cast: OwnedObjectPath,
    /// Path of the screen cast's stream.
    stream: OwnedObjectPath,
    signals: MessageStream,
    /// Size of the monitor, logical pixels; `None` if the monitors changed, which ends the stream.
    size: Option<(f64, f64)>,
    /// Keyboard layouts; `None` if the keymap cannot be watched.
    layouts: Option<Layouts>,
}

pub fn failed(call: &'static str) -> impl Fn(zbus::Error) -> BackendError {
    move |error| BackendError::Call { call, reason: error.to_string() }
}

#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
pub fn disconnected<E: ToString>(reason: E) -> BackendError {
    BackendError::Disconnected { peer: PEER, reason: reason.to_string() }
}

/// Object that creates sessions.
const ROOT: Target<'static> =
    Target { service: REMOTE_DESKTOP, path: "/org/gnome/Mutter/RemoteDesktop", interface: REMOTE_DESKTOP };

impl Mutter {
    /// Looks for GNOME Shell, and creates no session.
    pub async fn probe(options: &InputOptions) -> Result<(), BackendError> {
        let address = bus::address(&options.runtime_dir);
        let connection = bus::connect(&address, REMOTE_DESKTOP).await.map_err(disconnected)?;
        let types = bus::property(&connection, ROOT, "SupportedDeviceTypes");
        types.await.map(drop).map_err(failed("SupportedDeviceTypes"))
    }

    /// Creates the sessions.
    pub async fn connect(options: &InputOptions) -> Result<Self, BackendError> {
        let address = bus::address(&options.runtime_dir);
        let connection = bus::connect(&address, REMOTE_DESKTOP).await.map_err(disconnected)?;
        let path: OwnedObjectPath = call(&connection, ROOT, "CreateSession", &())
            .await
            .and_then(|reply| reply.body().deserialize())
            .map_err(failed("RemoteDesktop.CreateSession"))?;
        let session =
            Target { service: REMOTE_DESKTOP, path: path.as_str(), interface: REMOTE_DESKTOP_SESSION };
        let id = bus::property(&connection, session, "SessionId").await.map_err(failed("SessionId"))?;
        let id = String::try_from(id).map_err(failed("SessionId"))?;
        // Subscribed before Start: `Closed` may follow at once.
        let signals = bus::signals(&connection, REMOTE_DESKTOP).await.map_err(failed("AddMatch"))?;
        let casts =
            Target { service: SCREEN_CAST, path: "/org/gnome/Mutter/ScreenCast", interface: SCREEN_CAST };
        let linked = HashMap::from([("remote-desktop-session-id", Variant::from(id))]);
        let cast: OwnedObjectPath = call(&connection, casts, "CreateSession", &(linked,))
            .await
            .and_then(|reply| reply.body().deserialize())
            .map_err(failed("ScreenCast.CreateSession"))?;
        let stream = record(&connection, &cast).await?;
        call(&connection, session, "Start", &()).await.map_err(failed("RemoteDesktop.Session.Start"))?;
        let layouts = Layouts::connect(options, &connection);
        let mut mutter = Self { connection, path, cast, stream, signals, size: None, layouts };
        mutter.read_size().await?;
        // The seat has a keyboard and a pointer only after their first events, which are lost for the programs.
        for down in [true, false] {
            mutter.notify("NotifyKeyboardKeycode", &(KEY_LEFT_SHIFT, down)).await?;
        }
        mutter.notify("NotifyPointerMotionRelative", &(0.0, 0.0)).await?;
        Ok(mutter)
    }

    /// The remote desktop session: the connection that owns it, and its path.
    pub const fn session(&self) -> (&Connection, &OwnedObjectPath) {
        (&self.connection, &self.path)
    }

    /// Sends actions.
    pub async fn apply(&mut self, actions: Vec<Action>) -> Result<(), BackendError> {
        for action in actions {
            self.send(action).await?;
        }
        Ok(())
    }

    /// Waits until Mutter closes the session, or the bus disconnects. Cancel safe.
    pub async fn until_end(&mut self) -> BackendError {
        loop {
            match self.signals.next().await {
                None => return disconnected("the session bus disconnected"),
                Some(Err(error)) => return disconnected(error),
                Some(Ok(message)) => {
                    if bus::is_signal(&message, self.path.as_str(), "Closed") {
                        return disconnected("Mutter closed the remote desktop session");
                    }
                    if bus::is_monitor_change(&message) {
                        // Mutter closes the stream of a monitor whose size changed.
                        self.size = None;
                    }
                }
            }
        }
    }

    async fn send(&mut self, action: Action) -> Result<(), BackendError> {
        match action {
            Action::Key { code, down } => {
                self.notify("NotifyKeyboardKeycode", &(u32::from(code.evdev()), down)).await
            }
            Action::Text(text) => self.enter(&text).await,
            Action::Pointer { x, y } => {
                let (x, y) = self.position(x, y).await?;
                self.notify("NotifyPointerMotionAbsolute", &(self.stream.as_str(), x, y)).await
            }
            Action::Motion { dx, dy } => self.notify("NotifyPointerMotionRelative", &(dx, dy)).await,
            Action::Button { button, down } => {
                self.notify("NotifyPointerButton", &(i32::from(button.evdev()), down)).await
            }
            Action::Scroll { dx, dy } => {
                self.notify("NotifyPointerAxis", &(dx, dy, AXIS_SOURCE_FINGER)).await
            }
            Action::Wheel { dx, dy } => {
                let [dx, dy] = [dx, dy].map(|distance| distance * DETENT_AXIS / DETENT);
                self.notify("NotifyPointerAxis", &(dx, dy, AXIS_SOURCE_WHEEL)).await
            }
            Action::TouchDown { slot, x, y } => {
                let (x, y) = self.position(x, y).await?;
                self.notify("NotifyTouchDown", &(self.stream.as_str(), u32::from(slot), x, y)).await
            }
            Action::TouchMove { slot, x, y } => {
                let (x, y) = self.position(x, y).await?;
                self.notify("NotifyTouchMotion", &(self.stream.as_str(), u32::from(slot), x, y)).await
            }
            Action::TouchUp { slot } => self.notify("NotifyTouchUp", &(u32::from(slot),)).await,
            Action::Layout(layout) => {
                if let Some(layouts) = &mut self.layouts {
                    log(&layouts.select(layout).await);
                }
                Ok(())
            }
        }
    }

    /// Enters text: by keys of its characters, else by keysyms, of which GNOME Shell drops those that the current layout
    /// lacks.
    async fn enter(&mut self, text: &Text) -> Result<(), BackendError> {
        let Some(parts) = self.layouts.as_ref().and_then(|layouts| layouts.text_parts(text)) else {
            for character in text.as_str().chars() {
                for down in [true, false] {
                    self.notify("NotifyKeyboardKeysym", &(keysym(character), down)).await?;
                }
            }
            return Ok(());
        };
        for (characters, sequence) in parts {
            let Some(layouts) = &mut self.layouts else { break };
            if !log(&layouts.prepare(&characters).await) {
                break;
            }
            let codes: Vec<u32> =
                characters.iter().filter_map(|character| layouts.code(*character)).collect();
            for code in sequence.into_iter().filter_map(|index| codes.get(index)) {
                for down in [true, false] {
                    self.notify("NotifyKeyboardKeycode", &(*code, down)).await?;
                }
            }
        }
        Ok(())
    }

    /// Position in logical pixels of the monitor.
    async fn position(&mut self, x: Fraction, y: Fraction) -> Result<(f64, f64), BackendError> {
        let (width, height) = if let Some(size) = self.size {
            size
        } else {
            self.stream = record(&self.connection, &self.cast).await?;
            self.read_size().await?
        };
        // A position at the far edge would be outside of the monitor.
        let inside = |fraction: Fraction, size: f64| (fraction.get() * size).min(size - 1.0).max(0.0);
        Ok((inside(x, width), inside(y, height)))
    }

    /// Reads the monitor's size from the stream's parameters, logical pixels.
    async fn read_size(&mut self) -> Result<(f64, f64), BackendError> {
        let stream =
            Target { service: SCREEN_CAST, path: self.stream.as_str(), interface: SCREEN_CAST_STREAM };
        let parameters =
            bus::property(&self.connection, stream, "Parameters").await.map_err(failed("Parameters"))?;
        let parameters: HashMap<String, OwnedVariant> =
            parameters.try_into().map_err(failed("Parameters"))?;
        let missing =
            || BackendError::Call { call: "Parameters", reason: "the stream has no size".to_owned() };
        let size = parameters.get("size").ok_or_else(missing)?;
        let (width, height) =
            <(i32, i32)>::try_from(size.try_clone().map_err(|_| missing())?).map_err(|_| missing())?;
        Ok(*self.size.insert((width.into(), height.into())))
    }

    /// Calls a method of the session without waiting for its reply, so that events are not delayed by one another.
    async fn notify<B>(&self, method: &'static str, body: &B) -> Result<(), BackendError>
    where
        B: zbus::export::serde::Serialize + zbus::DynamicType,
    {
        let message = Message::method_call(self.path.as_str(), method)
            .destination(REMOTE_DESKTOP)
            .interface(REMOTE_DESKTOP_SESSION)
            .with_flags(Flags::NO_REPLY_EXPECTED)
            .build(body)
            .map_err(failed(method))?;
        self.connection.send(&message).await.map_err(disconnected)
    }
}

/// Logs why a layout is not in force; true if it is.
fn log(result: &Result<(), LayoutError>) -> bool {
    if let Err(error) = result {
        tracing::warn!(%error, "keyboard layout not set");
    }
    result.is_ok()
}

/// Makes a stream of the primary monitor.
async fn record(connection: &Connection, cast: &OwnedObjectPath) -> Result<OwnedObjectPath, BackendError> {
    let cast = Target { service: SCREEN_CAST, path: cast.as_str(), interface: SCREEN_CAST_SESSION };
    let hidden = HashMap::from([("cursor-mode", Variant::from(0_u32))]);
    // Without a connector, Mutter records the primary monitor.
    call(connection, cast, "RecordMonitor", &("", hidden))
        .await
        .and_then(|reply| reply.body().deserialize())
        .map_err(failed("RecordMonitor"))
}

/// Keysym of a character (X11 keysym encoding, appendix A of the X protocol): Latin-1 directly, others by code point.
fn keysym(character: char) -> u32 {
    match character {
        '\n' => 0xff0d,
        '\t' => 0xff09,
        '\u{20}'..='\u{7e}' | '\u{a0}'..='\u{ff}' => character.into(),
        other => 0x0100_0000 | u32::from(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keysym_of_latin_1_is_its_code_and_of_others_their_code_point() {
        assert_eq!(keysym('a'), 0x61);
        assert_eq!(keysym('ü'), 0xfc);
        assert_eq!(keysym('€'), 0x0100_20ac);
        assert_eq!(keysym('\n'), 0xff0d);
    }
}
