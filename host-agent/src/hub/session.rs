//! A session's handles for other threads.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;
use protocol::stream::ErrorCode;
use tokio::sync::Notify;

use crate::inbox::Inbox;
use crate::meter::Meter;
use crate::outbox::Outbox;

/// Random number that a sidecar sends through its mailbox to bind its session.
pub type Nonce = [u8; 16];

/// Identity of a session.
#[derive(Debug, Clone)]
pub struct SessionInfo {
    /// Session number, unique in this process. Not a secret.
    pub id: u64,
    /// Stream: `namespace/name`.
    pub stream: String,
    /// Peer address.
    pub peer: String,
    /// Name and version of the client program.
    pub client: String,
    /// The nonce that binds the session.
    pub nonce: Nonce,
}

/// A session of a sidecar.
#[derive(Debug)]
pub struct Session {
    /// Identity, which does not change.
    pub info: SessionInfo,
    /// Time of the handshake.
    pub since: Instant,
    /// Orders for its worker.
    pub inbox: Inbox,
    /// Messages for its sidecar.
    pub outbox: Arc<Outbox>,
    /// Frame counters and durations.
    pub meter: Meter,
    /// Name of its encoder; `None` while it has none.
    pub encoder: Arc<Mutex<Option<String>>>,
    end: End,
}

/// One-time notification that the session ended.
#[derive(Debug, Default)]
struct End {
    code: OnceLock<ErrorCode>,
    notify: Notify,
}

impl Session {
    /// A session that starts now.
    pub fn new(info: SessionInfo, inbox: Inbox, outbox: Arc<Outbox>, meter: Meter) -> Self {
        let (since, encoder, end) = (Instant::now(), Arc::default(), End::default());
        Self { info, since, inbox, outbox, meter, encoder, end }
    }

    /// Sends an error to the sidecar and ends the session. Only the first call has an effect.
    pub fn end(&self, code: ErrorCode, message: impl Into<String>) {
        if self.end.code.set(code).is_ok() {
            self.outbox.push_error(code, message);
            self.end.notify.notify_one();
        }
    }

    /// Waits for [`Session::end`] and returns its error code.
    pub async fn ended(&self) -> ErrorCode {
        loop {
            if let Some(code) = self.end.code.get() {
                return *code;
            }
            self.end.notify.notified().await;
        }
    }
}
