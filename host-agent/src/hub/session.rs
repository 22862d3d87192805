//! A session's handles: what other parts may do to it from outside.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use protocol::stream::ErrorCode;
use tokio::sync::Notify;

use super::Nonce;
use crate::inbox::Inbox;
use crate::meter::Meter;
use crate::outbox::Outbox;
use crate::worker::Report;

/// See the module.
#[derive(Debug)]
pub struct Session {
    /// Its number: for logs, it proves nothing.
    pub id: u64,
    /// `namespace/name`.
    pub stream: String,
    /// Who connected.
    pub peer: String,
    /// What the sidecar says it is.
    pub client: String,
    /// What a bind must carry.
    pub nonce: Nonce,
    /// Since then.
    pub since: Instant,
    /// Orders for its worker.
    pub inbox: Inbox,
    /// Messages to its sidecar.
    pub outbox: Arc<Outbox>,
    /// Its numbers.
    pub meter: Meter,
    /// Its encoder's name.
    pub encoder: Report,
    pub(super) over: Over,
}

/// Told once that a session is over.
#[derive(Debug, Default)]
pub struct Over {
    reason: OnceLock<ErrorCode>,
    told: Notify,
}

impl Session {
    /// Puts one together.
    pub fn new(
        id: u64,
        (stream, peer, client): (String, String, String),
        nonce: Nonce,
        inbox: Inbox,
        outbox: Arc<Outbox>,
        meter: Meter,
    ) -> Self {
        let (since, encoder, over) = (Instant::now(), Report::default(), Over::default());
        Self { id, stream, peer, client, nonce, since, inbox, outbox, meter, encoder, over }
    }

    /// Tells the sidecar why, and then ends the connection. Only the first reason counts.
    pub fn end(&self, code: ErrorCode, message: impl Into<String>) {
        if self.over.reason.set(code).is_ok() {
            self.outbox.push_error(code, message);
            self.over.told.notify_one();
        }
    }

    /// Waits until somebody called [`Session::end`].
    pub async fn ended(&self) -> ErrorCode {
        loop {
            if let Some(code) = self.over.reason.get() {
                return *code;
            }
            self.over.told.notified().await;
        }
    }
}
