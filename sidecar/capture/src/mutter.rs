//! Mutter's screen cast: asks GNOME Shell over D-Bus for a PipeWire node that shows one of its monitors.
//!
//! ```text
//! CreateSession ─▶ RecordMonitor(connector) ─▶ Start ─▶ signal PipeWireStreamAdded(node)
//! ```
//!
//! Mutter ends the cast when its caller leaves the bus, so the connection lives as long as the [`Cast`], on a
//! thread of its own; when the shell ends the cast (`Closed`), or the bus goes away, the bell rings. The
//! interfaces are Mutter's own (`org.gnome.Mutter.ScreenCast`, `….DisplayConfig`), not the portal's: they ask
//! no user. It does not know PipeWire.

use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::oneshot;
use zbus::message::Type;
use zbus::{Connection, MatchRule, MessageStream, OwnedObjectPath, OwnedVariant, Variant};

use super::CaptureOptions;
use super::bell::Bell;
use super::error::CaptureError;
use super::outlet::Outlet;

const SERVICE: &str = "org.gnome.Mutter.ScreenCast";
const SESSION: &str = "org.gnome.Mutter.ScreenCast.Session";
const STREAM: &str = "org.gnome.Mutter.ScreenCast.Stream";
const DISPLAY: &str = "org.gnome.Mutter.DisplayConfig";
/// How long the bus may take.
const BUS_ANSWER: Duration = Duration::from_secs(10);
/// How long the shell may take for one answer: it has its names long before it listens, as it loads its own code
/// on the thread that answers. Asking again sooner would only make the queue longer.
const ANSWER: Duration = Duration::from_secs(90);
/// How often a start looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);
/// The monitor of `gnome-shell --headless --virtual-monitor`, if nobody tells of one.
const HEADLESS_MONITOR: &str = "Meta-0";

/// A running screen cast; dropping it ends it.
#[derive(Debug)]
pub struct Cast {
    node: u32,
    closed: Arc<OnceLock<String>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Cast {
    /// Starts one.
    pub fn start(options: &CaptureOptions, outlet: &Outlet) -> Result<Self, CaptureError> {
        let wish = Wish {
            address: address(options),
            connector: options.output.clone(),
            cursor_mode: if options.cursor { CursorMode::Embedded } else { CursorMode::Hidden },
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(CaptureError::Thread)?;
        let (stop, stopped) = oneshot::channel();
        let (started, start) = mpsc::channel();
        let closed = Arc::new(OnceLock::new());
        let (bell, reason) = (Arc::clone(outlet.bell()), Arc::clone(&closed));
        let thread = thread::Builder::new()
            .name("mutter".to_owned())
            .spawn(move || runtime.block_on(hold(wish, started, stopped, &bell, &reason)))
            .map_err(CaptureError::Thread)?;
        let mut cast = Self { node: 0, closed, stop: Some(stop), thread: Some(thread) };
        loop {
            match start.recv_timeout(LOOK) {
                Ok(node) => {
                    cast.node = node?;
                    return Ok(cast);
                }
                // Each of the thread's steps has a time limit.
                Err(RecvTimeoutError::Timeout) if !outlet.stopped() => {}
                Err(_) => return Err(mutter("CreateSession", "it was given up")),
            }
        }
    }

    /// The PipeWire node that shows the monitor.
    pub fn node(&self) -> u32 {
        self.node
    }

    /// Why the cast ended, if it did.
    pub fn closed(&self) -> Option<&str> {
        self.closed.get().map(String::as_str)
    }
}

impl Drop for Cast {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // Its steps have time limits, and a panic there was reported already.
            let _ = thread.join();
        }
    }
}

/// Mutter's `cursor-mode`.
#[derive(Debug, Clone, Copy)]
enum CursorMode {
    Hidden = 0,
    Embedded = 1,
}

#[derive(Debug)]
struct Wish {
    address: String,
    connector: Option<String>,
    cursor_mode: CursorMode,
}

/// The session bus: the one named, else the one in the runtime folder, else the environment's.
fn address(options: &CaptureOptions) -> String {
    if let Some(address) = &options.dbus_address {
        return address.clone();
    }
    let bus = options.runtime_dir.join("bus");
    let environment = std::env::var("DBUS_SESSION_BUS_ADDRESS").ok();
    bus_address(&bus, bus.exists(), environment)
}

fn bus_address(bus: &Path, exists: bool, environment: Option<String>) -> String {
    match environment {
        Some(address) if !exists => address,
        _ => format!("unix:path={}", bus.display()),
    }
}

fn mutter(call: &'static str, why: impl std::fmt::Display) -> CaptureError {
    CaptureError::Mutter { call, why: why.to_string() }
}

/// Starts the cast, tells so, and keeps it until it ends or is to end.
async fn hold(
    wish: Wish,
    started: Sender<Result<u32, CaptureError>>,
    mut stopped: oneshot::Receiver<()>,
    bell: &Bell,
    reason: &OnceLock<String>,
) {
    let session = tokio::select! {
        session = Session::start(&wish) => session,
        _ = &mut stopped => return,
    };
    let session = match session {
        Ok((session, node)) => {
            let _ = started.send(Ok(node));
            session
        }
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let why = session.until_end(stopped).await;
    let _ = reason.set(why);
    bell.ring();
}

/// Our end of a cast.
struct Session {
    connection: Connection,
    path: OwnedObjectPath,
    signals: MessageStream,
}

impl Session {
    async fn start(wish: &Wish) -> Result<(Self, u32), CaptureError> {
        let nobody = |why: String| CaptureError::NoMutter { address: wish.address.clone(), why };
        let connecting =
            zbus::connection::Builder::address(wish.address.as_str()).method_timeout(ANSWER).build();
        let connection = tokio::time::timeout(BUS_ANSWER, connecting)
            .await
            .map_err(|_| nobody("the bus does not answer".to_owned()))?
            .map_err(|error| nobody(error.to_string()))?;
        let owned: bool = call(&connection, BUS, "NameHasOwner", &(SERVICE,))
            .await
            .and_then(|reply| reply.body().deserialize())
            .map_err(|error| nobody(error.to_string()))?;
        if !owned {
            return Err(nobody("nobody owns the name".to_owned()));
        }
        let connector = match &wish.connector {
            Some(connector) => connector.clone(),
            None => first_monitor(&connection).await,
        };
        let nothing: HashMap<&str, Variant<'_>> = HashMap::new();
        let root = Peer { service: SERVICE, path: "/org/gnome/Mutter/ScreenCast", interface: SERVICE };
        let path: OwnedObjectPath = call(&connection, root, "CreateSession", &(nothing,))
            .await
            .and_then(|reply| reply.body().deserialize())
            .map_err(|error| mutter("CreateSession", error))?;
        // Before Start, so that the signal can't be missed.
        let rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(SERVICE)
            .build()
            .map_err(|error| mutter("AddMatch", error))?;
        let signals = MessageStream::for_match_rule(rule, &connection, None)
            .await
            .map_err(|error| mutter("AddMatch", error))?;
        let session = Peer { service: SERVICE, path: path.as_str(), interface: SESSION };
        let properties: HashMap<&str, Variant<'_>> =
            HashMap::from([("cursor-mode", Variant::from(wish.cursor_mode as u32))]);
        let stream: OwnedObjectPath =
            call(&connection, session, "RecordMonitor", &(connector.as_str(), properties))
                .await
                .and_then(|reply| reply.body().deserialize())
                .map_err(|error| mutter("RecordMonitor", format!("{error} (monitor {connector})")))?;
        call(&connection, session, "Start", &()).await.map_err(|error| mutter("Start", error))?;
        let mut session = Self { connection, path, signals };
        let node = tokio::time::timeout(ANSWER, session.node(&stream)).await.map_err(|_| {
            mutter("Start", format!("no PipeWireStreamAdded within {ANSWER:?}; is pipewire up?"))
        })??;
        tracing::debug!(node, connector, "mutter casts");
        Ok((session, node))
    }

    /// Waits for the node of `stream`.
    async fn node(&mut self, stream: &OwnedObjectPath) -> Result<u32, CaptureError> {
        while let Some(message) = self.signals.next().await {
            let message = message.map_err(|error| mutter("Start", error))?;
            let header = message.header();
            if header.path().is_some_and(|path| path.as_str() == stream.as_str())
                && header.interface().is_some_and(|interface| interface.as_str() == STREAM)
                && header.member().is_some_and(|member| member.as_str() == "PipeWireStreamAdded")
            {
                return message.body().deserialize().map_err(|error| mutter("PipeWireStreamAdded", error));
            }
        }
        Err(mutter("Start", "the bus went away"))
    }

    /// Keeps the cast until it ends; why it did.
    async fn until_end(mut self, mut stopped: oneshot::Receiver<()>) -> String {
        loop {
            let message = tokio::select! {
                _ = &mut stopped => {
                    let session = Peer { service: SERVICE, path: self.path.as_str(), interface: SESSION };
                    // It would end with the connection anyway; this is only more polite.
                    let _ = call(&self.connection, session, "Stop", &()).await;
                    return "stopped".to_owned();
                }
                message = self.signals.next() => message,
            };
            match message {
                None => return "the session bus went away".to_owned(),
                Some(Err(error)) => return format!("the session bus: {error}"),
                Some(Ok(message)) => {
                    let header = message.header();
                    if header.path().is_some_and(|path| path.as_str() == self.path.as_str())
                        && header.member().is_some_and(|member| member.as_str() == "Closed")
                    {
                        return "Mutter closed the screen cast".to_owned();
                    }
                }
            }
        }
    }
}

/// Whom to call.
#[derive(Clone, Copy)]
struct Peer<'a> {
    service: &'a str,
    path: &'a str,
    interface: &'a str,
}

const BUS: Peer<'static> = Peer {
    service: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};

async fn call<B>(
    connection: &Connection,
    peer: Peer<'_>,
    method: &str,
    body: &B,
) -> zbus::Result<zbus::Message>
where
    B: serde::Serialize + zbus::DynamicType,
{
    connection.call_method(Some(peer.service), peer.path, Some(peer.interface), method, body).await
}

type MonitorId = (String, String, String, String);
type Mode = (String, i32, i32, f64, f64, Vec<f64>, HashMap<String, OwnedVariant>);
type Monitor = (MonitorId, Vec<Mode>, HashMap<String, OwnedVariant>);
type Logical = (i32, i32, f64, u32, bool, Vec<MonitorId>, HashMap<String, OwnedVariant>);
type DisplayState = (u32, Vec<Monitor>, Vec<Logical>, HashMap<String, OwnedVariant>);

/// The connector to record: the primary monitor's, else the first's, else what a headless shell calls its own.
async fn first_monitor(connection: &Connection) -> String {
    let peer = Peer { service: DISPLAY, path: "/org/gnome/Mutter/DisplayConfig", interface: DISPLAY };
    let reply = call(connection, peer, "GetCurrentState", &()).await;
    match reply.and_then(|reply| reply.body().deserialize::<DisplayState>()) {
        Ok((_, monitors, logical, _)) => choose(&monitors, &logical),
        Err(error) => {
            tracing::debug!(%error, "DisplayConfig tells no monitors; trying {HEADLESS_MONITOR}");
            None
        }
    }
    .unwrap_or_else(|| HEADLESS_MONITOR.to_owned())
}

fn choose(monitors: &[Monitor], logical: &[Logical]) -> Option<String> {
    let primary = logical.iter().find(|monitor| monitor.4).or_else(|| logical.first());
    let id =
        primary.and_then(|monitor| monitor.5.first()).or_else(|| monitors.first().map(|monitor| &monitor.0));
    id.map(|id| id.0.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(connector: &str) -> MonitorId {
        (connector.to_owned(), "vendor".to_owned(), "product".to_owned(), "serial".to_owned())
    }

    #[test]
    fn the_primary_monitor_is_recorded() {
        let monitor = |name| (id(name), Vec::new(), HashMap::new());
        let logical = |name, primary| (0, 0, 1.0, 0, primary, vec![id(name)], HashMap::new());
        let monitors = [monitor("Meta-0"), monitor("Meta-1")];
        let two = [logical("Meta-0", false), logical("Meta-1", true)];
        assert_eq!(choose(&monitors, &two).as_deref(), Some("Meta-1"));
        assert_eq!(choose(&monitors, &two[..1]).as_deref(), Some("Meta-0"));
        assert_eq!(choose(&monitors, &[]).as_deref(), Some("Meta-0"));
        assert_eq!(choose(&[], &[]), None);
    }

    #[test]
    fn the_desktops_bus_goes_before_the_environments() {
        let bus = Path::new("/run/desktop/bus");
        let environment = Some("unix:path=/elsewhere".to_owned());
        assert_eq!(bus_address(bus, true, environment.clone()), "unix:path=/run/desktop/bus");
        assert_eq!(bus_address(bus, false, environment), "unix:path=/elsewhere");
        assert_eq!(bus_address(bus, false, None), "unix:path=/run/desktop/bus");
    }
}
