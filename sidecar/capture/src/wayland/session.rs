//! Connection to one compositor.
//!
//! Every wait includes the waker, so that stops and released buffers are noticed. Every reply has a time limit, except
//! `ready`, which on a static screen may never arrive; meanwhile the compositor is pinged.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wayland_client::protocol::wl_output::WlOutput;
use wayland_client::{Connection, DispatchError, EventQueue, Proxy as _, QueueHandle, backend::WaylandError};
use wayland_protocols_wlr::screencopy::v1::client::zwlr_screencopy_manager_v1::ZwlrScreencopyManagerV1;

use super::cycle::Cycle;
use super::globals::State;
use super::sizing::Sizing;
use crate::CaptureOptions;
use crate::error::CaptureError;
use crate::source_context::SourceContext;
use crate::waker::Waker;

/// The compositor in error messages.
pub const PEER: &str = "compositor";
/// Time limit for a reply that requires no rendering.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval between pings while the compositor is idle, and the time limit for each reply.
pub const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Minimum version of `zwlr_screencopy_manager_v1`: the first with DMA-BUF and damage.
const MIN_SCREENCOPY_VERSION: u32 = 3;

/// A connection to a compositor that supports screencopy.
#[derive(Debug)]
pub struct Session {
    path: PathBuf,
    connection: Connection,
    queue: EventQueue<State>,
    /// Globals and recorded events.
    pub state: State,
    waker: Arc<Waker>,
    sizing: Sizing,
    /// Time at which the sizing acts without an event.
    sizing_due: Option<Instant>,
    /// True once the compositor is the source: others are not resized.
    is_running: bool,
    /// Number of the last sync request.
    syncs: u32,
}

/// Outcome of [`Session::wait`].
pub enum Waited {
    /// The condition holds.
    Done,
    /// The capture is stopped.
    Stopped,
}

impl Session {
    /// Connects to the socket `path` and checks that the configured output can be captured.
    pub fn connect(
        path: &Path,
        options: &CaptureOptions,
        context: &SourceContext,
    ) -> Result<Self, CaptureError> {
        let stream = UnixStream::connect(path)
            .map_err(|source| CaptureError::Connect { path: path.to_owned(), source })?;
        let connection = Connection::from_socket(stream)
            .map_err(|error| CaptureError::Disconnected { peer: PEER, reason: error.to_string() })?;
        let queue = connection.new_event_queue();
        connection.display().get_registry(&queue.handle(), ());
        let mut session = Self {
            path: path.to_owned(),
            connection,
            queue,
            state: State::default(),
            waker: Arc::clone(context.waker()),
            sizing: Sizing::new(context.resizer().clone(), options.output.clone()),
            sizing_due: None,
            is_running: false,
            syncs: 0,
        };
        // The first sync brings the globals, the second the events of the globals bound meanwhile.
        session.sync()?;
        session.sync()?;
        if !context.is_stopped() {
            session.manager()?;
            session.output(options.output.as_deref())?;
        }
        Ok(session)
    }

    /// Captures until an error occurs, or until the capture is stopped (`Ok`).
    pub fn run(mut self, options: &CaptureOptions, context: &SourceContext) -> Result<(), CaptureError> {
        self.accept();
        Cycle::new(self, options, context).run()
    }

    /// Makes the compositor the source: from now on it is resized.
    pub fn accept(&mut self) {
        self.is_running = true;
    }

    /// The handle for creating objects on this connection.
    pub fn handle(&self) -> QueueHandle<State> {
        self.queue.handle()
    }

    /// The screencopy manager.
    pub fn manager(&self) -> Result<ZwlrScreencopyManagerV1, CaptureError> {
        let missing = |missing| CaptureError::NoProtocol { path: self.path.clone(), missing };
        match &self.state.screencopy {
            None => Err(missing("zwlr_screencopy_manager_v1")),
            Some(manager) if manager.version() < MIN_SCREENCOPY_VERSION => {
                Err(missing("version 3 of zwlr_screencopy_manager_v1"))
            }
            Some(manager) => Ok(manager.clone()),
        }
    }

    /// The output `name`, or the first one.
    pub fn output(&self, name: Option<&str>) -> Result<WlOutput, CaptureError> {
        let mut outputs = self.state.outputs.iter();
        outputs
            .find(|output| name.is_none_or(|name| output.name == name))
            .map(|output| output.proxy.clone())
            .ok_or_else(|| {
                let names: Vec<&str> = self.state.outputs.iter().map(|output| output.name.as_str()).collect();
                let available = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                CaptureError::NoOutput { name: name.map(str::to_owned), available }
            })
    }

    /// Processes events until `done`. Fails after `limit`; without a limit the compositor is pinged every
    /// [`PING_INTERVAL`]. `operation` is an infinitive for the error message.
    pub fn wait(
        &mut self,
        done: impl Fn(&State) -> bool,
        operation: &'static str,
        limit: Option<Duration>,
    ) -> Result<Waited, CaptureError> {
        let start = Instant::now();
        let mut ping = Instant::now() + PING_INTERVAL;
        let mut pinged = None;
        loop {
            if done(&self.state) {
                return Ok(Waited::Done);
            }
            if self.waker.is_stopped() {
                return Ok(Waited::Stopped);
            }
            let now = Instant::now();
            if let Some(limit) = limit
                && now - start >= limit
            {
                return Err(timeout(operation, limit));
            }
            if limit.is_none() && now >= ping {
                match pinged {
                    Some(number) if self.state.synced != number => {
                        return Err(timeout("reply to a ping", PING_INTERVAL));
                    }
                    _ => pinged = Some(self.send_sync()),
                }
                ping = now + PING_INTERVAL;
            }
            let until = limit.map_or(ping, |limit| start + limit);
            self.turn(until.saturating_duration_since(now))?;
        }
    }

    /// Sends queued requests, waits up to `limit` for events or a wake-up, and processes the events.
    pub fn turn(&mut self, limit: Duration) -> Result<(), CaptureError> {
        match self.queue.flush() {
            Ok(()) => {}
            // The socket's buffer is full; the rest is sent on the next turn.
            Err(WaylandError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(self.disconnected(&DispatchError::Backend(error))),
        }
        let limit =
            self.sizing_due.map_or(limit, |due| limit.min(due.saturating_duration_since(Instant::now())));
        if let Some(guard) = self.queue.prepare_read() {
            let readable =
                self.waker.wait(Some(guard.connection_fd().as_fd()), limit).map_err(CaptureError::System)?;
            if readable {
                match guard.read() {
                    Ok(_) => {}
                    Err(WaylandError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(self.disconnected(&DispatchError::Backend(error))),
                }
            }
        }
        let dispatched = self.queue.dispatch_pending(&mut self.state);
        dispatched.map_err(|error| self.disconnected(&error))?;
        self.sizing_due = if self.is_running {
            self.sizing.update(&mut self.state, &self.queue.handle()).map(|after| Instant::now() + after)
        } else {
            None
        };
        Ok(())
    }

    fn send_sync(&mut self) -> u32 {
        self.syncs = self.syncs.wrapping_add(1);
        self.connection.display().sync(&self.queue.handle(), self.syncs);
        self.syncs
    }

    /// Waits until the compositor has processed all requests.
    fn sync(&mut self) -> Result<(), CaptureError> {
        let number = self.send_sync();
        self.wait(move |state| state.synced == number, "reply", Some(REPLY_TIMEOUT)).map(drop)
    }

    fn disconnected(&self, error: &DispatchError) -> CaptureError {
        let reason = match self.connection.protocol_error() {
            Some(error) => {
                format!("protocol error {} on {}: {}", error.code, error.object_interface, error.message)
            }
            None => error.to_string(),
        };
        CaptureError::Disconnected { peer: PEER, reason }
    }
}

fn timeout(operation: &'static str, after: Duration) -> CaptureError {
    let remedy = "the compositor hangs: check its log, restart the desktop";
    CaptureError::Timeout { peer: PEER, operation, after, remedy }
}
