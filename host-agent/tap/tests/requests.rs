//! The VMM part against plain memory: every answer that a mailbox can give, with a reader of our own and
//! without threads. What needs virglrenderer is in `virgl.rs`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use protocol::link::Context;
use protocol::mailbox::{self, Answer, FrameRequest, Operation, Request, Status};
use protocol::{PixelFormat, Rect};
use frame_ring::doorbell::{self, Bell};
use frame_ring::{Consumer, Ring};
use tap::abi::CreateArgs;
use tap::binding::{Binding, Command};
use tap::memory::Page;
use tap::reader::{Job, Progress, ReadError, Reader};
use tap::shared::{Event, Shared};
use tap::vmm::{MAX_FAULTS, Vmm};

const MAILBOX: u32 = 100;
const SCREEN: u32 = 200;
const SIDECAR: u32 = 7;
const WIDTH: u32 = 64;
const HEIGHT: u32 = 16;

/// Fills the slot with the resource's ID, or misbehaves as told.
#[derive(Debug, Default)]
enum Fake {
    #[default]
    Works,
    Fails,
    Panics,
}

impl Reader for Fake {
    fn read(&mut self, job: &Job, out: &mut [u8]) -> Result<Progress, ReadError> {
        match self {
            Self::Works => {
                assert_eq!(out.len(), job.bytes());
                out.fill(job.resource as u8);
                Ok(Progress::Done { ns: 5 })
            }
            Self::Fails => Err(ReadError::Refused(22)),
            Self::Panics => std::panic::resume_unwind(Box::new("reader")),
        }
    }
}

struct Vm {
    vmm: Vmm<Fake>,
    shared: Arc<Shared>,
    words: &'static [AtomicU64; 512],
    seq: u64,
}

fn memory() -> &'static [AtomicU64; 512] {
    Box::leak(Box::new([const { AtomicU64::new(0) }; 512]))
}

fn mailbox(handle: u32) -> CreateArgs {
    CreateArgs { handle, target: 2, format: 67, width: 1024, height: 1, ..CreateArgs::default() }
}

fn screen(handle: u32) -> CreateArgs {
    CreateArgs { handle, target: 2, format: 2, width: WIDTH, height: HEIGHT, ..CreateArgs::default() }
}

fn frame(resource: u32) -> FrameRequest {
    FrameRequest {
        resource,
        format: PixelFormat::Bgrx,
        width: WIDTH as u16,
        height: HEIGHT as u16,
        stride: 4 * WIDTH,
        damage: Rect::full(WIDTH, HEIGHT),
        capture_ns: 77,
    }
}

impl Vm {
    /// A VM with a sidecar that has a mailbox and holds a screen.
    fn new(reader: Fake) -> Self {
        let (listen, bell) = doorbell::pair().expect("pair");
        std::mem::forget(listen);
        let shared = Arc::new(Shared::new(Bell::new(bell).expect("bell")));
        let mut vmm = Vmm::new(Arc::clone(&shared), reader);
        let words = memory();
        vmm.context_create(SIDECAR, "sidecar".to_owned());
        vmm.resource_create(mailbox(MAILBOX), None);
        vmm.attach_memory(MAILBOX, Some(Page::of(words)));
        vmm.attach(SIDECAR, MAILBOX);
        vmm.resource_create(screen(SCREEN), None);
        vmm.attach(SIDECAR, SCREEN);
        Self { vmm, shared, words, seq: 0 }
    }

    /// The same, with a host-agent and a session.
    fn bound() -> (Self, Consumer, Context) {
        let mut vm = Self::new(Fake::Works);
        vm.shared.up();
        let context = vm.announce();
        let consumer = vm.session(1, context, 4 * (WIDTH * HEIGHT) as usize);
        (vm, consumer, context)
    }

    fn announce(&mut self) -> Context {
        assert_eq!(self.ask(Operation::Bind([9; 16])).status, Status::Ok);
        match self.shared.event(self.shared.epoch()) {
            Some(Event::Bind { context, nonce, .. }) if nonce == [9; 16] => context,
            other => unreachable!("{other:?}"),
        }
    }

    fn session(&self, session: u64, context: Context, room: usize) -> Consumer {
        let (consumer, fd) = Ring::create(frame_ring::SLOTS, room).expect("ring");
        let producer = frame_ring::Producer::map(fd).expect("map");
        let (listen, bell) = doorbell::pair().expect("pair");
        std::mem::forget(listen);
        let bell = Bell::new(bell).expect("bell");
        let epoch = self.shared.epoch();
        assert!(
            self.shared.send(Command::Attach(context, Box::new(Binding { session, epoch, producer, bell })))
        );
        consumer
    }

    fn put(&self, slot: usize, bytes: &[u8; 64]) {
        for (at, bytes) in bytes.as_chunks::<8>().0.iter().enumerate() {
            let word = &self.words[mailbox::request_offset(slot) / 8 + at];
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
    }

    fn answer(&self, slot: usize) -> Answer {
        let mut bytes = [0; 64];
        for (bytes, word) in bytes.chunks_exact_mut(8).zip(&self.words[mailbox::answer_offset(slot) / 8..]) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        Answer::decode(&bytes).expect("answer")
    }

    /// Rings the mailbox as `context`; the answer is that of this request.
    fn ask_as(&mut self, context: u32, operation: Operation) -> Option<Answer> {
        self.seq += 1;
        let slot = (self.seq as usize) % mailbox::SLOTS;
        self.put(slot, &Request { seq: self.seq, operation }.encode());
        self.vmm.transfer_write(MAILBOX, context, mailbox::request_offset(slot) as u64);
        Some(self.answer(slot)).filter(|answer| answer.seq == self.seq)
    }

    fn ask(&mut self, operation: Operation) -> Answer {
        self.ask_as(SIDECAR, operation).expect("answered")
    }

    fn frame(&mut self, request: FrameRequest) -> Status {
        self.ask(Operation::Frame(request)).status
    }
}

#[test]
fn echo_needs_nobody() {
    let mut vm = Vm::new(Fake::Works);
    let answer = vm.ask(Operation::Echo);
    assert_eq!((answer.status, answer.dropped, answer.tap_version), (Status::Ok, 0, tap::VERSION));
}

#[test]
fn a_frame_travels() {
    let (mut vm, mut consumer, _) = Vm::bound();
    assert_eq!(vm.frame(frame(SCREEN)), Status::Ok);
    let slot = consumer.newest().expect("full");
    assert_eq!(slot.as_ref(), [SCREEN as u8; 4 * 64 * 16]);
    let meta = slot.meta();
    assert_eq!((meta.seq, meta.capture_ns, meta.read_ns, meta.stride), (vm.seq, 77, 5, 4 * WIDTH));
    let stats = vm.shared.counters.snapshot();
    assert_eq!((stats.request_bytes, stats.picture_bytes), (2 * 64, 4 * 64 * 16));
    assert_eq!((stats.entry.count, stats.read.count, stats.read.max), (1, 1, 5));
    assert_eq!((stats.contexts, stats.resources), (1, 2));
}

#[test]
fn without_host_agent_or_session_there_is_no_frame() {
    let mut vm = Vm::new(Fake::Works);
    assert_eq!(vm.frame(frame(SCREEN)), Status::NoHostAgent);
    assert_eq!(vm.ask(Operation::Bind([1; 16])).status, Status::NoHostAgent);
    vm.shared.up();
    assert_eq!(vm.frame(frame(SCREEN)), Status::NotBound);
}

#[test]
fn only_who_rang_can_be_given_a_session() {
    let mut vm = Vm::new(Fake::Works);
    vm.shared.up();
    let _consumer = vm.session(1, Context { id: SIDECAR, generation: 1 }, 1 << 20);
    assert_eq!(vm.frame(frame(SCREEN)), Status::NotBound);
    let context = vm.announce();
    let _consumer = vm.session(2, Context { generation: context.generation + 1, ..context }, 1 << 20);
    assert_eq!(vm.frame(frame(SCREEN)), Status::NotBound, "another generation");
    let _consumer = vm.session(3, context, 1 << 20);
    assert_eq!(vm.frame(frame(SCREEN)), Status::Ok);
}

#[test]
fn refusals() {
    let (mut vm, _consumer, _) = Vm::bound();
    assert_eq!(vm.frame(frame(999)), Status::UnknownResource);
    vm.vmm.resource_create(screen(201), None);
    assert_eq!(vm.frame(frame(201)), Status::NotAttached);
    vm.vmm.attach(SIDECAR, 201);
    assert_eq!(vm.frame(frame(201)), Status::Ok);
    vm.vmm.detach(SIDECAR, 201);
    assert_eq!(vm.frame(frame(201)), Status::NotAttached);
    assert_eq!(vm.frame(FrameRequest { format: PixelFormat::Rgba, ..frame(SCREEN) }), Status::BadFormat);
    let half = FrameRequest { width: 32, damage: Rect::full(32, 16), ..frame(SCREEN) };
    assert_eq!(vm.frame(half), Status::BadBox);
    vm.vmm.blob_create(202);
    vm.vmm.attach(SIDECAR, 202);
    assert_eq!(vm.frame(frame(202)), Status::UnknownResource);
    let large = CreateArgs { width: 128, ..screen(203) };
    vm.vmm.resource_create(large, None);
    vm.vmm.attach(SIDECAR, 203);
    let request = FrameRequest { width: 128, damage: Rect::full(128, 16), ..frame(203) };
    assert_eq!(vm.frame(request), Status::TooLarge);
    vm.vmm.resource_unref(SCREEN);
    assert_eq!(vm.frame(frame(SCREEN)), Status::UnknownResource);
}

#[test]
fn another_context_cannot_use_the_mailbox_or_its_session() {
    let (mut vm, mut consumer, _) = Vm::bound();
    vm.vmm.context_create(8, "thief".to_owned());
    assert_eq!(vm.ask_as(8, Operation::Frame(frame(SCREEN))), None, "no answer into memory it does not hold");
    assert_eq!(vm.ask_as(0, Operation::Echo), None);
    assert_eq!(vm.ask_as(u32::MAX, Operation::Echo), None);
    assert_eq!(vm.shared.counters.snapshot().answers[Status::NotAttached as usize], 3);
    assert!(consumer.newest().is_none());
    // Even if it holds both mailbox and screen: the session is not its own.
    vm.vmm.attach(8, MAILBOX);
    vm.vmm.attach(8, SCREEN);
    assert_eq!(vm.ask_as(8, Operation::Frame(frame(SCREEN))).expect("answered").status, Status::NotBound);
}

#[test]
fn a_session_ends_with_its_context() {
    let (mut vm, _consumer, context) = Vm::bound();
    assert_eq!(vm.frame(frame(SCREEN)), Status::Ok);
    vm.vmm.context_destroy(SIDECAR);
    assert_eq!(vm.shared.event(vm.shared.epoch()), Some(Event::Gone(context)));
    assert_eq!(vm.ask_as(SIDECAR, Operation::Echo), None);
    vm.vmm.context_create(SIDECAR, "someone else".to_owned());
    assert_eq!(vm.ask_as(SIDECAR, Operation::Echo), None, "attachments ended too");
    vm.vmm.attach(SIDECAR, MAILBOX);
    vm.vmm.attach(SIDECAR, SCREEN);
    assert_eq!(vm.frame(frame(SCREEN)), Status::NotBound);
    vm.vmm.context_destroy(SIDECAR);
    assert_eq!(vm.shared.event(vm.shared.epoch()), None, "the host-agent never knew it");
}

#[test]
fn a_session_ends_with_the_link_and_by_detach() {
    let (mut vm, _consumer, context) = Vm::bound();
    assert_eq!(vm.frame(frame(SCREEN)), Status::Ok);
    vm.shared.down();
    assert_eq!(vm.frame(frame(SCREEN)), Status::NoHostAgent);
    vm.shared.up();
    assert_eq!(vm.frame(frame(SCREEN)), Status::NotBound);
    let _stale = vm.session(1, context, 1 << 20);
    assert_eq!(vm.frame(frame(SCREEN)), Status::NotBound, "this host-agent has not heard of it");
    let context = vm.announce();
    let _consumer = vm.session(5, context, 1 << 20);
    assert_eq!(vm.frame(frame(SCREEN)), Status::Ok);
    let epoch = vm.shared.epoch();
    assert!(vm.shared.send(Command::Detach { epoch, session: 6 }));
    assert!(vm.shared.send(Command::Detach { epoch: epoch - 2, session: 5 }));
    assert_eq!(vm.frame(frame(SCREEN)), Status::Ok);
    assert!(vm.shared.send(Command::Detach { epoch, session: 5 }));
    assert_eq!(vm.frame(frame(SCREEN)), Status::NotBound);
}

#[test]
fn a_new_session_replaces_the_old_one() {
    let (mut vm, mut old, context) = Vm::bound();
    let mut new = vm.session(2, context, 1 << 20);
    assert_eq!(vm.frame(frame(SCREEN)), Status::Ok);
    assert!(old.newest().is_none());
    assert!(new.newest().is_some());
}

#[test]
fn a_reset_ends_everything() {
    let (mut vm, _consumer, context) = Vm::bound();
    vm.vmm.reset();
    assert_eq!(vm.shared.event(vm.shared.epoch()), Some(Event::Gone(context)));
    assert_eq!(vm.ask_as(SIDECAR, Operation::Echo), None);
    let stats = vm.shared.counters.snapshot();
    assert_eq!((stats.contexts, stats.resources), (0, 0));
    vm.vmm.context_create(SIDECAR, String::new());
    vm.vmm.resource_create(mailbox(MAILBOX), Some(Page::of(vm.words)));
    vm.vmm.attach(SIDECAR, MAILBOX);
    let again = vm.announce();
    assert!(again.generation > context.generation);
}

#[test]
fn memory_that_is_gone_is_not_written() {
    let (mut vm, _consumer, _) = Vm::bound();
    vm.vmm.detach_memory(MAILBOX);
    assert_eq!(vm.ask_as(SIDECAR, Operation::Echo), None);
    vm.vmm.attach_memory(MAILBOX, Some(Page::of(vm.words)));
    vm.ask(Operation::Echo);
    vm.vmm.resource_unref(MAILBOX);
    assert_eq!(vm.ask_as(SIDECAR, Operation::Echo), None);
}

#[test]
fn overwritten_frames_are_counted_in_the_answer() {
    let (mut vm, mut consumer, _) = Vm::bound();
    for _ in 0..10 {
        vm.frame(frame(SCREEN));
    }
    assert_eq!(vm.ask(Operation::Frame(frame(SCREEN))).dropped, 7);
    assert_eq!(consumer.newest().expect("full").dropped().len(), 10);
}

#[test]
fn floods_are_limited() {
    let (mut vm, _consumer, _) = Vm::bound();
    let count = |vm: &mut Vm, times: u32, operation: Operation| {
        (0..times).filter(|_| vm.ask(operation).status == Status::Ok).count()
    };
    let start = std::time::Instant::now();
    let frames = count(&mut vm, 5000, Operation::Frame(frame(SCREEN)));
    let allowed = 100 + 1 + start.elapsed().as_millis() as usize;
    assert!((100..=allowed).contains(&frames), "{frames} of {allowed}");
    let start = std::time::Instant::now();
    let binds = count(&mut vm, 1000, Operation::Bind([2; 16]));
    let allowed = 11 + start.elapsed().as_millis() as usize / 100;
    assert!((9..=allowed).contains(&binds), "{binds} of {allowed}");
    // Each context has a bucket of its own, the VM has one for all.
    let mut all = 0;
    for context in 1000..1100 {
        vm.vmm.context_create(context, String::new());
        vm.vmm.attach(context, MAILBOX);
        let binds = (0..5).filter_map(|_| vm.ask_as(context, Operation::Bind([3; 16])));
        all += binds.filter(|answer| answer.status == Status::Ok).count();
    }
    let allowed = 61 + start.elapsed().as_millis() as usize / 20;
    assert!((38..=allowed).contains(&all), "{all} of {allowed}");
    assert!(!vm.shared.lost_events());
}

#[test]
fn a_failed_read_costs_that_frame() {
    let mut vm = Vm::new(Fake::Fails);
    vm.shared.up();
    let context = vm.announce();
    let mut consumer = vm.session(1, context, 1 << 20);
    for _ in 0..20 {
        assert_eq!(vm.frame(frame(SCREEN)), Status::ReadFailed);
    }
    assert!(consumer.newest().is_none());
    assert_eq!(vm.shared.counters.snapshot().faults, 0);
}

#[test]
fn three_faults_switch_the_tap_off() {
    let mut vm = Vm::new(Fake::Panics);
    vm.shared.up();
    let context = vm.announce();
    let mut consumer = vm.session(1, context, 1 << 20);
    for _ in 0..MAX_FAULTS {
        assert_eq!(vm.frame(frame(SCREEN)), Status::ReadFailed);
    }
    assert_eq!(vm.frame(frame(SCREEN)), Status::Disabled);
    assert_eq!(vm.ask(Operation::Echo).status, Status::Disabled);
    let stats = vm.shared.counters.snapshot();
    assert_eq!((stats.faults, stats.disabled), (MAX_FAULTS, 1));
    assert!(consumer.newest().is_none());
    vm.vmm.resource_unref(MAILBOX);
    assert_eq!(vm.ask_as(SIDECAR, Operation::Echo), None, "the tables are still kept");
}

#[test]
fn events_that_do_not_fit_start_the_link_over() {
    let mut vm = Vm::new(Fake::Works);
    let epoch = vm.shared.up();
    for generation in 0..5000 {
        vm.shared.tell(epoch, Event::Gone(Context { id: 1, generation }));
    }
    assert!(vm.shared.lost_events());
    assert_eq!(vm.ask(Operation::Bind([1; 16])).status, Status::RateLimited);
    vm.shared.down();
    let epoch = vm.shared.up();
    assert!(!vm.shared.lost_events());
    assert_eq!(vm.shared.event(epoch), None, "what the last one was told is void");
}

proptest! {
    /// Whatever lies in the page and wherever the transfer points: an answer or none, never a fault.
    #[test]
    fn any_bytes(
        bytes in prop::collection::vec(any::<u8>(), 64),
        keep_magic in any::<bool>(),
        keep_head in any::<bool>(),
        offset in prop_oneof![(0..8_u64).prop_map(|slot| 128 * slot), any::<u64>(), 0..8192_u64],
        context in prop_oneof![Just(SIDECAR), any::<u32>()],
        resource in prop_oneof![Just(MAILBOX), Just(SCREEN), any::<u32>()],
    ) {
        let (mut vm, _consumer, _) = Vm::bound();
        let mut request: [u8; 64] = bytes.try_into().expect("64");
        let good = Request { seq: 5, operation: Operation::Frame(frame(SCREEN)) }.encode();
        if keep_magic {
            request[..8].copy_from_slice(&good[..8]);
        }
        if keep_head {
            request[..24].copy_from_slice(&good[..24]);
            request[48..].fill(0);
        }
        for slot in 0..mailbox::SLOTS {
            vm.put(slot, &request);
        }
        let calm = catch_unwind(AssertUnwindSafe(|| vm.vmm.transfer_write(resource, context, offset)));
        prop_assert!(calm.is_ok());
        let stats = vm.shared.counters.snapshot();
        prop_assert_eq!(stats.faults, 0);
        let to_mailbox = resource == MAILBOX && mailbox::slot_at(offset).is_some();
        let answered: u64 = stats.answers.iter().sum::<u64>() - 1;
        let expected = to_mailbox && Request::is_request(&request);
        prop_assert_eq!(answered, u64::from(expected));
    }
}
