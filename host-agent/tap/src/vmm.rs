//! The tap's state machine on the VMM's GPU thread: records objects and serves mailboxes.
//!
//! It never waits; its system calls are the clock and one nonblocking send to a wake fd. A panic while a
//! request is served is caught here, so that the guest gets an answer; all other panics are caught in
//! [`hook`](crate::hook).

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use frame_ring::Meta;
use protocol::link::{Context, nonce_prefix};
use protocol::mailbox::{self, Answer, FrameRequest, Operation, REQUEST_BYTES, Request, Status};
use protocol::rate::TokenBucket;

use crate::abi::CreateArgs;
use crate::access;
use crate::budget::VmBudget;
use crate::memory::Page;
use crate::reader::Reader;
use crate::shared::{Event, MAX_EXPECTED, Shared};
use crate::tables::{ContextEntry, Contexts, Resources};

/// Number of caught panics after which the tap is disabled.
pub const MAX_FAULTS: u64 = 3;

/// A monotonic clock, ns.
pub type Clock = fn() -> u64;

/// State of the VMM's thread.
#[derive(Debug)]
pub struct Vmm<R> {
    shared: Arc<Shared>,
    reader: R,
    clock: Clock,
    resources: Resources,
    contexts: Contexts,
    /// Destroyed contexts that the host-agent must be told of, with their epochs, oldest first: the queue of
    /// events was full. Each had sent a bind, and none is accepted meanwhile, so
    /// [`MAX_CONTEXTS`](crate::tables::MAX_CONTEXTS) bounds them.
    gone: VecDeque<(u64, Context)>,
    /// Limits of bind requests with the nonce of a session, by the nonce's place in
    /// [`Expected`](crate::shared::Expected), with the nonce's prefix.
    binds: Box<[(u64, TokenBucket)]>,
    /// Limit of other bind requests of the whole VM.
    guesses: TokenBucket,
    /// Time of this thread that requests take.
    budget: VmBudget,
}

/// Result of a request.
struct Outcome {
    status: Status,
    /// Number of overwritten frames of the session so far, for the answer.
    dropped: u64,
    /// True if a frame was read; only those count in the entry times.
    frame_read: bool,
}

impl From<Status> for Outcome {
    fn from(status: Status) -> Self {
        Self { status, dropped: 0, frame_read: false }
    }
}

impl<R: Reader> Vmm<R> {
    /// A VM without contexts and resources.
    pub fn new(shared: Arc<Shared>, reader: R, clock: Clock) -> Self {
        let binds = (0..MAX_EXPECTED).map(|_| (0, TokenBucket::new(access::BINDS))).collect();
        Self {
            shared,
            reader,
            clock,
            resources: Resources::default(),
            contexts: Contexts::default(),
            gone: VecDeque::new(),
            binds,
            guesses: TokenBucket::new(access::VM_GUESSES),
            budget: VmBudget::default(),
        }
    }

    /// The state shared with the link thread.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The reader.
    pub fn reader(&mut self) -> &mut R {
        &mut self.reader
    }

    /// Records a created resource and its guest memory.
    pub fn resource_create(&mut self, args: CreateArgs, page: Option<Page>) {
        self.resources.create(args);
        self.resources.set_page(args.handle, page);
        self.update_counts();
    }

    /// Records a created blob. It has no dimensions and cannot be read, so only its ID is taken.
    pub fn blob_create(&mut self, id: u32) {
        self.resource_unref(id);
    }

    /// Records that a resource is about to be destroyed.
    pub fn resource_unref(&mut self, id: u32) {
        self.resources.remove(id);
        self.update_counts();
    }

    /// Records guest memory that was attached to a resource.
    pub fn attach_memory(&mut self, id: u32, page: Option<Page>) {
        self.resources.set_page(id, page);
    }

    /// Records that a resource's guest memory is about to be detached.
    pub fn detach_memory(&mut self, id: u32) {
        self.resources.set_page(id, None);
    }

    /// Records that a resource was attached to a context.
    pub fn attach(&mut self, context: u32, resource: u32) {
        if let Some(context) = self.contexts.current(context) {
            self.resources.attach(resource, context, |context| self.contexts.exists(context));
        }
    }

    /// Records that a resource is about to be detached from a context.
    pub fn detach(&mut self, context: u32, resource: u32) {
        if let Some(context) = self.contexts.current(context) {
            self.resources.detach(resource, context);
        }
    }

    /// Records a created context.
    pub fn context_create(&mut self, id: u32, name: String) {
        if let Some(replaced) = self.contexts.create(id, name) {
            self.release(id, replaced);
        }
        self.update_counts();
    }

    /// Records that a context is about to be destroyed.
    pub fn context_destroy(&mut self, id: u32) {
        if let Some(entry) = self.contexts.remove(id) {
            self.release(id, entry);
        }
        self.update_counts();
    }

    /// Removes all objects: the VM is being reset, or the renderer shut down.
    pub fn reset(&mut self) {
        self.resources.clear();
        let entries: Vec<(u32, ContextEntry)> = self.contexts.drain().collect();
        for (id, entry) in entries {
            self.release(id, entry);
        }
        self.update_counts();
    }

    fn update_counts(&self) {
        let counters = &self.shared.counters;
        counters.contexts.store(self.contexts.len() as u32, Ordering::Relaxed);
        counters.resources.store(self.resources.len() as u32, Ordering::Relaxed);
    }

    /// Releases a removed context: ends its session's attachment, forgets what it owned, and notifies the
    /// host-agent if it received a bind.
    fn release(&mut self, id: u32, entry: ContextEntry) {
        let context = Context { id, generation: entry.generation };
        self.resources.release(context, |context| self.contexts.exists(context));
        if let Some(attachment) = entry.attachment {
            self.shared.revoke(&attachment);
        }
        if let Some(epoch) = entry.announced {
            self.gone.push_back((epoch, context));
            self.report_gone();
        }
    }

    /// Queues events for destroyed contexts, as many as fit. A container that ends thousands of contexts at
    /// once delays its own events, and neither loses any nor costs the other tenants the link.
    fn report_gone(&mut self) {
        while let Some((epoch, context)) = self.gone.front().copied() {
            let is_current = self.shared.connected() == Some(epoch);
            if is_current && !self.shared.send_event(epoch, Event::Gone(context)) {
                return;
            }
            self.gone.pop_front();
        }
    }

    /// Takes the attachments that the link thread queued since the last call.
    fn take_attachments(&mut self) {
        while let Some(attachment) = self.shared.next_attachment() {
            // A context is bound only if it sent a bind, in the same epoch as the session was attached.
            let bindable = self.shared.connected() == Some(attachment.epoch);
            let entry = self
                .contexts
                .get_mut(attachment.context)
                .filter(|entry| bindable && entry.announced == Some(attachment.epoch));
            let ended = match entry {
                Some(entry) => entry.attachment.replace(attachment),
                None => Some(attachment),
            };
            if let Some(ended) = ended {
                self.shared.revoke(&ended);
            }
        }
    }

    /// Handles a transfer of guest memory to a resource: serves a request if the resource is a mailbox
    /// and `offset` is that of a slot.
    pub fn transfer_write(&mut self, resource: u32, context: u32, offset: u64) {
        let start = (self.clock)();
        let Some(slot) = mailbox::slot_at(offset) else { return };
        let Some(mailbox) = self.resources.get(resource) else { return };
        let Some(page) = mailbox.page else { return };
        let bytes = page.request(slot);
        if !Request::is_request(&bytes) {
            return;
        }
        self.shared.counters.requested(REQUEST_BYTES);
        // The guest's kernel lets a context transfer only to resources that it holds. If that check fails,
        // an answer would be written to memory of another context.
        let requester = self.contexts.current(context).filter(|requester| mailbox.is_attached(*requester));
        let Some(requester) = requester else {
            self.shared.counters.answered(Status::NotAttached);
            return;
        };
        let served = catch_unwind(AssertUnwindSafe(|| self.serve(&bytes, requester, start)));
        let outcome = served.unwrap_or_else(|_| {
            if self.shared.counters.fault() >= MAX_FAULTS {
                self.shared.counters.disable();
            }
            Status::ReadFailed.into()
        });
        let end = (self.clock)();
        let spent = end.saturating_sub(start);
        if let Some(entry) = self.contexts.get_mut(requester) {
            let sessions = self.shared.sessions.load(Ordering::Relaxed);
            self.budget.charge(&mut entry.budget, sessions, spent, end);
        }
        let answer = Answer {
            seq: Request::seq_of(&bytes),
            status: outcome.status,
            spent_ns: spent.try_into().unwrap_or(u32::MAX),
            dropped: outcome.dropped.try_into().unwrap_or(u32::MAX),
            tap_version: crate::VERSION,
        };
        page.answer(slot, &answer);
        self.shared.counters.answered(outcome.status);
        if outcome.frame_read {
            self.shared.counters.entry.record((self.clock)().saturating_sub(start));
        }
    }

    fn serve(&mut self, bytes: &[u8; REQUEST_BYTES], requester: Context, now: u64) -> Outcome {
        if self.shared.counters.is_disabled() {
            return Status::Disabled.into();
        }
        self.take_attachments();
        self.report_gone();
        let Ok(request) = Request::decode(bytes) else { return Status::BadRequest.into() };
        match request.operation {
            Operation::Echo => self.echo(requester, now).into(),
            Operation::Bind(nonce) => self.announce(requester, nonce, now).into(),
            Operation::Frame(frame) => self.frame(request.seq, &frame, requester, now),
        }
    }

    fn echo(&mut self, requester: Context, now: u64) -> Status {
        let Some(entry) = self.contexts.get_mut(requester) else { return Status::NotAttached };
        if entry.echoes.try_take(now) { Status::Ok } else { Status::RateLimited }
    }

    fn announce(&mut self, requester: Context, nonce: [u8; 16], now: u64) -> Status {
        let Some(epoch) = self.shared.connected() else { return Status::NoHostAgent };
        let Some(entry) = self.contexts.get_mut(requester) else { return Status::NotAttached };
        let prefix = nonce_prefix(&nonce);
        let place = self.shared.expected.find(prefix).and_then(|place| self.binds.get_mut(place));
        let allowed = if let Some((limited, binds)) = place {
            if *limited != prefix {
                (*limited, *binds) = (prefix, TokenBucket::new(access::BINDS));
            }
            entry.binds.try_take(now) && binds.try_take(now)
        } else {
            entry.guesses.try_take(now) && self.guesses.try_take(now)
        };
        // The end of the session's former context is reported before its next one.
        if !allowed || !self.gone.is_empty() {
            return Status::RateLimited;
        }
        let event = Event::Bind { context: requester, name: entry.name.clone(), nonce };
        if !self.shared.send_event(epoch, event) {
            return Status::RateLimited;
        }
        entry.announced = Some(epoch);
        Status::Ok
    }

    fn frame(&mut self, seq: u64, request: &FrameRequest, requester: Context, now: u64) -> Outcome {
        if self.shared.connected().is_none() {
            return Status::NoHostAgent.into();
        }
        let Some(entry) = self.contexts.get_mut(requester) else { return Status::NotAttached.into() };
        let Some(attachment) = &entry.attachment else { return Status::NotBound.into() };
        let Some(mut lent) = self.shared.lend(attachment) else { return Status::NotBound.into() };
        let Some(ring) = lent.ring() else { return Status::NotBound.into() };
        let dropped = ring.producer.overwritten();
        let refused = |status| Outcome { status, dropped, frame_read: false };
        let resource = self.resources.get(request.resource);
        let job = match access::check_frame(request, resource, requester, ring.producer.slot_bytes()) {
            Ok(job) => job,
            Err(status) => return refused(status),
        };
        let sessions = self.shared.sessions.load(Ordering::Relaxed);
        if !self.budget.admits(&mut entry.budget, sessions, now) || !entry.frames.try_take(now) {
            return refused(Status::RateLimited);
        }
        let Some(mut slot) = ring.producer.claim() else { return refused(Status::ReadFailed) };
        let Some(out) = slot.bytes_mut().get_mut(..job.bytes()) else { return refused(Status::TooLarge) };
        let Ok(read_ns) = self.reader.read(&job, out) else { return refused(Status::ReadFailed) };
        let published = slot.publish(Meta {
            seq,
            format: request.format,
            width: job.width,
            height: job.height,
            stride: job.stride,
            damage: request.damage,
            capture_ns: request.capture_ns,
            read_ns,
            full_at_ns: 0,
        });
        if !published {
            return refused(Status::ReadFailed);
        }
        ring.waker.wake();
        self.shared.counters.read(job.bytes(), read_ns);
        Outcome { status: Status::Ok, dropped: ring.producer.overwritten(), frame_read: true }
    }
}
