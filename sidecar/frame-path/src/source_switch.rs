//! Selects which encoder's access units reach the viewers.
//!
//! The host-agent's encoder and the local one may both be producing while the frame path changes. Units of the
//! source that is not selected are discarded, and the sink is notified of the discontinuity, so that viewers resume
//! at the next IDR of the selected source.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use encode::clock::clock_ns;
use parking_lot::Mutex;
use protocol::stream::AccessUnit;

use crate::report::Report;

/// Origin of access units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Encoder of the host-agent.
    HostAgent,
    /// Encoder in this process.
    Local,
}

/// Consumer of the selected source's access units. Must not block.
pub trait UnitSink: Send + Sync + fmt::Debug {
    /// Delivers one access unit, in decoding order.
    fn publish(&self, unit: AccessUnit);
    /// Announces that the next units come from another encoder and start with an IDR.
    fn discontinuity(&self);
}

/// Discards access units, for callers that take them from the connection themselves.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiscardUnits;

impl UnitSink for DiscardUnits {
    fn publish(&self, _: AccessUnit) {}
    fn discontinuity(&self) {}
}

/// Forwards access units of one source at a time.
#[derive(Debug)]
pub struct SourceSwitch {
    selected: Mutex<Option<Source>>,
    sink: Box<dyn UnitSink>,
    report: Arc<Report>,
}

impl SourceSwitch {
    /// Creates a switch with no source selected: every unit is discarded.
    pub fn new(sink: impl UnitSink + 'static, report: Arc<Report>) -> Self {
        Self { selected: Mutex::new(None), sink: Box::new(sink), report }
    }

    /// Selects `source`. The sink sees a discontinuity if another one was selected before.
    pub fn select(&self, source: Source) {
        let mut selected = self.selected.lock();
        if *selected != Some(source) {
            *selected = Some(source);
            self.sink.discontinuity();
        }
    }

    /// Announces that the selected source's encoder was replaced.
    pub fn encoder_replaced(&self) {
        self.sink.discontinuity();
    }

    /// The selected source.
    pub fn selected(&self) -> Option<Source> {
        *self.selected.lock()
    }

    /// Forwards `unit` if `source` is selected, else discards it.
    pub fn offer(&self, source: Source, unit: AccessUnit) {
        // Held while publishing, so that units of two sources cannot interleave.
        let selected = self.selected.lock();
        if *selected != Some(source) {
            return;
        }
        let latency =
            (!unit.repeat).then(|| Duration::from_nanos(clock_ns().saturating_sub(unit.capture_ns)));
        self.report.access_unit(unit.data.len(), latency);
        self.sink.publish(unit);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Recorder(Arc<Mutex<Vec<String>>>);

    impl UnitSink for Recorder {
        fn publish(&self, unit: AccessUnit) {
            self.0.lock().push(format!("unit {}", unit.seq));
        }
        fn discontinuity(&self) {
            self.0.lock().push("discontinuity".to_owned());
        }
    }

    fn unit(seq: u64) -> AccessUnit {
        AccessUnit {
            seq,
            capture_ns: 0,
            idr: true,
            repeat: false,
            queue_us: 0,
            encode_us: 0,
            data: Bytes::new(),
        }
    }

    #[test]
    fn units_of_unselected_source_are_discarded() {
        let recorder = Recorder::default();
        let switch = SourceSwitch::new(recorder.clone(), Arc::new(Report::new("test".into())));
        switch.offer(Source::Local, unit(1));
        switch.select(Source::HostAgent);
        switch.offer(Source::Local, unit(2));
        switch.offer(Source::HostAgent, unit(3));
        switch.select(Source::HostAgent);
        switch.select(Source::Local);
        switch.offer(Source::HostAgent, unit(4));
        switch.offer(Source::Local, unit(5));
        assert_eq!(*recorder.0.lock(), ["discontinuity", "unit 3", "discontinuity", "unit 5"]);
    }
}
