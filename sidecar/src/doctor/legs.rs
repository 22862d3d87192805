//! The legs, in the order in which a frame passes them.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use doctor::Leg;
use protocol::mailbox::{FrameRequest, Operation, Status};
use protocol::stream::{ClientMessage, Codec, Config, DOCTOR, Path, ServerMessage};
use virtgpu::{CallError, Device, Mailbox, OpenError};

use capture::{self, Capture, CaptureEvent, Frame, FrameBuffer, Negotiated};
use crate::cli::{Desktop, HostAgent};
use frame_path::pump::explain;
use crate::run::{capture_options, upstream_options};
use frame_path::upstream::{Event, Session, Upstream, UpstreamOptions};
use viewers::snapshot::{self, SnapshotError};

/// How long the desktop may take to give a first frame.
const CAPTURE: Duration = Duration::from_secs(15);
/// How long the tap, and the host-agent, may take to answer.
const ANSWER: Duration = Duration::from_secs(3);

/// Walks the path.
pub async fn walk(desktop: &Desktop, host_agent: &HostAgent) -> Vec<Leg> {
    let mut legs = Vec::new();
    let device = render_node(desktop, &mut legs);
    let mailbox = tap(device.as_ref(), &mut legs);
    let upstream = reach(host_agent, &mut legs).await;
    let desktop = desktop.clone();
    // The rest waits on threads and sockets in turn; it is no async code.
    let walked = tokio::task::spawn_blocking(move || {
        let mut mailbox = mailbox;
        let mut legs = Vec::new();
        let bound = bind(mailbox.as_mut(), upstream.as_ref(), &mut legs);
        let frame = picture(&desktop, device, &mut legs);
        carry(frame.as_ref(), mailbox.as_mut().filter(|_| bound), upstream.as_ref(), &mut legs);
        legs
    })
    .await;
    match walked {
        Ok(more) => legs.extend(more),
        Err(error) => legs.push(Leg::failed("doctor", error.to_string(), "please report this")),
    }
    legs
}

fn render_node(desktop: &Desktop, legs: &mut Vec<Leg>) -> Option<Device> {
    match Device::open(&desktop.render_node) {
        Ok(device) => {
            let params = device.params();
            let detail = format!(
                "{}: virtio_gpu with 3D, blobs {}, context init {}",
                desktop.render_node.display(),
                params.resource_blob,
                params.context_init
            );
            legs.push(Leg::ok("render node", detail));
            Some(device)
        }
        Err(error) => {
            let remedy = match &error {
                OpenError::NotFound { .. } => "give the container the render node",
                OpenError::Denied { .. } => "add the node's group to the container's supplementary groups",
                OpenError::Cgroup { .. } => "allow the device in the container's device cgroup",
                OpenError::No3d { .. } => "start the VM with a virtio-gpu device that has GL",
                OpenError::OtherDriver { .. } | OpenError::NotDrm { .. } => {
                    "name the VM's virtio-gpu node with --render-node, or use rung Local"
                }
                OpenError::Io { .. } => "see the system's word",
            };
            legs.push(Leg::failed("render node", error.to_string(), remedy));
            None
        }
    }
}

fn tap(device: Option<&Device>, legs: &mut Vec<Leg>) -> Option<Mailbox> {
    let Some(device) = device else {
        legs.push(Leg::skipped("tap", "no render node"));
        return None;
    };
    let mut mailbox = match Mailbox::new(device) {
        Ok(mailbox) => mailbox,
        Err(error) => {
            legs.push(Leg::failed(
                "tap",
                format!("no mailbox: {error}"),
                "see the guest's kernel log (dmesg)",
            ));
            return None;
        }
    };
    let begin = Instant::now();
    match mailbox.call(Operation::Echo, ANSWER) {
        Ok(answer) if answer.status == Status::Ok => {
            let detail = format!("tap version {} answers in {:.1?}", answer.tap_version, begin.elapsed());
            legs.push(Leg::ok("tap", detail));
            Some(mailbox)
        }
        Ok(answer) => {
            legs.push(Leg::failed(
                "tap",
                format!("the tap says {}", answer.status.label()),
                explain(answer.status),
            ));
            None
        }
        Err(error @ CallError::NoTap { .. }) => {
            let remedy = "start the VMM with the tap loaded (LD_PRELOAD=libtap.so on Linux)";
            legs.push(Leg::failed("tap", error.to_string(), remedy));
            None
        }
        Err(error) => {
            legs.push(Leg::failed("tap", error.to_string(), "bring tap and sidecar to one version"));
            None
        }
    }
}

/// A connection with what came on it.
struct Reached {
    upstream: Upstream,
    events: Receiver<Event>,
    session: Session,
}

impl Reached {
    /// The first message that `pick` takes.
    fn wait<T>(
        &self,
        limit: Duration,
        mut pick: impl FnMut(ServerMessage) -> Option<T>,
    ) -> Result<T, String> {
        let end = Instant::now() + limit;
        loop {
            match self.events.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(Event::Message(ServerMessage::Error { message, .. })) => return Err(message),
                Ok(Event::Message(message)) => {
                    if let Some(picked) = pick(message) {
                        return Ok(picked);
                    }
                }
                Ok(Event::Disconnected(error)) => return Err(error.to_string()),
                Ok(Event::Connected(_)) => return Err("the connection was lost and made again".into()),
                Err(_) => return Err(format!("nothing within {limit:?}")),
            }
        }
    }
}

async fn reach(host_agent: &HostAgent, legs: &mut Vec<Leg>) -> Option<Reached> {
    let Some(options) = upstream_options(host_agent) else {
        legs.push(Leg::skipped("host-agent", "none is configured (--upstream): rung Local"));
        return None;
    };
    let options = UpstreamOptions { client: DOCTOR, ..options };
    let (event_in, events) = channel();
    let endpoint = options.endpoint.read().map_or_else(|_| "?".to_owned(), |it| it.to_string());
    let upstream = Upstream::start(options, move |event| event_in.send(event).is_ok());
    let first = tokio::task::spawn_blocking(move || (events.recv_timeout(2 * ANSWER), events)).await;
    match first {
        Ok((Ok(Event::Connected(session)), events)) => {
            let detail = format!("{endpoint}: {}, {} tap(s) connected", session.server, session.taps);
            legs.push(Leg::ok("host-agent", detail));
            Some(Reached { upstream, events, session })
        }
        Ok((Ok(Event::Disconnected(error)), _)) => {
            use frame_path::upstream::UpstreamError as E;
            use protocol::stream::ErrorCode as C;
            let remedy = match &error {
                E::Refused { code: C::ExpiredToken, .. } => {
                    "mint a new token (host-agent token, or the operator)"
                }
                E::Refused { code: C::BadToken, .. } | E::Token { .. } => {
                    "give the sidecar a token signed by the key whose public half the host-agent knows"
                }
                E::Unnamed { .. } => {
                    "pair the stream with a host-agent: the operator writes its endpoint there"
                }
                E::Refused { code: C::Capacity, .. } => "raise --max-sessions, or use another host-agent",
                E::Refused { code: C::Version, .. } | E::Socket(_) => {
                    "bring host-agent and sidecar to one version"
                }
                _ => "start host-agent serve, and let it listen where this container can reach it",
            };
            legs.push(Leg::failed("host-agent", error.to_string(), remedy));
            None
        }
        _ => {
            legs.push(Leg::failed(
                "host-agent",
                format!("{endpoint}: no answer"),
                "is a firewall in between?",
            ));
            None
        }
    }
}

fn bind(mailbox: Option<&mut Mailbox>, reached: Option<&Reached>, legs: &mut Vec<Leg>) -> bool {
    let (Some(mailbox), Some(reached)) = (mailbox, reached) else {
        legs.push(Leg::skipped("bind", "needs the tap and the host-agent"));
        return false;
    };
    match mailbox.call(Operation::Bind(reached.session.nonce), ANSWER) {
        Ok(answer) if answer.status == Status::Ok => {}
        Ok(answer) => {
            legs.push(Leg::failed(
                "bind",
                format!("the tap says {}", answer.status.label()),
                explain(answer.status),
            ));
            return false;
        }
        Err(error) => {
            legs.push(Leg::failed("bind", error.to_string(), "look at the VMM's log"));
            return false;
        }
    }
    let bound = reached.wait(ANSWER, |message| match message {
        ServerMessage::Bound { context, vm, tap_version } => Some((context, vm, tap_version)),
        _ => None,
    });
    match bound {
        Ok((context, vm, _)) => {
            legs.push(Leg::ok("bind", format!("context {context} of VM {vm}")));
            true
        }
        Err(error) => {
            let remedy = "this VM's tap talks to another host-agent: give both the same --link socket";
            legs.push(Leg::failed("bind", error, remedy));
            false
        }
    }
}

/// Captures until there is a frame. The capture lives on with it: it owns the buffer.
fn picture(desktop: &Desktop, device: Option<Device>, legs: &mut Vec<Leg>) -> Option<(Capture, Frame)> {
    let capture = capture::start(capture_options(desktop, device, 60));
    let end = Instant::now() + CAPTURE;
    let (mut negotiated, mut lost): (Option<Negotiated>, Option<String>) = (None, None);
    let mut hear = |capture: &Capture| {
        while let Some(event) = capture.try_event() {
            match event {
                CaptureEvent::Negotiated(what) => negotiated = Some(what),
                CaptureEvent::Lost(error) => lost = Some(error.to_string()),
            }
        }
    };
    let frame = loop {
        let frame = capture.recv_newest(Duration::from_millis(50));
        // What was negotiated is told before the first frame.
        hear(&capture);
        if frame.is_some() || Instant::now() >= end {
            break frame;
        }
    };
    if let Some(what) = &negotiated {
        let detail = format!("{}: offered {}; taken {}", what.source, what.offered.join(", "), what.chosen);
        legs.push(match &what.shm_reason {
            None => Leg::ok("capture", detail),
            Some(reason) => Leg::failed("capture", detail, format!("no DMA-BUF: {reason}")),
        });
    } else {
        let error = lost.unwrap_or_else(|| "no desktop within 15 s".into());
        let remedy = "start the desktop; share XDG_RUNTIME_DIR with it; run the sidecar with its uid";
        legs.push(Leg::failed("capture", error, remedy));
        return None;
    }
    let Some(frame) = frame else {
        legs.push(Leg::failed(
            "frame",
            "no frame within 15 s",
            "move something on the desktop: a still one sends none",
        ));
        return None;
    };
    legs.push(match &frame.buffer {
        FrameBuffer::Gpu(buffer) => Leg::ok(
            "import",
            format!(
                "{}x{} {:?}: resource ID {}",
                frame.width,
                frame.height,
                frame.format,
                buffer.resource_id()
            ),
        ),
        FrameBuffer::Shm(_) => Leg::failed(
            "import",
            "shared memory has no resource ID",
            "the desktop must draw on the GPU: give its container the render node and its group",
        ),
    });
    Some((capture, frame))
}

/// One frame by resource ID to the host-agent's encoder and back.
fn carry(
    captured: Option<&(Capture, Frame)>,
    mailbox: Option<&mut Mailbox>,
    reached: Option<&Reached>,
    legs: &mut Vec<Leg>,
) {
    let (Some((_, frame)), Some(mailbox), Some(reached)) = (captured, mailbox, reached) else {
        legs.push(Leg::skipped("read", "needs a frame and the binding"));
        legs.push(Leg::skipped("encode", "needs a picture"));
        return;
    };
    let FrameBuffer::Gpu(buffer) = &frame.buffer else {
        legs.push(Leg::skipped("read", "the frame is shared memory"));
        legs.push(Leg::skipped("encode", "needs a picture"));
        return;
    };
    let config = Config {
        width: frame.width as u16,
        height: frame.height as u16,
        format: frame.format,
        max_fps: 30,
        bitrate_kbps: 4000,
        keyframe_ms: 0,
        codec: Codec::H264,
        path: Path::ResourceId,
    };
    reached.upstream.send(ClientMessage::Configure(config));
    let encoder = reached.wait(ANSWER, |message| match message {
        ServerMessage::Configured { encoder } => Some(encoder),
        _ => None,
    });
    let request = FrameRequest {
        resource: buffer.resource_id(),
        format: frame.format,
        width: config.width,
        height: config.height,
        stride: buffer.stride(),
        damage: frame.damage,
        capture_ns: frame.capture_ns,
    };
    // The ring is handed to the tap once the size is known: a moment after Configured.
    let end = Instant::now() + ANSWER;
    let answer = loop {
        match mailbox.call(Operation::Frame(request), ANSWER) {
            Ok(answer)
                if matches!(answer.status, Status::NotBound | Status::TooLarge) && Instant::now() < end =>
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => break other,
        }
    };
    match answer {
        Ok(answer) if answer.status == Status::Ok => legs.push(Leg::ok(
            "read",
            format!("read by the tap in {:.2} ms on the VMM's thread", f64::from(answer.spent_ns) / 1e6),
        )),
        Ok(answer) => {
            legs.push(Leg::failed(
                "read",
                format!("the tap says {}", answer.status.label()),
                explain(answer.status),
            ));
            return;
        }
        Err(error) => {
            legs.push(Leg::failed("read", error.to_string(), "look at the VMM's log"));
            return;
        }
    }
    let unit = reached.wait(ANSWER, |message| match message {
        ServerMessage::AccessUnit(unit) => Some(unit),
        _ => None,
    });
    match (encoder, unit) {
        (Ok(encoder), Ok(unit)) => {
            let codec = encode::codec_string(&unit.data).unwrap_or_else(|| "no parameter sets".into());
            let detail = format!("{encoder}: {} bytes, {codec}, {} us", unit.data.len(), unit.encode_us);
            legs.push(Leg::ok("encode", detail));
            legs.push(decode(unit.data));
        }
        (Err(error), _) | (_, Err(error)) => {
            let remedy = "see host-agent doctor: which encoders work on that host?";
            legs.push(Leg::failed("encode", error, remedy));
        }
    }
    reached.upstream.send(ClientMessage::Bye);
}

/// What a viewer would make of the access unit.
fn decode(unit: Bytes) -> Leg {
    let begin = Instant::now();
    match snapshot::last_picture_as_png(&[unit]) {
        Ok(_) => Leg::ok("decode", format!("a picture after {:.1?}", begin.elapsed())),
        Err(error @ SnapshotError::NoDecoder) => Leg::skipped("decode", error.to_string()),
        Err(error) => {
            Leg::failed("decode", error.to_string(), "try another encoder: host-agent serve --encoder")
        }
    }
}
