//! The desktop's state: which frame is on, which captures wait for one, and when the next may come.
//!
//! The number of the frame rises when captures are served, by one: all that wait at that moment get the
//! same frame. So a single client reads 1, 2, 3, … without a gap. While the picture is static the number
//! stays; a `copy` still gets it, a `copy_with_damage` waits for a number that its client's manager has
//! not had. What a capture *is* on the wire is `screencopy`'s business, memory is `buffers`'.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use wayland_server::Resource;
use wayland_server::backend::ObjectId;
use wayland_server::protocol::wl_buffer::WlBuffer;

use super::buffers::{Buffer, Canvas};
use super::screencopy::Capture;
use crate::Fault;
use crate::egl::GpuError;
use crate::pace::Pace;
use crate::painter::{Painter, Part, Target};

/// How late `--fault ready-before-draw` draws.
const LATE: Duration = Duration::from_millis(500);

/// All that the compositor knows.
pub struct Desktop {
    /// Width and height in pixels.
    pub size: (u32, u32),
    /// Clients' buffers by their `wl_buffer`, as far as they have been drawn to.
    pub canvases: HashMap<ObjectId, Canvas>,
    /// Captures that wait for a frame.
    pub waiting: Vec<Capture>,
    pub painter: Painter,
    /// Where frames for SHM are drawn before they are read.
    offscreen: Target,
    pace: Pace,
    fault: Option<Fault>,
    late: Vec<(Instant, WlBuffer, u32)>,
    log: bool,
}

impl Desktop {
    pub fn new(
        painter: Painter,
        size: (u32, u32),
        pace: Pace,
        fault: Option<Fault>,
        log: bool,
    ) -> Result<Self, GpuError> {
        Ok(Self {
            size,
            canvases: HashMap::new(),
            waiting: Vec::new(),
            offscreen: painter.offscreen(size.0, size.1)?,
            painter,
            pace,
            fault,
            late: Vec::new(),
            log,
        })
    }

    /// SIGUSR1: starts or stops changing.
    pub fn toggle(&mut self) {
        self.pace.toggle();
    }

    /// Serves what is due; returns when it has to be called again if nothing else happens.
    pub fn turn(&mut self, now: Instant) -> Option<Instant> {
        let (due, later) = std::mem::take(&mut self.late).into_iter().partition(|(at, ..)| *at <= now);
        self.late = later;
        for (_, buffer, number) in due {
            // The buffer may be gone by now, and then so is the fault.
            let _ = self.paint(&buffer, number, Part::Whole);
        }
        let (number, is_static) = (self.pace.number(), self.pace.is_static());
        let is_due =
            |capture: &Capture| !is_static || !capture.with_damage || capture.last_number() != number;
        let mut next = self.waiting.iter().any(is_due).then(|| self.pace.next_at());
        if next.is_some_and(|at| at <= now) {
            let (due, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(is_due);
            self.waiting = waiting;
            self.frame(due, now);
            next = None;
        }
        next.into_iter().chain(self.late.iter().map(|(at, ..)| *at)).min()
    }

    fn frame(&mut self, captures: Vec<Capture>, now: Instant) {
        let number = self.pace.beat(now);
        for capture in captures {
            let begun = Instant::now();
            if self.fault == Some(Fault::ReadyBeforeDraw) {
                self.late.push((begun + LATE, capture.buffer.clone(), number));
            } else if let Err(error) = self.paint(&capture.buffer, number, Part::Whole) {
                eprintln!("pattern: frame {number} failed: {error}");
                capture.fail();
                continue;
            }
            let painted = begun.elapsed();
            capture.ready(number, self.size);
            if self.fault == Some(Fault::Tear) {
                // Before `ready` is on the wire, so that every reader sees it.
                let _ = self.paint(&capture.buffer, number.wrapping_add(1), Part::TopHalf);
            }
            if self.log {
                let kind = capture.buffer.data::<Buffer>().map_or("gone", Buffer::kind);
                eprintln!("pattern: frame {number} {kind} {} us", painted.as_micros());
            }
        }
    }

    fn paint(&mut self, buffer: &WlBuffer, number: u32, part: Part) -> Result<(), PaintError> {
        let data = buffer.data::<Buffer>().filter(|_| buffer.is_alive()).ok_or(PaintError::Gone)?;
        let canvas = match self.canvases.entry(buffer.id()) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(data.canvas()?),
        };
        canvas.paint(&self.painter, &self.offscreen, number, part)
    }
}

/// Why a frame could not be drawn into a client's buffer.
#[derive(Debug, thiserror::Error)]
pub enum PaintError {
    #[error("the client destroyed the buffer")]
    Gone,
    #[error("the client's memory is smaller than its buffer")]
    Short,
    #[error("the client's memory: {0}")]
    Memory(#[from] std::io::Error),
}
