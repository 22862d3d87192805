//! Mutter's screen cast: asks GNOME Shell over D-Bus for a PipeWire node that shows one of its monitors.
//!
//! ```text
//! CreateSession ─▶ RecordMonitor(connector) ─▶ Start ─▶ signal PipeWireStreamAdded(node)
//!                  RecordVirtual
//! ```
//!
//! A virtual monitor is for desktops whose size follows the viewer: the format of its stream determines its size.
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

use contract::display::SizePolicy;
use desktop_session::bus::{self, REPLY_TIMEOUT, Target, call};
use futures_util::StreamExt as _;
use tokio::sync::{oneshot, watch};
use zbus::{Connection, MessageStream, OwnedObjectPath, Variant};

use crate::error::CaptureError;
use crate::source_context::SourceContext;
use crate::waker::Waker;
use crate::{CaptureOptions, Cursor};

mod display;

const SERVICE: &str = "org.gnome.Mutter.ScreenCast";
const SESSION: &str = "org.gnome.Mutter.ScreenCast.Session";
const STREAM: &str = "org.gnome.Mutter.ScreenCast.Stream";
/// Interval between checks for the stop flag while a cast starts.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// A running screen cast; dropping it ends the cast.
#[derive(Debug)]
pub struct Cast {
    node: u32,
    is_virtual: bool,
    /// True if the shell had a monitor before.
    has_other_monitors: bool,
    /// Scale that the virtual monitor should have.
    scale: watch::Sender<f64>,
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
            is_virtual: options.size == SizePolicy::FollowViewer,
        };
        let is_virtual = request.is_virtual;
        let (scale, scales) = watch::channel(1.0);
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
            .spawn(move || runtime.block_on(run_cast(request, started, stopped, scales, &waker, &reason)))
            .map_err(CaptureError::System)?;
        let mut cast = Self {
            node: 0,
            is_virtual,
            has_other_monitors: false,
            scale,
            end_reason,
            stop: Some(stop),
            thread: Some(thread),
        };
        loop {
            match start.recv_timeout(STOP_CHECK_INTERVAL) {
                Ok(started) => {
                    let Started { node, has_other_monitors } = started?;
                    cast.node = node;
                    cast.has_other_monitors = has_other_monitors;
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

    /// True if the cast shows a virtual monitor, which it made.
    pub fn is_virtual(&self) -> bool {
        self.is_virtual
    }

    /// True if the virtual monitor is beside others, which the windows are on.
    pub fn has_other_monitors(&self) -> bool {
        self.has_other_monitors
    }

    /// Gives the virtual monitor the supported scale that is closest to `scale`.
    pub fn set_scale(&self, scale: f64) {
        self.scale.send_if_modified(|current| std::mem::replace(current, scale).to_bits() != scale.to_bits());
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
    /// Make a virtual monitor, instead of showing one that exists.
    is_virtual: bool,
}

impl Request {
    /// Mutter's `cursor-mode`: hidden 0, embedded 1, metadata 2.
    fn cursor_mode(&self) -> u32 {
        match self.cursor {
            Cursor::Hidden => 0,
            Cursor::Embedded => 1,
            Cursor::Viewer => 2,
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
    started: Sender<Result<Started, CaptureError>>,
    mut stopped: oneshot::Receiver<()>,
    scales: watch::Receiver<f64>,
    waker: &Waker,
    end_reason: &OnceLock<String>,
) {
    let session = tokio::select! {
        session = Session::start(&request) => session,
        _ = &mut stopped => return,
    };
    let session = match session {
        Ok((session, cast)) => {
            let _ = started.send(Ok(cast));
            session
        }
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    // A cast of a monitor that exists leaves its scale alone.
    let scales = request.is_virtual.then_some(scales);
    let reason = session.until_end(stopped, scales).await;
    let _ = end_reason.set(reason);
    waker.wake();
}

/// A cast that started.
#[derive(Debug)]
struct Started {
    /// Its PipeWire node.
    node: u32,
    has_other_monitors: bool,
}

/// A screen cast session on the bus.
struct Session {
    connection: Connection,
    path: OwnedObjectPath,
    signals: MessageStream,
}

impl Session {
    async fn start(request: &Request) -> Result<(Self, Started), CaptureError> {
        let connection = bus::connect(&request.address, SERVICE)
            .await
            .map_err(|reason| CaptureError::NoMutter { address: request.address.clone(), reason })?;
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
        let mut properties: HashMap<&str, Variant<'_>> =
            HashMap::from([("cursor-mode", Variant::from(request.cursor_mode()))]);
        let has_other_monitors = request.is_virtual && display::has_monitors(&connection).await;
        let stream: OwnedObjectPath = if request.is_virtual {
            // A monitor of the desktop, not an extension of one.
            properties.insert("is-platform", Variant::from(true));
            call(&connection, session, "RecordVirtual", &(properties,))
                .await
                .and_then(|reply| reply.body().deserialize())
                .map_err(|error| call_failed("RecordVirtual", error))?
        } else {
            let connector = match &request.connector {
                Some(connector) => connector.clone(),
                None => display::primary_monitor(&connection).await,
            };
            call(&connection, session, "RecordMonitor", &(connector.as_str(), properties))
                .await
                .and_then(|reply| reply.body().deserialize())
                .map_err(|error| call_failed("RecordMonitor", format!("{error} (monitor {connector})")))?
        };
        call(&connection, session, "Start", &()).await.map_err(|error| call_failed("Start", error))?;
        let mut session = Self { connection, path, signals };
        let node = tokio::time::timeout(REPLY_TIMEOUT, session.node(&stream)).await.map_err(|_| {
            call_failed("Start", format!("no PipeWireStreamAdded within {REPLY_TIMEOUT:?}; start pipewire"))
        })??;
        tracing::debug!(node, is_virtual = request.is_virtual, "Mutter screen cast started");
        Ok((session, Started { node, has_other_monitors }))
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

    /// Keeps the cast until it ends, with its monitor at the scale of `scales`; returns the reason.
    async fn until_end(self, stopped: oneshot::Receiver<()>, scales: Option<watch::Receiver<f64>>) -> String {
        let Self { connection, path, signals } = self;
        tokio::select! {
            reason = until_closed(&connection, &path, signals, scales) => reason,
            _ = stopped => {
                let session = Target { service: SERVICE, path: path.as_str(), interface: SESSION };
                // Optional: Mutter also ends the cast when the connection closes.
                let _ = call(&connection, session, "Stop", &()).await;
                "stopped".to_owned()
            }
        }
    }
}

/// Sets the scale until Mutter closes the session; returns the reason.
async fn until_closed(
    connection: &Connection,
    session: &OwnedObjectPath,
    mut signals: MessageStream,
    mut scales: Option<watch::Receiver<f64>>,
) -> String {
    loop {
        tokio::select! {
            Some(scale) = changed(&mut scales) => display::set_scale(connection, scale).await,
            message = signals.next() => match message {
                None => return "the session bus disconnected".to_owned(),
                Some(Err(error)) => return format!("session bus error: {error}"),
                Some(Ok(message)) if bus::is_signal(&message, session.as_str(), "Closed") => {
                    return "Mutter closed the screen cast".to_owned();
                }
                // Another size resets the scale.
                Some(Ok(message)) if bus::is_monitor_change(&message) => {
                    if let Some(scales) = &mut scales {
                        let scale = *scales.borrow_and_update();
                        display::set_scale(connection, scale).await;
                    }
                }
                Some(Ok(_)) => {}
            },
        }
    }
}

/// Waits for another scale; never without one. Cancel safe.
async fn changed(scales: &mut Option<watch::Receiver<f64>>) -> Option<f64> {
    if let Some(scales) = scales
        && scales.changed().await.is_ok()
    {
        return Some(*scales.borrow_and_update());
    }
    std::future::pending().await
}
