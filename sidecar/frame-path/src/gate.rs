//! The gate before the viewers: access units of one source at a time, beginning with an IDR.
//!
//! The host-agent's encoder and the local one both end here. Changing over never breaks a viewer: what the
//! other source still sends is dropped, and the hub leaves out what comes before the new one's first IDR.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::stream::AccessUnit;

use encode::clock::clock_ns;
use crate::report::Report;
use viewers::Hub;

/// Who encodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The host-agent.
    HostAgent,
    /// The sidecar itself.
    Local,
}

/// The gate.
#[derive(Debug)]
pub struct Gate {
    open: Mutex<Option<Source>>,
    hub: Hub,
    report: Arc<Report>,
}

impl Gate {
    /// A closed gate before `hub`.
    pub fn new(hub: Hub, report: Arc<Report>) -> Self {
        Self { open: Mutex::new(None), hub, report }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Source>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `source` through, and nobody else, from its next IDR on.
    pub fn open(&self, source: Source) {
        let mut open = self.lock();
        if *open != Some(source) {
            *open = Some(source);
            self.hub.discontinuity();
        }
    }

    /// The open source's encoder is a new one.
    pub fn new_encoder(&self) {
        self.hub.discontinuity();
    }

    /// Who is let through.
    pub fn source(&self) -> Option<Source> {
        *self.lock()
    }

    /// Passes on or drops an access unit.
    pub fn offer(&self, source: Source, unit: AccessUnit) {
        let open = self.lock();
        if *open != Some(source) {
            return;
        }
        let latency =
            (!unit.repeat).then(|| Duration::from_nanos(clock_ns().saturating_sub(unit.capture_ns)));
        self.report.access_unit(unit.data.len(), latency);
        // Published under the lock: units of two sources must not overtake each other.
        self.hub.publish(unit);
    }
}
