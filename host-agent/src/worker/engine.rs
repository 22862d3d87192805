//! The encoder of one session, and what happens when it breaks: it is made anew once, beginning with an
//! IDR; if the new one breaks within [`GRACE`], the session is told and stays without encoder until it is
//! configured again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use encode::{EncodeError, Encoder, Settings, Sink};
use protocol::stream::Config;
use frame_ring::clock::monotonic_ns;

use super::flight::{Flight, Passenger};
use super::source::Fresh;
use crate::meter::{Count, Meter};
use crate::outbox::Outbox;
use crate::waker::Waker;

/// An encoder that breaks again within this time is not worth a third try.
const GRACE: Duration = Duration::from_secs(10);
/// Pictures under way at once: an encoder on a chip takes the next while it finishes the last.
const UNDER_WAY: usize = 2;
/// An encoder that keeps a picture for so long is broken.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes an encoder.
pub(super) type Opener = Box<dyn FnMut(Settings, Sink) -> Result<Box<dyn Encoder>, EncodeError> + Send>;

/// See the module.
pub(super) struct Engine {
    open: Opener,
    settings: Option<Settings>,
    encoder: Option<Box<dyn Encoder>>,
    flight: Arc<Flight>,
    meter: Meter,
    started: Instant,
    last_pts_us: u64,
    tickets: u64,
    broke: Option<Instant>,
}

impl Engine {
    pub(super) fn new(open: Opener, outbox: Arc<Outbox>, meter: Meter, waker: Waker) -> Self {
        Self {
            open,
            settings: None,
            encoder: None,
            flight: Arc::new(Flight::new(outbox, meter.clone(), waker)),
            meter,
            started: Instant::now(),
            last_pts_us: 0,
            tickets: 0,
            broke: None,
        }
    }

    /// Makes the encoder for a configuration; gives its name.
    pub(super) fn configure(&mut self, config: &Config) -> Result<String, EncodeError> {
        self.broke = None;
        self.settings = Some(Settings {
            width: config.width.into(),
            height: config.height.into(),
            codec: config.codec,
            bitrate_kbps: config.bitrate_kbps,
            max_fps: config.max_fps.into(),
            keyframe_ms: config.keyframe_ms,
        });
        self.make()
    }

    /// Makes the encoder anew; its first access unit is an IDR.
    fn make(&mut self) -> Result<String, EncodeError> {
        // The old one first: it joins its threads, and chips have few sessions.
        self.encoder = None;
        self.flight.clear();
        let settings =
            self.settings.ok_or_else(|| EncodeError::Unsupported("nothing is configured".to_owned()))?;
        let flight = Arc::clone(&self.flight);
        let encoder = (self.open)(settings, Box::new(move |output| flight.landed(output)))?;
        let name = encoder.name().to_owned();
        tracing::info!(encoder = name, ?settings, "encoder ready");
        self.encoder = Some(encoder);
        Ok(name)
    }

    pub(super) fn set_rate(&mut self, bitrate_kbps: u32, max_fps: u32) -> Result<(), EncodeError> {
        if let Some(encoder) = &mut self.encoder {
            encoder.set_rate(bitrate_kbps, max_fps)?;
        }
        if let Some(settings) = &mut self.settings {
            (settings.bitrate_kbps, settings.max_fps) = (bitrate_kbps, max_fps);
        }
        Ok(())
    }

    /// Whether it would take a picture now.
    pub(super) fn is_ready(&self) -> bool {
        self.encoder.is_some() && self.flight.under_way().0 < UNDER_WAY
    }

    /// How long to wait at most before [`Engine::check`] should look again; `None` if nothing is under way.
    pub(super) fn patience(&self) -> Option<Duration> {
        let (count, oldest) = self.flight.under_way();
        (count > 0).then(|| PATIENCE.saturating_sub(oldest) + Duration::from_millis(1))
    }

    /// The whole process stood still: the encoder could not do better.
    pub(super) fn pardon(&self) {
        self.flight.pardon();
    }

    /// Replaces an encoder that hangs. Gives a text if that failed.
    pub(super) fn check(&mut self) -> Option<String> {
        let (_, oldest) = self.flight.under_way();
        if self.encoder.is_none() || oldest <= PATIENCE {
            return None;
        }
        self.replace(&EncodeError::Broken(format!("it kept a picture for {oldest:?}"))).err()
    }

    /// Has a picture encoded. `Err(None)`: this picture is bad. `Err(Some(text))`: there is no encoder any
    /// more.
    pub(super) fn encode(&mut self, fresh: &Fresh, idr: bool, repeat: bool) -> Result<(), Option<String>> {
        match self.submit(fresh, idr, repeat) {
            Ok(()) => Ok(()),
            Err(EncodeError::BadPicture(why)) => {
                tracing::debug!(seq = fresh.seq, why, "a picture is refused");
                Err(None)
            }
            Err(error) => {
                self.replace(&error).map_err(Some)?;
                self.submit(fresh, true, repeat).map_err(|again| Some(self.give_up(&again)))
            }
        }
    }

    fn submit(&mut self, fresh: &Fresh, idr: bool, repeat: bool) -> Result<(), EncodeError> {
        let Some(encoder) = &mut self.encoder else {
            return Err(EncodeError::Broken("there is no encoder".to_owned()));
        };
        self.tickets += 1;
        let ticket = self.tickets;
        let pts_us = (self.started.elapsed().as_micros() as u64).max(self.last_pts_us + 1);
        self.last_pts_us = pts_us;
        self.flight.board(Passenger {
            ticket,
            seq: fresh.seq,
            capture_ns: fresh.capture_ns,
            repeat,
            queue_us: if repeat { 0 } else { monotonic_ns().saturating_sub(fresh.since_ns) / 1000 },
            since: Instant::now(),
        });
        encoder.submit(&fresh.picture, ticket, pts_us, idr).inspect_err(|_| self.flight.unboard(ticket))
    }

    fn replace(&mut self, error: &EncodeError) -> Result<(), String> {
        self.meter.add(Count::EncoderFailure, 1);
        if self.broke.is_some_and(|before| before.elapsed() < GRACE) {
            return Err(self.give_up(error));
        }
        tracing::warn!(%error, "the encoder broke; making a new one");
        self.broke = Some(Instant::now());
        self.make().map(drop).map_err(|again| self.give_up(&again))
    }

    fn give_up(&mut self, error: &EncodeError) -> String {
        tracing::error!(%error, "the encoder broke again; this session has none until it is configured anew");
        self.encoder = None;
        self.flight.clear();
        format!(
            "{error}; configure again, or choose another encoder with --encoder (see `host-agent doctor`)"
        )
    }
}

#[cfg(test)]
mod tests;
