//! Mutter's screen cast: asks GNOME Shell over D-Bus for a PipeWire node that shows one of its monitors.
//!
//! ```text
//! CreateSession ─▶ RecordMonitor(connector) ─▶ Start ─▶ signal PipeWireStreamAdded(node)
//! ```
//!
//! Mutter ends the cast when its caller disconnects from the bus, so a thread keeps the connection open as long as
//! the [`Cast`] exists. If the shell closes the cast, or the bus disconnects, that thread wakes the source. The
//! interfaces `org.gnome.Mutter.ScreenCast` and `org.gnome.Mutter.DisplayConfig` need no user consent, unlike the
//! desktop portal's.

use std::collections::HashMap;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use desktop_session::bus::{self, REPLY_TIMEOUT, Target, call};
use futures_util::StreamExt as _;
use tokio::sync::oneshot;
use zbus::{Connection, MessageStream, OwnedObjectPath, OwnedVariant, Variant};

use crate::error::CaptureError;
use crate::source_context::SourceContext;
use crate::waker::Waker;
use crate::{CaptureOptions, Cursor};

const SERVICE: &str = "org.gnome.Mutter.ScreenCast";
const SESSION: &str = "org.gnome.Mutter.ScreenCast.Session";
const STREAM: &str = "org.gnome.Mutter.ScreenCast.Stream";
const DISPLAY: &str = "org.gnome.Mutter.DisplayConfig";
/// Interval between checks for the stop flag while a cast starts.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Monitor of `gnome-shell --headless --virtual-monitor`, used if DisplayConfig lists none.
const HEADLESS_MONITOR: &str = "Meta-0";

/// A running screen cast; dropping it ends the cast.
#[derive(Debug)]
pub struct Cast {
    node: u32,
    end_reason: Arc<OnceLock<String>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Cast {
    /// Starts a cast and waits for its PipeWire node.
    pub fn start(options: &CaptureOptions, context: &SourceContext) -> Result<Self, CaptureError> {
        let request = Request {
            address: session_bus(options),
            connector: options.output.clone(),
            cursor: options.cursor,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(CaptureError::System)?;
        let (stop, stopped) = oneshot::channel();
        let (started, start) = mpsc::channel();
        let end_reason = Arc::new(OnceLock::new());
        let (waker, reason) = (Arc::clone(context.waker()), Arc::clone(&end_reason));
        let thread = thread::Builder::new()
            .name("mutter".to_owned())
            .spawn(move || runtime.block_on(run_cast(request, started, stopped, &waker, &reason)))
            .map_err(CaptureError::System)?;
        let mut cast = Self { node: 0, end_reason, stop: Some(stop), thread: Some(thread) };
        loop {
            match start.recv_timeout(STOP_CHECK_INTERVAL) {
                Ok(node) => {
                    cast.node = node?;
                    return Ok(cast);
                }
                // The thread ends in bounded time: each of its steps has a time limit.
                Err(RecvTimeoutError::Timeout) if !context.is_stopped() => {}
                Err(_) => return Err(call_failed("CreateSession", "cancelled")),
            }
        }
    }

    /// PipeWire node that shows the monitor.
    pub fn node(&self) -> u32 {
        self.node
    }

    /// Reason for the cast's end; `None` while it runs.
    pub fn end_reason(&self) -> Option<&str> {
        self.end_reason.get().map(String::as_str)
    }
}

impl Drop for Cast {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // Each step of the thread has a time limit. A panic was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
struct Request {
    address: String,
    connector: Option<String>,
    cursor: Cursor,
}

impl Request {
    /// Mutter's `cursor-mode`: hidden 0, embedded 1.
    fn cursor_mode(&self) -> u32 {
        match self.cursor {
            Cursor::Hidden => 0,
            Cursor::Embedded => 1,
        }
    }
}

/// Address of the session bus: the configured one, else that of the runtime directory.
fn session_bus(options: &CaptureOptions) -> String {
    options.dbus_address.clone().unwrap_or_else(|| bus::address(&options.runtime_dir))
}

fn call_failed(call: &'static str, reason: impl std::fmt::Display) -> CaptureError {
    CaptureError::Mutter { call, reason: reason.to_string() }
}

/// Starts a cast, sends its node, and keeps the cast until it ends or `stopped` fires.
async fn run_cast(
    request: Request,
    started: Sender<Result<u32, CaptureError>>,
    mut stopped: oneshot::Receiver<()>,
    waker: &Waker,
    end_reason: &OnceLock<String>,
) {
    let session = tokio::select! {
        session = Session::start(&request) => session,
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
    let reason = session.until_end(stopped).await;
    let _ = end_reason.set(reason);
    waker.wake();
}

/// A screen cast session on the bus.
struct Session {
    connection: Connection,
    path: OwnedObjectPath,
    signals: MessageStream,
}

impl Session {
    async fn start(request: &Request) -> Result<(Self, u32), CaptureError> {
        let connection = bus::connect(&request.address, SERVICE)
            .await
            .map_err(|reason| CaptureError::NoMutter { address: request.address.clone(), reason })?;
        let connector = match &request.connector {
            Some(connector) => connector.clone(),
            None => primary_monitor(&connection).await,
        };
        let no_properties: HashMap<&str, Variant<'_>> = HashMap::new();
        let root = Target { service: SERVICE, path: "/org/gnome/Mutter/ScreenCast", interface: SERVICE };
        let path: OwnedObjectPath = call(&connection, root, "CreateSession", &(no_properties,))
            .await
            .and_then(|reply| reply.body().deserialize())
            .map_err(|error| call_failed("CreateSession", error))?;
        // Subscribed before Start: the signal PipeWireStreamAdded follows it at once.
        let signals =
            bus::signals(&connection, SERVICE).await.map_err(|error| call_failed("AddMatch", error))?;
        let session = Target { service: SERVICE, path: path.as_str(), interface: SESSION };
        let properties: HashMap<&str, Variant<'_>> =
            HashMap::from([("cursor-mode", Variant::from(request.cursor_mode()))]);
        let stream: OwnedObjectPath =
            call(&connection, session, "RecordMonitor", &(connector.as_str(), properties))
                .await
                .and_then(|reply| reply.body().deserialize())
                .map_err(|error| call_failed("RecordMonitor", format!("{error} (monitor {connector})")))?;
        call(&connection, session, "Start", &()).await.map_err(|error| call_failed("Start", error))?;
        let mut session = Self { connection, path, signals };
        let node = tokio::time::timeout(REPLY_TIMEOUT, session.node(&stream)).await.map_err(|_| {
            call_failed("Start", format!("no PipeWireStreamAdded within {REPLY_TIMEOUT:?}; start pipewire"))
        })??;
        tracing::debug!(node, connector, "Mutter screen cast started");
        Ok((session, node))
    }

    /// Waits for the PipeWire node of `stream`.
    async fn node(&mut self, stream: &OwnedObjectPath) -> Result<u32, CaptureError> {
        while let Some(message) = self.signals.next().await {
            let message = message.map_err(|error| call_failed("Start", error))?;
            let interface = message.header().interface().map(ToString::to_string);
            if interface.as_deref() == Some(STREAM)
                && bus::is_signal(&message, stream.as_str(), "PipeWireStreamAdded")
            {
                return message
                    .body()
                    .deserialize()
                    .map_err(|error| call_failed("PipeWireStreamAdded", error));
            }
        }
        Err(call_failed("Start", "the session bus disconnected"))
    }

    /// Keeps the cast until it ends; returns the reason.
    async fn until_end(mut self, mut stopped: oneshot::Receiver<()>) -> String {
        loop {
            let message = tokio::select! {
                _ = &mut stopped => {
                    let session = Target { service: SERVICE, path: self.path.as_str(), interface: SESSION };
                    // Optional: Mutter also ends the cast when the connection closes.
                    let _ = call(&self.connection, session, "Stop", &()).await;
                    return "stopped".to_owned();
                }
                message = self.signals.next() => message,
            };
            match message {
                None => return "the session bus disconnected".to_owned(),
                Some(Err(error)) => return format!("session bus error: {error}"),
                Some(Ok(message)) => {
                    if bus::is_signal(&message, self.path.as_str(), "Closed") {
                        return "Mutter closed the screen cast".to_owned();
                    }
                }
            }
        }
    }
}

// Types of `org.gnome.Mutter.DisplayConfig.GetCurrentState`.
type MonitorId = (String, String, String, String);
type Mode = (String, i32, i32, f64, f64, Vec<f64>, HashMap<String, OwnedVariant>);
type Monitor = (MonitorId, Vec<Mode>, HashMap<String, OwnedVariant>);
type Logical = (i32, i32, f64, u32, bool, Vec<MonitorId>, HashMap<String, OwnedVariant>);
type DisplayState = (u32, Vec<Monitor>, Vec<Logical>, HashMap<String, OwnedVariant>);

/// Connector to record: the primary monitor's, else the first monitor's, else [`HEADLESS_MONITOR`].
async fn primary_monitor(connection: &Connection) -> String {
    let target = Target { service: DISPLAY, path: "/org/gnome/Mutter/DisplayConfig", interface: DISPLAY };
    let reply = call(connection, target, "GetCurrentState", &()).await;
    match reply.and_then(|reply| reply.body().deserialize::<DisplayState>()) {
        Ok((_, monitors, logical, _)) => choose_connector(&monitors, &logical),
        Err(error) => {
            tracing::debug!(%error, monitor = HEADLESS_MONITOR, "no monitor list, using the default monitor");
            None
        }
    }
    .unwrap_or_else(|| HEADLESS_MONITOR.to_owned())
}

fn choose_connector(monitors: &[Monitor], logical: &[Logical]) -> Option<String> {
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
    fn connector_unspecified_is_the_primary_monitors() {
        let monitor = |name| (id(name), Vec::new(), HashMap::new());
        let logical = |name, primary| (0, 0, 1.0, 0, primary, vec![id(name)], HashMap::new());
        let monitors = [monitor("Meta-0"), monitor("Meta-1")];
        let two = [logical("Meta-0", false), logical("Meta-1", true)];
        assert_eq!(choose_connector(&monitors, &two).as_deref(), Some("Meta-1"));
        assert_eq!(choose_connector(&monitors, &two[..1]).as_deref(), Some("Meta-0"));
        assert_eq!(choose_connector(&monitors, &[]).as_deref(), Some("Meta-0"));
        assert_eq!(choose_connector(&[], &[]), None);
    }
}
