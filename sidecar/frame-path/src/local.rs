//! Frame path `Local`: encoding in this process, with the best encoder that GStreamer offers.
//!
//! This is the path without a host-agent, on any Linux machine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use encode::in_flight::InFlight;
use encode::{Choice, EncodeError, Encoder, Output, Picture, Settings};
use parking_lot::Mutex;
use protocol::stream::AccessUnit;

use crate::report::Report;
use crate::source_switch::{Source, SourceSwitch};

/// Interval at which an unchanged picture is encoded again.
pub const REPEAT_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum number of pictures inside the encoder. Encoders return a picture's access unit before they accept the next
/// picture but one.
const MAX_IN_FLIGHT: usize = 8;

/// Fields of an access unit that the encoder does not carry.
#[derive(Debug, Clone, Copy)]
struct Metadata {
    seq: u64,
    capture_ns: u64,
    repeat: bool,
}

type Pending = Arc<Mutex<InFlight<Metadata>>>;

/// Running encoder and the last picture it was given.
#[derive(Debug)]
pub struct Local {
    encoder: Box<dyn Encoder>,
    settings: Settings,
    pending: Pending,
    report: Arc<Report>,
    next_ticket: u64,
    last: Option<(Picture, u64)>,
    submitted: Instant,
    start: Instant,
    want_idr: bool,
}

impl Local {
    /// Starts an encoder. Access units go to `switch`, failures and dropped frames to `report`.
    pub fn start(
        choice: &Choice,
        settings: Settings,
        switch: Arc<SourceSwitch>,
        report: Arc<Report>,
    ) -> Result<Self, EncodeError> {
        let pending = Pending::new(Mutex::new(InFlight::new(MAX_IN_FLIGHT)));
        let sink = {
            let (pending, report) = (Arc::clone(&pending), Arc::clone(&report));
            move |result| on_output(&pending, &switch, &report, result)
        };
        let encoder = encode::open(choice, settings, Box::new(sink))?;
        let now = Instant::now();
        Ok(Self {
            encoder,
            settings,
            pending,
            report,
            next_ticket: 1,
            last: None,
            submitted: now,
            start: now,
            want_idr: true,
        })
    }

    /// Name of the encoder.
    pub fn name(&self) -> &str {
        self.encoder.name()
    }

    /// Settings it was started with.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Makes the next access unit an IDR.
    pub fn want_idr(&mut self) {
        self.want_idr = true;
    }

    /// Encodes a new picture.
    pub fn submit(&mut self, picture: Picture, seq: u64, capture_ns: u64) -> Result<(), EncodeError> {
        self.encode(&picture, Metadata { seq, capture_ns, repeat: false })?;
        self.last = Some((picture, seq));
        Ok(())
    }

    /// Encodes the last picture again if [`REPEAT_INTERVAL`] has passed or an IDR was requested.
    pub fn repeat_if_due(&mut self) -> Result<(), EncodeError> {
        if self.submitted.elapsed() < REPEAT_INTERVAL && !self.want_idr {
            return Ok(());
        }
        let Some((picture, seq)) = self.last.take() else { return Ok(()) };
        let result =
            self.encode(&picture, Metadata { seq, capture_ns: encode::clock::clock_ns(), repeat: true });
        self.last = Some((picture, seq));
        result
    }

    fn encode(&mut self, picture: &Picture, metadata: Metadata) -> Result<(), EncodeError> {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.submitted = Instant::now();
        let pts_us = self.start.elapsed().as_micros() as u64;
        {
            let mut pending = self.pending.lock();
            if pending.is_full() {
                count_dropped(&self.report, pending.complete_oldest().map(|entry| entry.value).into_iter());
            }
            // Cannot fail: there is room for one.
            let _ = pending.begin(ticket, metadata, self.submitted);
        }
        let result = self.encoder.submit(picture, ticket, pts_us, std::mem::take(&mut self.want_idr));
        if result.is_err() {
            // The frame is submitted again to a new encoder, so it is not counted as dropped.
            self.pending.lock().complete(ticket);
        }
        result
    }
}

/// Handles an access unit, or the failure of one picture, on the encoder's thread.
fn on_output(
    pending: &Pending,
    switch: &SourceSwitch,
    report: &Report,
    result: Result<Output, (u64, EncodeError)>,
) {
    let ticket = match &result {
        Ok(output) => output.ticket,
        Err((ticket, _)) => *ticket,
    };
    let mut completed: Vec<Metadata> =
        pending.lock().complete_through(ticket).map(|entry| entry.value).collect();
    let Some(metadata) = completed.pop() else { return };
    // Older pictures produced no access unit.
    count_dropped(report, completed.into_iter());
    match result {
        Ok(output) => switch.offer(
            Source::Local,
            AccessUnit {
                seq: metadata.seq,
                capture_ns: metadata.capture_ns,
                idr: output.idr,
                repeat: metadata.repeat,
                queue_us: 0,
                encode_us: 0,
                data: output.data,
            },
        ),
        Err((_, error)) => {
            tracing::warn!(seq = metadata.seq, %error, "local encoder failed to encode a frame");
            count_dropped(report, std::iter::once(metadata));
        }
    }
}

/// Counts the new frames among `pictures` as dropped by the local encoder.
fn count_dropped(report: &Report, pictures: impl Iterator<Item = Metadata>) {
    let new = pictures.filter(|metadata| !metadata.repeat).count() as u64;
    if new > 0 {
        report.dropped(|drops| drops.local_encoder += new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source_switch::DiscardUnits;

    fn output(ticket: u64) -> Output {
        Output { ticket, idr: false, data: bytes::Bytes::from_static(b"unit") }
    }

    #[test]
    fn pictures_without_access_unit_are_counted_as_dropped() {
        let report = Arc::new(Report::new("test".into()));
        let switch = SourceSwitch::new(DiscardUnits, Arc::clone(&report));
        switch.select(Source::Local);
        let pending = Pending::new(Mutex::new(InFlight::new(MAX_IN_FLIGHT)));
        for (ticket, repeat) in [(1, false), (2, true), (3, false), (4, false)] {
            let metadata = Metadata { seq: ticket, capture_ns: 0, repeat };
            pending.lock().begin(ticket, metadata, Instant::now()).expect("there is room");
        }
        // Passes over 1, which is dropped, and 2, which repeats a picture.
        on_output(&pending, &switch, &report, Ok(output(3)));
        on_output(&pending, &switch, &report, Err((4, EncodeError::BadPicture("test"))));
        let frames = report.status(0, 0).frames;
        assert_eq!((frames.encoded, frames.drops.local_encoder, frames.dropped), (1, 2, 2));
    }
}
