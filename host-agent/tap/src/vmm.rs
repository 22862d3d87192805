//! The tap's part on the VMM's GPU thread: keeps the tables, serves the mailboxes.
//!
//! Never waits: its only system calls are the clock and one nonblocking byte to a bell. It does not know
//! who calls it or how; [`hook`](crate::hook) catches its panics, and a panic while a request is served
//! is caught here, so that the guest gets an answer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use protocol::link::Context;
use protocol::mailbox::{self, Answer, FrameRequest, Operation, REQUEST_BYTES, Request, Status};
use frame_ring::Meta;
use frame_ring::clock::monotonic_ns;

use crate::abi::CreateArgs;
use crate::binding::{Binding, Command};
use crate::bucket::Bucket;
use crate::judge;
use crate::memory::Page;
use crate::reader::{Progress, Reader};
use crate::shared::{Event, Shared};
use crate::tables::{Alive, Contexts, Resources};

/// Faults after which the tap serves nobody any more.
pub const MAX_FAULTS: u64 = 3;

/// Everything that belongs to the VMM's thread.
#[derive(Debug)]
pub struct Vmm<R> {
    shared: Arc<Shared>,
    reader: R,
    resources: Resources,
    contexts: Contexts,
    /// Limit of binds of the whole VM.
    binds: Bucket,
    /// The link epoch whose bindings are held.
    epoch: u64,
}

/// What came of a request.
struct Outcome {
    status: Status,
    /// The picture's sequence of drops, for the answer.
    dropped: u64,
    /// Whether a frame was read, to be counted in the entry times.
    served: bool,
}

impl From<Status> for Outcome {
    fn from(status: Status) -> Self {
        Self { status, dropped: 0, served: false }
    }
}

impl<R: Reader> Vmm<R> {
    /// A VM without anything in it.
    pub fn new(shared: Arc<Shared>, reader: R) -> Self {
        let epoch = shared.epoch();
        Self {
            shared,
            reader,
            resources: Resources::default(),
            contexts: Contexts::default(),
            binds: Bucket::default(),
            epoch,
        }
    }

    /// The shared part.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// A resource was made.
    pub fn resource_create(&mut self, made: CreateArgs, page: Option<Page>) {
        self.resources.create(made, false);
        self.resources.back(made.handle, page);
        self.count();
    }

    /// A blob was made.
    pub fn blob_create(&mut self, id: u32) {
        self.resources.create(CreateArgs { handle: id, ..CreateArgs::default() }, true);
        self.count();
    }

    /// A resource is going.
    pub fn resource_unref(&mut self, id: u32) {
        self.resources.remove(id);
        self.count();
    }

    /// A resource got guest memory.
    pub fn attach_memory(&mut self, id: u32, page: Option<Page>) {
        self.resources.back(id, page);
    }

    /// A resource is losing its guest memory.
    pub fn detach_memory(&mut self, id: u32) {
        self.resources.unback(id);
    }

    /// A context got hold of a resource.
    pub fn attach(&mut self, context: u32, resource: u32) {
        if let Some(named) = self.contexts.named(context) {
            self.resources.attach(resource, named, |context| self.contexts.is_alive(context));
        }
    }

    /// A context let go of a resource.
    pub fn detach(&mut self, context: u32, resource: u32) {
        if let Some(named) = self.contexts.named(context) {
            self.resources.detach(resource, named);
        }
    }

    /// A context was made.
    pub fn context_create(&mut self, id: u32, name: String) {
        if let Some(replaced) = self.contexts.create(id, name) {
            self.bury(id, replaced);
        }
        self.count();
    }

    /// A context is going.
    pub fn context_destroy(&mut self, id: u32) {
        if let Some(dead) = self.contexts.remove(id) {
            self.bury(id, dead);
        }
        self.count();
    }

    /// Everything is gone: the VM was reset, or the renderer shut down.
    pub fn reset(&mut self) {
        self.resources.clear();
        let dead: Vec<(u32, Alive)> = self.contexts.drain().collect();
        for (id, dead) in dead {
            self.bury(id, dead);
        }
        self.count();
    }

    fn count(&self) {
        let counters = &self.shared.counters;
        counters.contexts.store(self.contexts.len() as u32, Ordering::Relaxed);
        counters.resources.store(self.resources.len() as u32, Ordering::Relaxed);
    }

    /// A context's end: its ring goes back, and the host-agent hears of it if it knew the context.
    fn bury(&self, id: u32, dead: Alive) {
        if let Some(binding) = dead.binding {
            self.shared.retire(binding.producer);
        }
        if let Some(epoch) = dead.announced
            && self.shared.connected() == Some(epoch)
        {
            self.shared.tell(epoch, Event::Gone(Context { id, generation: dead.generation }));
        }
    }

    /// Does what the link thread asked for since the last call.
    pub fn drain(&mut self) {
        let epoch = self.shared.epoch();
        if epoch != self.epoch {
            self.epoch = epoch;
            for alive in self.contexts.iter_mut() {
                if let Some(binding) = alive.binding.take_if(|binding| binding.epoch != epoch) {
                    self.shared.retire(binding.producer);
                }
            }
        }
        while let Some(command) = self.shared.command() {
            match command {
                Command::Attach(context, binding) => self.bind(context, *binding),
                Command::Detach { epoch, session } => self.unbind(epoch, session),
            }
        }
    }

    fn bind(&mut self, context: Context, binding: Binding) {
        let wanted = self.contexts.get_mut(context).filter(|alive| {
            // Only who rang with a nonce can have a session, and only in the epoch that heard it.
            alive.announced == Some(binding.epoch) && binding.epoch == self.epoch
        });
        let old = match wanted {
            Some(alive) => alive.binding.replace(binding),
            None => Some(binding),
        };
        if let Some(old) = old {
            self.shared.retire(old.producer);
        }
    }

    fn unbind(&mut self, epoch: u64, session: u64) {
        for alive in self.contexts.iter_mut() {
            let over = |binding: &mut Binding| (binding.epoch, binding.session) == (epoch, session);
            if let Some(binding) = alive.binding.take_if(over) {
                self.shared.retire(binding.producer);
            }
        }
    }

    /// A context wrote guest memory to a resource: if that is a mailbox, a request is served.
    pub fn transfer_write(&mut self, resource: u32, context: u32, offset: u64) {
        let start = monotonic_ns();
        let Some(slot) = mailbox::slot_at(offset) else { return };
        let Some(mailbox) = self.resources.get(resource) else { return };
        let Some(page) = mailbox.page else { return };
        let bytes = page.request(slot);
        if !Request::is_request(&bytes) {
            return;
        }
        self.shared.counters.requested(REQUEST_BYTES);
        // The guest's kernel lets nobody write to what he does not hold; if it does, the answer would
        // go into somebody else's memory.
        let asker = self.contexts.named(context).filter(|asker| mailbox.is_attached(*asker));
        let Some(asker) = asker else {
            self.shared.counters.answered(Status::NotAttached);
            return;
        };
        let served = catch_unwind(AssertUnwindSafe(|| self.serve(&bytes, asker, start)));
        let outcome = served.unwrap_or_else(|_| {
            if self.shared.counters.fault() >= MAX_FAULTS {
                self.shared.counters.disable();
            }
            Status::ReadFailed.into()
        });
        let spent = monotonic_ns().saturating_sub(start);
        let answer = Answer {
            seq: seq_of(&bytes),
            status: outcome.status,
            spent_ns: spent.try_into().unwrap_or(u32::MAX),
            dropped: outcome.dropped.try_into().unwrap_or(u32::MAX),
            tap_version: crate::VERSION,
        };
        page.answer(slot, &answer);
        self.shared.counters.answered(outcome.status);
        if outcome.served {
            self.shared.counters.entry.record(monotonic_ns().saturating_sub(start));
        }
    }

    fn serve(&mut self, bytes: &[u8; REQUEST_BYTES], asker: Context, now: u64) -> Outcome {
        if self.shared.counters.is_disabled() {
            return Status::Disabled.into();
        }
        self.drain();
        let Ok(request) = Request::decode(bytes) else { return Status::BadRequest.into() };
        match request.operation {
            Operation::Echo => self.echo(asker, now).into(),
            Operation::Bind(nonce) => self.announce(asker, nonce, now).into(),
            Operation::Frame(frame) => self.frame(request.seq, &frame, asker, now),
        }
    }

    fn echo(&mut self, asker: Context, now: u64) -> Status {
        let Some(alive) = self.contexts.get_mut(asker) else { return Status::NotAttached };
        if alive.echoes.take(judge::ECHOES, now) { Status::Ok } else { Status::RateLimited }
    }

    fn announce(&mut self, asker: Context, nonce: [u8; 16], now: u64) -> Status {
        let Some(epoch) = self.shared.connected() else { return Status::NoHostAgent };
        let Some(alive) = self.contexts.get_mut(asker) else { return Status::NotAttached };
        if !alive.binds.take(judge::BINDS, now) || !self.binds.take(judge::VM_BINDS, now) {
            return Status::RateLimited;
        }
        alive.announced = Some(epoch);
        let event = Event::Bind { context: asker, name: alive.name.clone(), nonce };
        if self.shared.tell(epoch, event) { Status::Ok } else { Status::RateLimited }
    }

    fn frame(&mut self, seq: u64, request: &FrameRequest, asker: Context, now: u64) -> Outcome {
        if self.shared.connected().is_none() {
            return Status::NoHostAgent.into();
        }
        let Some(alive) = self.contexts.get_mut(asker) else { return Status::NotAttached.into() };
        let Some(binding) = &mut alive.binding else { return Status::NotBound.into() };
        let before = Outcome { status: Status::Ok, dropped: binding.producer.dropped(), served: false };
        let resource = self.resources.get(request.resource);
        let job = match judge::frame(request, resource, asker, binding.producer.slot_bytes()) {
            Ok(job) => job,
            Err(status) => return Outcome { status, ..before },
        };
        if !alive.frames.take(judge::FRAMES, now) {
            return Outcome { status: Status::RateLimited, ..before };
        }
        let Some(mut slot) = binding.producer.claim() else {
            return Outcome { status: Status::ReadFailed, ..before };
        };
        let Some(out) = slot.bytes_mut().get_mut(..job.bytes()) else {
            return Outcome { status: Status::TooLarge, ..before };
        };
        // No reader of today is asynchronous: see reader.rs for what Pending will mean here.
        let Ok(Progress::Done { ns }) = self.reader.read(&job, out) else {
            return Outcome { status: Status::ReadFailed, ..before };
        };
        let published = slot.publish(Meta {
            seq,
            format: request.format,
            width: job.width,
            height: job.height,
            stride: job.stride,
            damage: request.damage,
            capture_ns: request.capture_ns,
            read_ns: ns,
            full_at_ns: 0,
        });
        if !published {
            return Outcome { status: Status::ReadFailed, ..before };
        }
        binding.bell.ring();
        self.shared.counters.read(job.bytes(), ns);
        Outcome { status: Status::Ok, dropped: binding.producer.dropped(), served: true }
    }
}

/// The sequence number of a request, even of one that can't be understood.
fn seq_of(bytes: &[u8; REQUEST_BYTES]) -> u64 {
    let mut seq = [0; 8];
    seq.copy_from_slice(&bytes[8..16]);
    u64::from_le_bytes(seq)
}
