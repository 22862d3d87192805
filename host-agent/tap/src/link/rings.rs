//! The rings of a VM's sessions: mapped, bounded and unmapped here.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use frame_ring::Producer;
use frame_ring::wake::Waker;
use protocol::link::{Context, RingRefusal};

use crate::binding::{Attachment, Ring, Unmapped};
use crate::log;
use crate::shared::{MAX_SESSIONS, Shared};

/// All mapped rings.
#[derive(Debug)]
pub(super) struct Rings {
    shared: Arc<Shared>,
    /// The attachment of each session.
    attached: HashMap<u64, Arc<Attachment>>,
    /// Ended attachments whose rings are still mapped, because the VMM's thread was using them.
    revoked: Vec<Arc<Attachment>>,
}

impl Rings {
    /// No rings.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, attached: HashMap::new(), revoked: Vec::new() }
    }

    /// Maps the ring of a session and queues it for the VMM's thread. It replaces earlier rings of the
    /// session and of the context, which are unmapped first.
    ///
    /// # Errors
    /// The ring cannot be used; the session then has none.
    pub(super) fn attach(
        &mut self,
        session: u64,
        epoch: u64,
        context: Context,
        [memory, wake_socket]: [OwnedFd; 2],
    ) -> Result<(), RingRefusal> {
        self.end_if(|attachment| attachment.session == session || attachment.context == context);
        if self.attached.len() >= MAX_SESSIONS {
            return Err(RingRefusal::Sessions);
        }
        let ring = self.map(memory, wake_socket).inspect_err(|refusal| {
            log::line(format_args!("ring of session {session} refused: {refusal:?}"));
        })?;
        let attachment = Attachment::new(session, epoch, context, ring);
        self.attached.insert(session, Arc::clone(&attachment));
        self.update_count();
        if !self.shared.send_attachment(attachment) {
            self.detach(session);
            return Err(RingRefusal::Sessions);
        }
        Ok(())
    }

    fn map(&self, memory: OwnedFd, wake_socket: OwnedFd) -> Result<Ring, RingRefusal> {
        // The size is checked first, because mapping makes all pages present.
        let stat = rustix::fs::fstat(&memory).map_err(|_| RingRefusal::Memfd)?;
        let bytes = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        let charge = self.shared.ring_bytes.charge(bytes).ok_or(RingRefusal::Memory)?;
        let waker = Waker::new(wake_socket).map_err(|_| RingRefusal::WakeFd)?;
        let producer = Producer::map(memory).map_err(|_| RingRefusal::Memfd)?;
        Ok(Ring { producer, waker, charge })
    }

    /// Ends a session.
    pub(super) fn detach(&mut self, session: u64) {
        self.end_if(|attachment| attachment.session == session);
    }

    /// Ends all sessions: the link is lost.
    pub(super) fn end_all(&mut self) {
        self.end_if(|_| true);
    }

    /// Unmaps the rings of attachments that ended, also of those that the VMM's thread ended.
    pub(super) fn unmap_revoked(&mut self) {
        self.end_if(Attachment::is_revoked);
    }

    fn end_if(&mut self, condition: impl Fn(&Attachment) -> bool) {
        for (_, attachment) in self.attached.extract_if(|_, attachment| condition(attachment)) {
            attachment.revoke();
            self.revoked.push(attachment);
        }
        self.revoked.retain(|attachment| attachment.unmap() == Unmapped::InUse);
        self.update_count();
    }

    fn update_count(&self) {
        self.shared.sessions.store(self.attached.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
