//! Events of the connection and of capture.

use std::time::Instant;

use capture::CaptureEvent;
use contract::HostAgentConnection;
use protocol::stream::{ErrorCode, ServerMessage};

use super::Pump;
use crate::fallback::{Binding, Connection};
use crate::upstream::Event;

impl Pump {
    pub(super) fn on_capture_events(&mut self) {
        while let Some(event) = self.parts.capture.try_event() {
            match event {
                CaptureEvent::Negotiated(negotiated) => self.parts.report.update(|status| {
                    let capture = &mut status.capture;
                    capture.source = negotiated.source;
                    capture.offered = negotiated.offered;
                    capture.negotiated = negotiated.chosen;
                    capture.shm_reason =
                        negotiated.shm_reason.map(|reason| reason.to_string()).unwrap_or_default();
                    capture.error.clear();
                }),
                CaptureEvent::Lost(error) => {
                    tracing::warn!(%error, "capture lost; waiting for the desktop");
                    // The compositor's buffers are gone with it.
                    self.frames.discard_newest();
                    self.parts.report.update(|status| status.capture.error = error.to_string());
                }
            }
        }
    }

    pub(super) fn on_event(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Connected(session) => {
                self.fallback.connection = Connection::Up { max_pixels: session.max_pixels };
                self.fallback.no_encoder = None;
                if !matches!(self.fallback.binding, Binding::Unavailable(_)) {
                    self.fallback.binding = Binding::Untried;
                }
                let connected = HostAgentConnection::Connected {
                    endpoint: session.endpoint.clone(),
                    server: session.server.clone(),
                };
                self.parts.report.update(|status| status.host_agent = connected);
                self.session = Some(session);
                self.configured = None;
                self.frames.interrupt(None);
            }
            Event::Disconnected(error) => {
                let since = match &self.fallback.connection {
                    Connection::Down { since, .. } => *since,
                    Connection::Up { .. } => {
                        tracing::warn!(%error, "connection to host-agent lost");
                        now
                    }
                    Connection::Absent => now,
                };
                self.parts.report.update(|status| status.host_agent = error.connection());
                self.fallback.connection = Connection::Down { since, error: error.to_string() };
                self.session = None;
                self.frames.interrupt(None);
            }
            Event::Message(message) => self.on_message(message, now),
        }
    }

    fn on_message(&mut self, message: ServerMessage, now: Instant) {
        match message {
            ServerMessage::Bound { context, vm, .. } => {
                tracing::info!(context, vm, "session bound to GPU context");
                self.fallback.binding = Binding::Bound;
                self.frames.resubmit();
            }
            ServerMessage::Unbound { reason } => {
                tracing::warn!(reason, "session unbound");
                self.fallback.binding = Binding::Failed { at: now, error: reason };
                self.frames.interrupt(None);
            }
            ServerMessage::Configured { encoder } => {
                self.parts.report.update(|status| status.encoder = encoder);
            }
            ServerMessage::AccessUnit(unit) if !unit.repeat => self.frames.encoded(unit.seq),
            ServerMessage::Dropped { seq } => self.frames.dropped_by_host_agent(seq),
            ServerMessage::Error { code: ErrorCode::Encoder, message } => {
                tracing::warn!(message, "host-agent cannot encode the stream");
                self.fallback.no_encoder = Some(message);
                self.frames.resubmit();
            }
            ServerMessage::Error { code, message } => tracing::warn!(?code, message, "host-agent error"),
            ServerMessage::AccessUnit(_) | ServerMessage::HelloAck { .. } | ServerMessage::Pong(_) => {}
        }
    }
}
