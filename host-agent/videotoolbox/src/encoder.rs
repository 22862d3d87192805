//! The encoder: creates and configures compression sessions, and replaces one that was lost.
//!
//! ```text
//!            create, set
//!   none ───────────────────▶ encoding ──set_rate──▶ encoding
//!    ▲                           │
//!    └── invalid, malfunction ───┘   the next picture creates a new session, which starts with an IDR
//! ```
//!
//! All functions run on the caller's thread; [`completion_queue`](crate::completion_queue) handles the
//! callbacks on VideoToolbox's threads.

use std::sync::{Arc, mpsc};

use bytes::{Bytes, BytesMut};
use encode::convert::{Plane, Planes, coded_side, convert};
use encode::encoder::ENCODE_TIMEOUT;
use encode::null::keyframe_due;
use encode::{EncodeError, Encoder, Picture, PixelFormat, Settings, Sink, picture};

use crate::NAME;
use crate::admission::{Admission, Reservation};
use crate::api::{Api, Deliver, Frame, Property, Session, Shape, Status};
use crate::completion_queue::{CompletionQueue, MAX_FAILURES};

/// A VideoToolbox encoder.
#[derive(Debug)]
pub struct VideoToolbox {
    api: Arc<dyn Api>,
    settings: Settings,
    session: Option<Box<dyn Session>>,
    queue: Arc<CompletionQueue>,
    /// Number of the last submitted picture.
    last_number: u64,
    last_idr_us: Option<u64>,
    last_pts_us: Option<u64>,
    sessions_replaced: u64,
    reservation: Reservation,
}

fn shape(settings: &Settings) -> Shape {
    Shape { width: coded_side(settings.width), height: coded_side(settings.height), codec: settings.codec }
}

/// Properties of a new session, in the order in which they are set.
fn properties(settings: &Settings) -> [Property; 8] {
    let [bits, fps] = rate(settings);
    [
        Property::RealTime(true),
        Property::AllowFrameReordering(false),
        Property::MaxFrameDelayCount(0),
        // IDRs are requested by time instead (`keyframe_due`).
        Property::MaxKeyFrameInterval(i32::MAX),
        Property::Profile(settings.codec),
        Property::Bt709,
        bits,
        fps,
    ]
}

/// Rate properties. DataRateLimits is not set: with RealTime it makes VideoToolbox drop pictures.
fn rate(settings: &Settings) -> [Property; 2] {
    [
        Property::AverageBitRate(i64::from(settings.bitrate_kbps) * 1000),
        Property::ExpectedFrameRate(settings.max_fps as i32),
    ]
}

impl VideoToolbox {
    /// Opens an encoder with its first session.
    ///
    /// # Errors
    /// If the settings are not supported, the encoder has no capacity left, or the session cannot be created.
    pub fn new(
        api: Arc<dyn Api>,
        admission: &Arc<Admission>,
        settings: Settings,
        sink: Sink,
    ) -> Result<Self, EncodeError> {
        picture::check_settings(&settings)?;
        let reservation = admission.reserve(&settings)?;
        let queue = Arc::new(CompletionQueue::new(settings.codec, sink));
        let mut encoder = Self {
            api,
            settings,
            session: None,
            queue,
            last_number: 0,
            last_idr_us: None,
            last_pts_us: None,
            sessions_replaced: 0,
            reservation,
        };
        encoder.create_session()?;
        Ok(encoder)
    }

    /// Number of sessions that were lost and replaced.
    pub fn sessions_replaced(&self) -> u64 {
        self.sessions_replaced
    }

    /// Number of callbacks that matched no picture in flight.
    pub fn unmatched_deliveries(&self) -> u64 {
        self.queue.unmatched()
    }

    fn create_session(&mut self) -> Result<(), EncodeError> {
        // The old session first: the encoder service supports few.
        if let Some(old) = self.session.take() {
            end(old, false);
        }
        let generation = self.queue.begin_session();
        let queue = Arc::downgrade(&self.queue);
        let deliver: Deliver = Arc::new(move |number, delivery| {
            if let Some(queue) = queue.upgrade() {
                queue.deliver(generation, number, delivery);
            }
        });
        let refused = |status: Status| match status {
            Status::NO_ENCODER => EncodeError::Unsupported(format!(
                "{status}: {:?} at {} x {}; use H.264 or a smaller size",
                self.settings.codec, self.settings.width, self.settings.height
            )),
            _ => EncodeError::Broken(format!("failed to create a session: {status}")),
        };
        let mut session = self.api.create(shape(&self.settings), deliver).map_err(refused)?;
        for property in properties(&self.settings) {
            set(session.as_mut(), property)?;
        }
        self.session = Some(session);
        Ok(())
    }

    /// Replaces a lost session. An error if too many pictures failed in a row.
    fn replace_lost_session(&mut self) -> Result<(), EncodeError> {
        if self.queue.failures() >= MAX_FAILURES {
            return Err(EncodeError::Broken(format!("{MAX_FAILURES} pictures failed in a row")));
        }
        let Some(status) =
            self.queue.lost().or_else(|| self.session.is_none().then_some(Status::INVALID_SESSION))
        else {
            return Ok(());
        };
        tracing::info!(%status, "replacing lost encoder session");
        self.sessions_replaced += 1;
        self.create_session()
    }

    fn submit_once(&mut self, data: &Nv12, ticket: u64, pts_us: u64, idr: bool) -> Result<(), EncodeError> {
        self.replace_lost_session()?;
        let due = keyframe_due(self.last_idr_us, pts_us, self.settings.keyframe_ms);
        let idr = idr || due || self.queue.needs_idr();
        self.last_number += 1;
        let number = self.last_number;
        self.queue.begin(number, ticket, idr, ENCODE_TIMEOUT)?;
        let Shape { width, height, .. } = shape(&self.settings);
        let frame =
            Frame { number, pts_us, idr, width, height, stride: data.stride, data: data.data.clone() };
        let Some(session) = &mut self.session else {
            self.queue.cancel(number);
            return Err(EncodeError::Broken("no session".to_owned()));
        };
        if let Err(status) = session.encode(&frame) {
            self.queue.cancel(number);
            if status.ends_the_session() {
                self.queue.mark_lost(status);
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
            Err(EncodeError::Broken(format!("failed to set {property:?}: {status}")))
        }
        Err(status) => {
            tracing::debug!(?property, %status, "session property refused");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Ends a session on a separate thread, so that a session that hangs does not block the caller.
fn end(session: Box<dyn Session>, complete: bool) {
    let (done, ended) = mpsc::channel();
    let spawned = std::thread::Builder::new().name("vt-end".to_owned()).spawn(move || {
        let mut session = session;
        if complete && let Err(status) = session.complete() {
            tracing::debug!(%status, "pictures in flight were lost");
        }
        drop(session);
        // Fails if the caller has stopped waiting.
        let _timed_out = done.send(());
    });
    if spawned.is_err() || ended.recv_timeout(ENCODE_TIMEOUT).is_err() {
        tracing::warn!("encoder session does not end; abandoned");
    }
}

impl Encoder for VideoToolbox {
    fn name(&self) -> &'static str {
        NAME
    }

    fn submit(&mut self, picture: &Picture, ticket: u64, pts_us: u64, idr: bool) -> Result<(), EncodeError> {
        picture::check(picture, &self.settings)?;
        if self.last_pts_us.is_some_and(|last| pts_us <= last) {
            return Err(EncodeError::BadPicture("the time stamp does not rise"));
        }
        let data = nv12(picture)?;
        self.last_pts_us = Some(pts_us);
        match self.submit_once(&data, ticket, pts_us, idr) {
            // The session was lost since the last picture: this picture starts the next session.
            Err(EncodeError::Broken(_)) if self.queue.lost().is_some() => {
                self.submit_once(&data, ticket, pts_us, true)
            }
            result => result,
        }
    }

    fn set_rate(&mut self, bitrate_kbps: u32, max_fps: u32) -> Result<(), EncodeError> {
        picture::check_rate(bitrate_kbps, max_fps)?;
        let settings = Settings { bitrate_kbps, max_fps, ..self.settings };
        self.reservation.change(&settings)?;
        self.settings = settings;
        let Some(session) = &mut self.session else { return Ok(()) };
        for property in rate(&settings) {
            match session.set(property) {
                // The next session is created with the new rate.
                Err(status) if status.ends_the_session() => self.queue.mark_lost(status),
                Err(status) => tracing::debug!(?property, %status, "session property refused"),
                Ok(()) => {}
            }
        }
        Ok(())
    }
}

impl Drop for VideoToolbox {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            end(session, self.queue.lost().is_none());
        }
        self.queue.close();
    }
}

/// A picture in the encoder's input format.
struct Nv12 {
    stride: u32,
    data: Bytes,
}

/// NV12 with even sides is used without a copy; other pictures are converted.
fn nv12(picture: &Picture) -> Result<Nv12, EncodeError> {
    let even = picture.width.is_multiple_of(2) && picture.height.is_multiple_of(2);
    if picture.format == PixelFormat::Nv12 && even {
        return Ok(Nv12 { stride: picture.stride, data: picture.data.clone() });
    }
    let (width, height) = (coded_side(picture.width), coded_side(picture.height));
    // Aligned to cache lines, for the encoder's memory accesses.
    let stride = width.next_multiple_of(64);
    let luma = stride as usize * height as usize;
    let mut data = BytesMut::zeroed(luma * 3 / 2);
    let (y, uv) = data.split_at_mut(luma);
    convert(picture, &mut Planes::Nv12(Plane { data: y, stride }, Plane { data: uv, stride }))?;
    Ok(Nv12 { stride, data: data.freeze() })
}
