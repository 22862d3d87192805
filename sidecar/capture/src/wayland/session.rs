//! A connection to one compositor, and the cycle of captures on it.
//!
//! Every wait is on the socket and the bell together, so that a stop or a returned buffer is noticed, and
//! every answer has a time limit; only `ready` may take for ever, on a static screen: there the compositor is
//! pinged now and then. It does not know which compositor to choose.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use protocol::Rect;
use wayland_client::protocol::wl_output::WlOutput;
use wayland_client::{Connection, DispatchError, EventQueue, Proxy as _, backend::WaylandError};
use wayland_protocols_wlr::screencopy::v1::client::zwlr_screencopy_frame_v1::ZwlrScreencopyFrameV1;
use wayland_protocols_wlr::screencopy::v1::client::zwlr_screencopy_manager_v1::ZwlrScreencopyManagerV1;

use super::buffers::{Buffers, Kind, offer_dmabuf};
use super::globals::{FrameState, State};
use crate::bell::Bell;
use crate::error::CaptureError;
use crate::frame::{Frame, GiveBack, Lease, clamp_damage};
use crate::negotiated::{Negotiated, fourcc_text};
use crate::outlet::Outlet;
use crate::returns::Returns;
use crate::{CaptureOptions, Memory};
use encode::clock::clock_ns;

const WHO: &str = "compositor";
/// How long the compositor may take for an answer that needs no drawing.
const ANSWER: Duration = Duration::from_secs(5);
/// How often a compositor that draws nothing is asked whether it is still there.
const PING: Duration = Duration::from_secs(10);
/// Captures that may fail in a row: an output that is being resized fails one or two.
const FAILURES: u32 = 20;
/// GPU captures that may fail in a row before shared memory is tried.
const GPU_FAILURES: u32 = 5;
/// The pause after a failed capture.
const FAILURE_PAUSE: Duration = Duration::from_millis(50);
/// The version that has DMA-BUF and damage.
const WANTED_VERSION: u32 = 3;

/// A compositor that can be captured.
#[derive(Debug)]
pub struct Session {
    path: PathBuf,
    connection: Connection,
    queue: EventQueue<State>,
    state: State,
    bell: Arc<Bell>,
    syncs: u32,
}

/// How a wait ended.
enum Waited {
    /// With what was waited for.
    Done,
    /// Told to stop.
    Stopped,
}

impl Session {
    /// Connects, and looks whether it can be captured.
    pub fn connect(path: &Path, options: &CaptureOptions, outlet: &Outlet) -> Result<Self, CaptureError> {
        let stream = UnixStream::connect(path)
            .map_err(|source| CaptureError::Connect { path: path.to_owned(), source })?;
        let connection = Connection::from_socket(stream)
            .map_err(|error| CaptureError::Gone { who: WHO, why: error.to_string() })?;
        let queue = connection.new_event_queue();
        connection.display().get_registry(&queue.handle(), ());
        let mut session = Self {
            path: path.to_owned(),
            connection,
            queue,
            state: State::default(),
            bell: Arc::clone(outlet.bell()),
            syncs: 0,
        };
        // The first brings the globals, the second what they say of themselves.
        session.sync()?;
        session.sync()?;
        if !outlet.stopped() {
            session.manager()?;
            session.output(options.output.as_deref())?;
        }
        Ok(session)
    }

    fn manager(&self) -> Result<ZwlrScreencopyManagerV1, CaptureError> {
        let missing = |missing| CaptureError::NoProtocol { path: self.path.clone(), missing };
        match &self.state.screencopy {
            None => Err(missing("zwlr_screencopy_manager_v1")),
            Some(manager) if manager.version() < WANTED_VERSION => {
                Err(missing("zwlr_screencopy_manager_v1 in version 3"))
            }
            Some(manager) => Ok(manager.clone()),
        }
    }

    fn output(&self, name: Option<&str>) -> Result<WlOutput, CaptureError> {
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

    /// Captures until it fails, or until it is told to stop (`Ok`).
    pub fn run(mut self, options: &CaptureOptions, outlet: &Outlet) -> Result<(), CaptureError> {
        let manager = self.manager()?;
        let (returns, returned) = Returns::new(outlet.bell());
        let mut cycle = Cycle {
            returns,
            returned,
            buffers: None,
            no_gpu: options.no_dmabuf(),
            generation: 0,
            failures: 0,
            delivered: false,
        };
        let mut due = Instant::now();
        loop {
            let now = Instant::now();
            if outlet.stopped() {
                return Ok(());
            }
            if now < due {
                self.turn(due - now)?;
                continue;
            }
            let output = self.output(options.output.as_deref())?;
            self.state.frame = FrameState::default();
            let frame = manager.capture_output(options.cursor.into(), &output, &self.queue.handle(), ());
            let captured = self.capture(&frame, &mut cycle, options, outlet);
            frame.destroy();
            match captured? {
                Some(delivered) if delivered => {
                    cycle.failures = 0;
                    // The best pace is kept over jitter; time lost is not caught up.
                    let interval = options.interval();
                    due = (due + interval).max(now);
                }
                Some(_) => {
                    cycle.failed(options)?;
                    due = Instant::now() + FAILURE_PAUSE;
                }
                None => return Ok(()),
            }
        }
    }

    /// One capture: whether a frame was delivered, or `None` when told to stop.
    fn capture(
        &mut self,
        frame: &ZwlrScreencopyFrameV1,
        cycle: &mut Cycle,
        options: &CaptureOptions,
        outlet: &Outlet,
    ) -> Result<Option<bool>, CaptureError> {
        let offers = |state: &State| state.frame.offered || state.frame.failed;
        if let Waited::Stopped = self.wait(offers, "offer buffers", Some(ANSWER))? {
            return Ok(None);
        }
        if self.state.frame.failed {
            return Ok(Some(false));
        }
        self.prepare(cycle, options, outlet)?;
        let Some(buffers) = &mut cycle.buffers else { return Ok(Some(false)) };
        let (index, proxy) = loop {
            cycle.returned.try_iter().for_each(|token| buffers.returned(token));
            if let Some(free) = buffers.take() {
                break free;
            }
            if outlet.stopped() {
                return Ok(None);
            }
            self.turn(PING)?;
        };
        if cycle.delivered {
            frame.copy_with_damage(&proxy);
        } else {
            frame.copy(&proxy);
        }
        let ended = |state: &State| state.frame.ready.is_some() || state.frame.failed;
        if let Waited::Stopped = self.wait(ended, "copy", None)? {
            return Ok(None);
        }
        let (width, height) = buffers.kind().size();
        let result = self.state.frame.clone();
        let picture = result.ready.and_then(|_| buffers.picture(index, result.y_invert));
        let Some(picture) = picture else {
            if result.y_invert && matches!(buffers.kind(), Kind::Gpu(_)) {
                cycle.no_gpu = Some("the compositor copies upside down into GPU buffers".to_owned());
            }
            buffers.put_back(index);
            return Ok(Some(false));
        };
        let damage = if cycle.delivered {
            clamp_damage(result.damage, width, height)
        } else {
            Rect::full(width, height)
        };
        cycle.delivered = true;
        outlet.publish(Frame {
            seq: 0,
            capture_ns: result.ready.filter(|time| *time != 0).unwrap_or_else(clock_ns),
            width,
            height,
            format: buffers.format(),
            damage,
            buffer: picture,
            lease: Lease::new(Arc::clone(&cycle.returns) as Arc<dyn GiveBack>, buffers.token(index)),
        });
        Ok(Some(true))
    }

    /// Makes buffers that fit the offers, unless those at hand do.
    fn prepare(
        &mut self,
        cycle: &mut Cycle,
        options: &CaptureOptions,
        outlet: &Outlet,
    ) -> Result<(), CaptureError> {
        let offer = self.state.frame.clone();
        if cycle.no_gpu.is_none() {
            cycle.no_gpu = match (offer.dmabuf, &self.state.dmabuf) {
                (None, _) => {
                    Some("the compositor offers no linux_dmabuf: it draws without the GPU; can the desktop open the \
                          render node (its group), and is WLR_RENDERER gles2?".to_owned())
                }
                (_, None) => Some("the compositor has no zwp_linux_dmabuf_v1".to_owned()),
                _ => None,
            };
        }
        if cycle.no_gpu.is_none()
            && let Some(wanted) = offer.dmabuf
        {
            if cycle.fits(Kind::Gpu(wanted)) {
                return Ok(());
            }
            match self.gpu_buffers(cycle, wanted, options) {
                Ok(buffers) => {
                    self.adopt(cycle, buffers, &offer, outlet);
                    return Ok(());
                }
                Err(error @ (CaptureError::Gone { .. } | CaptureError::Timeout { .. })) => return Err(error),
                Err(error) => cycle.no_gpu = Some(error.to_string()),
            }
        }
        if options.memory == Memory::DmaBuf {
            return Err(CaptureError::NoDmaBuf(cycle.no_gpu.clone().unwrap_or_default()));
        }
        let Some(wanted) = offer.shm else { return Ok(()) };
        if cycle.fits(Kind::Shm(wanted)) {
            return Ok(());
        }
        cycle.generation += 1;
        let buffers = Buffers::shm(wanted, &self.state, &self.queue.handle(), cycle.generation)?;
        self.adopt(cycle, buffers, &offer, outlet);
        Ok(())
    }

    fn gpu_buffers(
        &mut self,
        cycle: &mut Cycle,
        wanted: super::globals::DmabufOffer,
        options: &CaptureOptions,
    ) -> Result<Buffers, CaptureError> {
        let Some(device) = &options.device else {
            return Err(CaptureError::NoDmaBuf("there is no render node".to_owned()));
        };
        cycle.generation += 1;
        Buffers::gpu(wanted, device, cycle.generation, |buffer| {
            self.state.created = None;
            if offer_dmabuf(buffer, wanted, &self.state, &self.queue.handle()) {
                self.wait(|state| state.created.is_some(), "take a GPU buffer", Some(ANSWER))?;
            }
            match self.state.created.take() {
                Some(Ok(proxy)) => Ok(proxy),
                _ => Err(CaptureError::NoDmaBuf(format!(
                    "the compositor refused our buffer ({} with modifier INVALID)",
                    fourcc_text(wanted.fourcc)
                ))),
            }
        })
    }

    /// Uses `buffers` from now on.
    fn adopt(&mut self, cycle: &mut Cycle, buffers: Buffers, offer: &FrameState, outlet: &Outlet) {
        let (width, height) = buffers.kind().size();
        let mut offered = self.state.describe_dmabuf();
        if let Some(dmabuf) = offer.dmabuf {
            offered.push(format!(
                "screencopy linux_dmabuf {} {}x{}",
                fourcc_text(dmabuf.fourcc),
                dmabuf.width,
                dmabuf.height
            ));
        }
        if let Some(shm) = offer.shm {
            let (format, size) = (fourcc_text(shm.format), format!("{}x{}", shm.width, shm.height));
            offered.push(format!("screencopy shm format {format} {size} stride {}", shm.stride));
        }
        let dmabuf = matches!(buffers.kind(), Kind::Gpu(_));
        let memory = if dmabuf { "DMA-BUF, modifier INVALID" } else { "shared memory" };
        outlet.negotiated(Negotiated {
            source: "wayland".to_owned(),
            offered,
            taken: format!("{:?} {width}x{height} in {memory}, {}", buffers.format(), buffers.describe()),
            format: buffers.format(),
            width,
            height,
            dmabuf,
            reason: cycle.no_gpu.clone(),
        });
        cycle.buffers = Some(buffers);
        cycle.delivered = false;
    }

    /// Waits for `done`; without a limit the compositor is pinged now and then.
    fn wait(
        &mut self,
        done: impl Fn(&State) -> bool,
        what: &'static str,
        limit: Option<Duration>,
    ) -> Result<Waited, CaptureError> {
        let start = Instant::now();
        let mut ping = Instant::now() + PING;
        let mut pinged = None;
        loop {
            if done(&self.state) {
                return Ok(Waited::Done);
            }
            if self.bell.stopped() {
                return Ok(Waited::Stopped);
            }
            let now = Instant::now();
            if let Some(limit) = limit
                && now - start >= limit
            {
                return Err(timeout(what, limit));
            }
            if limit.is_none() && now >= ping {
                match pinged {
                    Some(number) if self.state.synced != number => {
                        return Err(timeout("answer a ping", PING));
                    }
                    _ => pinged = Some(self.send_sync()),
                }
                ping = now + PING;
            }
            let until = limit.map_or(ping, |limit| start + limit);
            self.turn(until.saturating_duration_since(now))?;
        }
    }

    fn send_sync(&mut self) -> u32 {
        self.syncs = self.syncs.wrapping_add(1);
        self.connection.display().sync(&self.queue.handle(), self.syncs);
        self.syncs
    }

    /// Waits until everything sent so far was answered.
    fn sync(&mut self) -> Result<(), CaptureError> {
        let number = self.send_sync();
        self.wait(move |state| state.synced == number, "answer", Some(ANSWER)).map(drop)
    }

    /// Sends, waits for events or the bell at most `limit`, and takes the events.
    fn turn(&mut self, limit: Duration) -> Result<(), CaptureError> {
        match self.queue.flush() {
            Ok(()) => {}
            // The compositor is slow to read; what is left goes with the next turn.
            Err(WaylandError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(self.gone(&DispatchError::Backend(error))),
        }
        if let Some(guard) = self.queue.prepare_read() {
            let readable =
                self.bell.wait(Some(guard.connection_fd().as_fd()), limit).map_err(CaptureError::Thread)?;
            if readable {
                match guard.read() {
                    Ok(_) => {}
                    Err(WaylandError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(self.gone(&DispatchError::Backend(error))),
                }
            }
        }
        self.queue.dispatch_pending(&mut self.state).map(drop).map_err(|error| self.gone(&error))
    }

    fn gone(&self, error: &DispatchError) -> CaptureError {
        let why = match self.connection.protocol_error() {
            Some(error) => {
                format!("protocol error {} on {}: {}", error.code, error.object_interface, error.message)
            }
            None => error.to_string(),
        };
        CaptureError::Gone { who: WHO, why }
    }
}

fn timeout(what: &'static str, after: Duration) -> CaptureError {
    CaptureError::Timeout { who: WHO, what, after, remedy: "it hangs: look at its log, restart the desktop" }
}

/// What lasts from capture to capture.
struct Cycle {
    returns: Arc<Returns>,
    returned: Receiver<u64>,
    buffers: Option<Buffers>,
    no_gpu: Option<String>,
    generation: u32,
    failures: u32,
    /// A frame came from these buffers: from now on only damage is waited for.
    delivered: bool,
}

impl Cycle {
    fn fits(&self, kind: Kind) -> bool {
        self.buffers.as_ref().is_some_and(|buffers| buffers.kind() == kind)
    }

    /// Counts a failed capture, and draws the conclusion.
    fn failed(&mut self, options: &CaptureOptions) -> Result<(), CaptureError> {
        self.failures += 1;
        let gpu = self.buffers.as_ref().is_some_and(|buffers| matches!(buffers.kind(), Kind::Gpu(_)));
        if gpu && self.failures >= GPU_FAILURES && options.memory == Memory::Auto && self.no_gpu.is_none() {
            self.no_gpu = Some("the compositor failed to copy into GPU buffers".to_owned());
        }
        if self.failures >= FAILURES {
            return Err(CaptureError::Refused { times: self.failures });
        }
        Ok(())
    }
}
