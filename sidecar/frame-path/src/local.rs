//! Rung `Local`: the sidecar encodes by itself, with whatever encoder GStreamer has here. Slow without a
//! GPU, but a picture; and the whole product on machines that are no VM of ours.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use encode::{Choice, EncodeError, Encoder, Output, Picture, Settings};
use protocol::stream::AccessUnit;

use crate::source_switch::{Source, SourceSwitch};

/// A still picture is encoded again this often.
pub const KEEP_ALIVE: Duration = Duration::from_millis(100);

/// What an access unit says that the encoder does not carry, in the order of submission.
#[derive(Debug, Clone, Copy)]
struct Ticket {
    number: u64,
    seq: u64,
    capture_ns: u64,
    repeat: bool,
}

type Tickets = Arc<Mutex<VecDeque<Ticket>>>;

/// A running encoder and the picture it saw last.
#[derive(Debug)]
pub struct Local {
    encoder: Box<dyn Encoder>,
    settings: Settings,
    tickets: Tickets,
    next: u64,
    last: Option<(Picture, u64)>,
    submitted: Instant,
    start: Instant,
    want_idr: bool,
}

impl Local {
    /// Starts an encoder; access units go to `switch`.
    pub fn start(choice: &Choice, settings: Settings, switch: Arc<SourceSwitch>) -> Result<Self, EncodeError> {
        let tickets = Tickets::default();
        let waiting = Arc::clone(&tickets);
        let sink = move |result: Result<Output, (u64, EncodeError)>| {
            let number = match &result {
                Ok(output) => output.ticket,
                Err((number, _)) => *number,
            };
            let Some(ticket) = take(&waiting, number) else { return };
            match result {
                Ok(output) => switch.offer(
                    Source::Local,
                    AccessUnit {
                        seq: ticket.seq,
                        capture_ns: ticket.capture_ns,
                        idr: output.idr,
                        repeat: ticket.repeat,
                        queue_us: 0,
                        encode_us: 0,
                        data: output.data,
                    },
                ),
                Err((_, error)) => tracing::warn!(seq = ticket.seq, %error, "a frame was not encoded"),
            }
        };
        let encoder = encode::open(choice, settings, Box::new(sink))?;
        let now = Instant::now();
        Ok(Self {
            encoder,
            settings,
            tickets,
            next: 1,
            last: None,
            submitted: now,
            start: now,
            want_idr: true,
        })
    }

    /// The encoder's name.
    pub fn name(&self) -> &str {
        self.encoder.name()
    }

    /// What it was started with.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// The next access unit will be an IDR.
    pub fn want_idr(&mut self) {
        self.want_idr = true;
    }

    /// Encodes a new picture.
    pub fn submit(&mut self, picture: Picture, seq: u64, capture_ns: u64) -> Result<(), EncodeError> {
        self.encode(&picture, seq, capture_ns, false)?;
        self.last = Some((picture, seq));
        Ok(())
    }

    /// Encodes the last picture again if that is due.
    pub fn keep_alive(&mut self) -> Result<(), EncodeError> {
        if self.submitted.elapsed() < KEEP_ALIVE && !self.want_idr {
            return Ok(());
        }
        let Some((picture, seq)) = self.last.take() else { return Ok(()) };
        let result = self.encode(&picture, seq, encode::clock::clock_ns(), true);
        self.last = Some((picture, seq));
        result
    }

    fn encode(
        &mut self,
        picture: &Picture,
        seq: u64,
        capture_ns: u64,
        repeat: bool,
    ) -> Result<(), EncodeError> {
        let number = self.next;
        self.next += 1;
        self.submitted = Instant::now();
        let pts_us = self.start.elapsed().as_micros() as u64;
        let ticket = Ticket { number, seq, capture_ns, repeat };
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner).push_back(ticket);
        self.encoder.submit(picture, number, pts_us, std::mem::take(&mut self.want_idr))
    }
}

/// The ticket of that number; older ones, whose pictures gave nothing, go.
fn take(tickets: &Tickets, number: u64) -> Option<Ticket> {
    let mut tickets = tickets.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some(ticket) = tickets.pop_front() {
        if ticket.number == number {
            return Some(ticket);
        }
    }
    None
}
