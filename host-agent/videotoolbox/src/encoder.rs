//! The encoder: sessions made, set up, lost and made anew. Knows no thread but the caller's; what VideoToolbox says on
//! its own is [`flow`](crate::flow)'s.
//!
//! ```text
//!            create, set
//!   none ───────────────────▶ encoding ──set_rate──▶ encoding
//!    ▲                           │
//!    └── invalid, malfunction ───┘   the next picture makes a new session, which begins with an IDR
//! ```

use std::sync::{Arc, mpsc};

use bytes::{Bytes, BytesMut};
use encode::convert::{Plane, Planes, coded_side, convert};
use encode::encoder::PATIENCE;
use encode::null::keyframe_due;
use encode::{EncodeError, Encoder, Picture, PixelFormat, Settings, Sink, picture};

use crate::NAME;
use crate::admission::{Admission, Seat};
use crate::api::{Api, Deliver, Frame, Property, Session, Shape, Status};
use crate::flow::{Flow, MAX_FAILURES};

/// See the module.
#[derive(Debug)]
pub struct VideoToolbox {
    api: Arc<dyn Api>,
    settings: Settings,
    session: Option<Box<dyn Session>>,
    flow: Arc<Flow>,
    numbers: u64,
    last_idr_us: Option<u64>,
    last_pts_us: Option<u64>,
    rebuilt: u64,
    seat: Seat,
}

fn shape(settings: &Settings) -> Shape {
    Shape { width: coded_side(settings.width), height: coded_side(settings.height), codec: settings.codec }
}

/// What a session is told, in this order.
fn properties(settings: &Settings) -> [Property; 8] {
    let [bits, fps] = rate(settings);
    [
        Property::RealTime(true),
        Property::AllowFrameReordering(false),
        Property::MaxFrameDelayCount(0),
        // Keyframes are ours: by time, not by count.
        Property::MaxKeyFrameInterval(i32::MAX),
        Property::Profile(settings.codec),
        Property::Bt709,
        bits,
        fps,
    ]
}

/// No DataRateLimits: with RealTime they make it drop pictures.
fn rate(settings: &Settings) -> [Property; 2] {
    [
        Property::AverageBitRate(i64::from(settings.bitrate_kbps) * 1000),
        Property::ExpectedFrameRate(settings.max_fps as i32),
    ]
}

impl VideoToolbox {
    /// Makes the first session, or says why there can't be one.
    pub fn new(
        api: Arc<dyn Api>,
        admission: &Arc<Admission>,
        settings: Settings,
        sink: Sink,
    ) -> Result<Self, EncodeError> {
        picture::check_settings(&settings)?;
        let seat = admission.admit(&settings)?;
        let flow = Arc::new(Flow::new(settings.codec, sink));
        let mut encoder = Self {
            api,
            settings,
            session: None,
            flow,
            numbers: 0,
            last_idr_us: None,
            last_pts_us: None,
            rebuilt: 0,
            seat,
        };
        encoder.make_session()?;
        Ok(encoder)
    }

    /// Sessions that were lost and made anew.
    pub fn rebuilt(&self) -> u64 {
        self.rebuilt
    }

    /// Deliveries that nobody waited for.
    pub fn strays(&self) -> u64 {
        self.flow.strays()
    }

    fn make_session(&mut self) -> Result<(), EncodeError> {
        // The old one first: its service has few.
        if let Some(old) = self.session.take() {
            end(old, false);
        }
        let generation = self.flow.begin_session();
        let flow = Arc::downgrade(&self.flow);
        let deliver: Deliver = Arc::new(move |number, delivery| {
            if let Some(flow) = flow.upgrade() {
                flow.deliver(generation, number, delivery);
            }
        });
        let refused = |status: Status| match status {
            Status::NO_ENCODER => EncodeError::Unsupported(format!(
                "{status}: {:?} at {} x {}; ask for H.264, or a smaller picture",
                self.settings.codec, self.settings.width, self.settings.height
            )),
            _ => EncodeError::Broken(format!("no session: {status}")),
        };
        let mut session = self.api.create(shape(&self.settings), deliver).map_err(refused)?;
        for property in properties(&self.settings) {
            set(session.as_mut(), property)?;
        }
        self.session = Some(session);
        Ok(())
    }

    /// A session that was lost, made anew; an error if that leads nowhere.
    fn revive(&mut self) -> Result<(), EncodeError> {
        if self.flow.failures() >= MAX_FAILURES {
            return Err(EncodeError::Broken(format!("{MAX_FAILURES} pictures failed in a row")));
        }
        let Some(status) =
            self.flow.lost().or_else(|| self.session.is_none().then_some(Status::INVALID_SESSION))
        else {
            return Ok(());
        };
        tracing::info!(%status, "a new session");
        self.rebuilt += 1;
        self.make_session()
    }

    fn submit_once(&mut self, data: &Nv12, ticket: u64, pts_us: u64, idr: bool) -> Result<(), EncodeError> {
        self.revive()?;
        let due = keyframe_due(self.last_idr_us, pts_us, self.settings.keyframe_ms);
        let idr = idr || due || self.flow.wants_idr();
        self.numbers += 1;
        let number = self.numbers;
        self.flow.board(number, ticket, idr, PATIENCE)?;
        let Shape { width, height, .. } = shape(&self.settings);
        let frame =
            Frame { number, pts_us, idr, width, height, stride: data.stride, data: data.data.clone() };
        let Some(session) = &mut self.session else {
            self.flow.unboard(number);
            return Err(EncodeError::Broken("there is no session".to_owned()));
        };
        if let Err(status) = session.encode(&frame) {
            self.flow.unboard(number);
            if status.ends_the_session() {
                self.flow.lose(status);
            }
            return Err(EncodeError::Broken(status.to_string()));
        }
        if idr {
            self.last_idr_us = Some(pts_us);
        }
        Ok(())
    }
}

fn set(session: &mut dyn Session, property: Property) -> Result<(), EncodeError> {
    match session.set(property) {
        Err(status) if property.is_required() => {
            Err(EncodeError::Broken(format!("{property:?} was not taken: {status}")))
        }
        Err(status) => {
            tracing::debug!(?property, %status, "not taken");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Ends a session in a thread of its own: one that hangs must not take the caller along.
fn end(session: Box<dyn Session>, complete: bool) {
    let (done, ended) = mpsc::channel();
    let spawned = std::thread::Builder::new().name("vt-end".to_owned()).spawn(move || {
        let mut session = session;
        if complete && let Err(status) = session.complete() {
            tracing::debug!(%status, "what was under way did not come");
        }
        drop(session);
        // Nobody waits any more if it took too long.
        let _waits = done.send(());
    });
    if spawned.is_err() || ended.recv_timeout(PATIENCE).is_err() {
        tracing::warn!("a session of the encoder does not end; it is left behind");
    }
}

impl Encoder for VideoToolbox {
    fn name(&self) -> &'static str {
        NAME
    }

    fn submit(&mut self, picture: &Picture, ticket: u64, pts_us: u64, idr: bool) -> Result<(), EncodeError> {
        picture::check(picture, &self.settings)?;
        if self.last_pts_us.is_some_and(|last| pts_us <= last) {
            return Err(EncodeError::BadPicture("its time does not rise"));
        }
        let data = nv12(picture)?;
        self.last_pts_us = Some(pts_us);
        match self.submit_once(&data, ticket, pts_us, idr) {
            // The session was lost since the last picture: this one begins the next.
            Err(EncodeError::Broken(_)) if self.flow.lost().is_some() => {
                self.submit_once(&data, ticket, pts_us, true)
            }
            result => result,
        }
    }

    fn set_rate(&mut self, bitrate_kbps: u32, max_fps: u32) -> Result<(), EncodeError> {
        picture::check_rate(bitrate_kbps, max_fps)?;
        let settings = Settings { bitrate_kbps, max_fps, ..self.settings };
        self.seat.change(&settings)?;
        self.settings = settings;
        let Some(session) = &mut self.session else { return Ok(()) };
        for property in rate(&settings) {
            match session.set(property) {
                // The next session has it from the start.
                Err(status) if status.ends_the_session() => self.flow.lose(status),
                Err(status) => tracing::debug!(?property, %status, "not taken"),
                Ok(()) => {}
            }
        }
        Ok(())
    }
}

impl Drop for VideoToolbox {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            end(session, self.flow.lost().is_none());
        }
        self.flow.close();
    }
}

/// A picture as the encoder takes it.
struct Nv12 {
    stride: u32,
    data: Bytes,
}

/// NV12 of even sides as it is, without a copy; everything else converted.
fn nv12(picture: &Picture) -> Result<Nv12, EncodeError> {
    let even = picture.width.is_multiple_of(2) && picture.height.is_multiple_of(2);
    if picture.format == PixelFormat::Nv12 && even {
        return Ok(Nv12 { stride: picture.stride, data: picture.data.clone() });
    }
    let (width, height) = (coded_side(picture.width), coded_side(picture.height));
    // What the encoder's memory is read by: lines of 64 bytes.
    let stride = width.next_multiple_of(64);
    let luma = stride as usize * height as usize;
    let mut data = BytesMut::zeroed(luma * 3 / 2);
    let (y, uv) = data.split_at_mut(luma);
    convert(picture, &mut Planes::Nv12(Plane { data: y, stride }, Plane { data: uv, stride }))?;
    Ok(Nv12 { stride, data: data.freeze() })
}
