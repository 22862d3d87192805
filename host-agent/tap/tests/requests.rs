//! The VMM state machine on plain memory: every mailbox answer, with a fake reader, a fake clock and no
//! threads. `virgl/` has the tests with virglrenderer.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use frame_ring::wake::{self, WakeFd};
use frame_ring::{Consumer, Ring};
use proptest::prelude::*;
use protocol::link::Context;
use protocol::mailbox::{self, Answer, FrameRequest, Operation, Request, Status};
use protocol::{PixelFormat, Rect};
use tap::abi::{CreateArgs, FORMAT_B8G8R8X8, PIPE_TEXTURE_2D};
use tap::binding::{Binding, Command};
use tap::memory::Page;
use tap::reader::{Job, ReadError, Reader};
use tap::shared::{Event, Shared};
use tap::vmm::{MAX_FAULTS, Vmm};

const MAILBOX: u32 = 100;
const SCREEN: u32 = 200;
const SIDECAR: u32 = 7;
const WIDTH: u32 = 64;
const HEIGHT: u32 = 16;
const MS: u64 = 1_000_000;

thread_local! {
    /// The fake clock of this thread's VM, ns. It stands still unless a test advances it.
    static NOW: Cell<u64> = const { Cell::new(1 << 40) };
}

fn now() -> u64 {
    NOW.get()
}

fn advance(ns: u64) {
    NOW.set(NOW.get() + ns);
}

/// Fills the slot with the low byte of the resource's ID, or misbehaves.
#[derive(Debug, Default)]
enum Fake {
    #[default]
    Works,
    Fails,
    Panics,
}

impl Reader for Fake {
    fn read(&mut self, job: &Job, out: &mut [u8]) -> Result<u64, ReadError> {
        match self {
            Self::Works => {
                assert_eq!(out.len(), job.bytes());
                out.fill(job.resource as u8);
                advance(5);
                Ok(5)
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
    /// Receiving ends of wake fds, kept open.
    wake_fds: Vec<WakeFd>,
}

fn memory() -> &'static [AtomicU64; 512] {
    Box::leak(Box::new([const { AtomicU64::new(0) }; 512]))
}

fn mailbox(handle: u32) -> CreateArgs {
    CreateArgs {
        handle,
        target: PIPE_TEXTURE_2D,
        format: mailbox::VIRGL_FORMAT,
        width: mailbox::WIDTH,
        height: 1,
        ..CreateArgs::default()
    }
}

fn screen(handle: u32) -> CreateArgs {
    CreateArgs {
        handle,
        target: PIPE_TEXTURE_2D,
        format: FORMAT_B8G8R8X8,
        width: WIDTH,
        height: HEIGHT,
        ..CreateArgs::default()
    }
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
    /// A VM with a sidecar that has a mailbox and is attached to a screen.
    fn new(reader: Fake) -> Self {
        let (wake_fd, waker) = wake::pair().expect("pair");
        let shared = Arc::new(Shared::new(waker));
        let mut vmm = Vmm::new(Arc::clone(&shared), reader, now);
        let words = memory();
        vmm.context_create(SIDECAR, "sidecar".to_owned());
        vmm.resource_create(mailbox(MAILBOX), None);
        vmm.attach_memory(MAILBOX, Some(Page::from_static(words)));
        vmm.attach(SIDECAR, MAILBOX);
        vmm.resource_create(screen(SCREEN), None);
        vmm.attach(SIDECAR, SCREEN);
        Self { vmm, shared, words, seq: 0, wake_fds: vec![wake_fd] }
    }

    /// The same, with a host-agent and a session.
    fn bound() -> (Self, Consumer, Context) {
        let mut vm = Self::new(Fake::Works);
        vm.shared.connect();
        let context = vm.announce();
        let consumer = vm.session(1, context, 4 * (WIDTH * HEIGHT) as usize);
        (vm, consumer, context)
    }

    fn announce(&mut self) -> Context {
        assert_eq!(self.request(Operation::Bind([9; 16])).status, Status::Ok);
        match self.shared.next_event(self.shared.epoch()) {
            Some(Event::Bind { context, nonce, .. }) if nonce == [9; 16] => context,
            other => unreachable!("{other:?}"),
        }
    }

    fn session(&mut self, session: u64, context: Context, slot_bytes: usize) -> Consumer {
        let (consumer, fd) = Ring::create(frame_ring::SLOTS, slot_bytes).expect("ring");
        let producer = frame_ring::Producer::map(fd).expect("map");
        let (wake_fd, waker) = wake::pair().expect("pair");
        self.wake_fds.push(wake_fd);
        let binding = Binding { session, epoch: self.shared.epoch(), producer, waker };
        assert!(self.shared.send_command(Command::Attach(context, Box::new(binding))));
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

    /// Sends a request, stamped with `context`; `None` if it was not answered.
    fn request_as(&mut self, context: u32, operation: Operation) -> Option<Answer> {
        self.seq += 1;
        let slot = (self.seq as usize) % mailbox::SLOTS;
        self.put(slot, &Request { seq: self.seq, operation }.encode());
        self.vmm.transfer_write(MAILBOX, context, mailbox::request_offset(slot) as u64);
        Some(self.answer(slot)).filter(|answer| answer.seq == self.seq)
    }

    fn request(&mut self, operation: Operation) -> Answer {
        self.request_as(SIDECAR, operation).expect("answered")
    }

    fn frame(&mut self, request: FrameRequest) -> Status {
        self.request(Operation::Frame(request)).status
    }
}

#[test]
fn echo_without_host_agent_is_answered() {
    let mut vm = Vm::new(Fake::Works);
    let answer = vm.request(Operation::Echo);
    assert_eq!((answer.status, answer.dropped, answer.tap_version), (Status::Ok, 0, tap::VERSION));
}

#[test]
fn frame_is_written_to_the_ring() {
    let (mut vm, mut consumer, _) = Vm::bound();
    assert_eq!(vm.frame(frame(SCREEN)), Status::Ok);
    let slot = consumer.newest().expect("full");
    assert_eq!(slot.as_ref(), [SCREEN as u8; 4 * 64 * 16]);
    let meta = slot.meta();
    assert_eq!((meta.seq, meta.capture_ns, meta.read_ns, meta.stride), (vm.seq, 77, 5, 4 * WIDTH));
    let stats = vm.shared.counters.snapshot();
    assert_eq!((stats.request_bytes, stats.picture_bytes), (2 * 64, 4 * 64 * 16));
    assert_eq!((stats.entry.count, stats.entry.max, stats.read.count, stats.read.max), (1, 5, 1, 5));
    assert_eq!((stats.contexts, stats.resources), (1, 2));
}

#[test]
fn frame_without_host_agent_or_session_is_refused() {
    let mut vm = Vm::new(Fake::Works);
    assert_eq!(vm.frame(frame(SCREEN)), Status::NoHostAgent);
    assert_eq!(vm.request(Operation::Bind([1; 16])).status, Status::NoHostAgent);
    vm.shared.connect();
    assert_eq!(vm.frame(frame(SCREEN)), Status::NotBound);
}

#[test]
fn session_is_bound_only_to_a_context_that_sent_a_bind() {
    let mut vm = Vm::new(Fake::Works);
    vm.shared.connect();
    let _consumer = vm.session(1, Context { id: SIDECAR, generation: 1 }, 1 << 20);
    assert_eq!(vm.frame(frame(SCREEN)), Status::NotBound);
    let context = vm.announce();
    let _consumer = vm.session(2, Context { generation: context.generation + 1, ..context }, 1 << 20);
    assert_eq!(vm.frame(frame(SCREEN)), Status::NotBound, "another generation");
    let _consumer = vm.session(3, context, 1 << 20);
    assert_eq!(vm.frame(frame(SCREEN)), Status::Ok);
}

#[test]
fn frame_that_the_context_may_not_read_is_refused() {
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
fn other_context_can_use_neither_mailbox_nor_session() {
    let (mut vm, mut consumer, _) = Vm::bound();
    vm.vmm.context_create(8, "other".to_owned());
    assert_eq!(
        vm.request_as(8, Operation::Frame(frame(SCREEN))),
        None,
        "no answer is written to memory that the context does not hold"
    );
    assert_eq!(vm.request_as(0, Operation::Echo), None);
    assert_eq!(vm.request_as(u32::MAX, Operation::Echo), None);
    assert_eq!(vm.shared.counters.snapshot().answers[Status::NotAttached as usize], 3);
    assert!(consumer.newest().is_none());
    // Attached to both mailbox and screen, it still has no session.
    vm.vmm.attach(8, MAILBOX);
    vm.vmm.attach(8, SCREEN);
    assert_eq!(vm.request_as(8, Operation::Frame(frame(SCREEN))).expect("answered").status, Status::NotBound);
}

#[test]
fn session_ends_with_its_context() {
    let (mut vm, _consumer, context) = Vm::bound();
    assert_eq!(vm.frame(frame(SCREEN)), Status::Ok);
    vm.vmm.context_destroy(SIDECAR);
    assert_eq!(vm.shared.next_event(vm.shared.epoch()), Some(Event::Gone(context)));
    assert_eq!(vm.request_as(SIDECAR, Operation::Echo), None);
    vm.vmm.context_create(SIDECAR, "successor".to_owned());
    assert_eq!(vm.request_as(SIDECAR, Operation::Echo), None, "attachments ended too");
    vm.vmm.attach(SIDECAR, MAILBOX);
    vm.vmm.attach(SIDECAR, SCREEN);
    assert_eq!(vm.frame(frame(SCREEN)), Status::NotBound);
    vm.vmm.context_destroy(SIDECAR);
    assert_eq!(vm.shared.next_event(vm.shared.epoch()), None, "the host-agent received no bind");
}

#[test]
fn session_ends_with_the_link_and_by_detach() {
    let (mut vm, _consumer, context) = Vm::bound();
    assert_eq!(vm.frame(frame(SCREEN)), Status::Ok);
    vm.shared.disconnect();
    assert_eq!(vm.frame(frame(SCREEN)), Status::NoHostAgent);
    vm.shared.connect();
    assert_eq!(vm.frame(frame(SCREEN)), Status::NotBound);
    let _stale = vm.session(1, context, 1 << 20);
    assert_eq!(vm.frame(frame(SCREEN)), Status::NotBound, "the context sent no bind in this epoch");
    let context = vm.announce();
    let _consumer = vm.session(5, context, 1 << 20);
    assert_eq!(vm.frame(frame(SCREEN)), Status::Ok);
    let epoch = vm.shared.epoch();
    assert!(vm.shared.send_command(Command::Detach { epoch, session: 6 }));
    assert!(vm.shared.send_command(Command::Detach { epoch: epoch - 2, session: 5 }));
    assert_eq!(vm.frame(frame(SCREEN)), Status::Ok);
    assert!(vm.shared.send_command(Command::Detach { epoch, session: 5 }));
    assert_eq!(vm.frame(frame(SCREEN)), Status::NotBound);
}

#[test]
fn second_session_replaces_the_first() {
    let (mut vm, mut old, context) = Vm::bound();
    let mut new = vm.session(2, context, 1 << 20);
    assert_eq!(vm.frame(frame(SCREEN)), Status::Ok);
    assert!(old.newest().is_none());
    assert!(new.newest().is_some());
}

#[test]
fn reset_removes_all_objects() {
    let (mut vm, _consumer, context) = Vm::bound();
    vm.vmm.reset();
    assert_eq!(vm.shared.next_event(vm.shared.epoch()), Some(Event::Gone(context)));
    assert_eq!(vm.request_as(SIDECAR, Operation::Echo), None);
    let stats = vm.shared.counters.snapshot();
    assert_eq!((stats.contexts, stats.resources), (0, 0));
    vm.vmm.context_create(SIDECAR, String::new());
    vm.vmm.resource_create(mailbox(MAILBOX), Some(Page::from_static(vm.words)));
    vm.vmm.attach(SIDECAR, MAILBOX);
    let again = vm.announce();
    assert!(again.generation > context.generation);
}

#[test]
fn detached_memory_is_not_written() {
    let (mut vm, _consumer, _) = Vm::bound();
    vm.vmm.detach_memory(MAILBOX);
    assert_eq!(vm.request_as(SIDECAR, Operation::Echo), None);
    vm.vmm.attach_memory(MAILBOX, Some(Page::from_static(vm.words)));
    vm.request(Operation::Echo);
    vm.vmm.resource_unref(MAILBOX);
    assert_eq!(vm.request_as(SIDECAR, Operation::Echo), None);
}

#[test]
fn answer_counts_overwritten_frames() {
    let (mut vm, mut consumer, _) = Vm::bound();
    for _ in 0..10 {
        vm.frame(frame(SCREEN));
    }
    assert_eq!(vm.request(Operation::Frame(frame(SCREEN))).dropped, 7);
    assert_eq!(consumer.newest().expect("full").dropped().len(), 10);
}

/// Sends `times` requests at one instant; returns how many were accepted.
fn accepted(vm: &mut Vm, times: u32, operation: Operation) -> usize {
    (0..times).filter(|_| vm.request(operation).status == Status::Ok).count()
}

#[test]
fn frames_over_the_rate_limit_are_refused() {
    let (mut vm, _consumer, _) = Vm::bound();
    let operation = Operation::Frame(frame(SCREEN));
    assert_eq!(accepted(&mut vm, 100, operation), 100, "the burst");
    // Each read takes 5 ns on the fake clock, far less than a token's 1 ms.
    assert_eq!(accepted(&mut vm, 100, operation), 0);
    advance(10 * MS);
    assert_eq!(accepted(&mut vm, 100, operation), 10, "1000 a second");
}

#[test]
fn binds_over_the_rate_limit_are_refused() {
    let (mut vm, _consumer, _) = Vm::bound();
    // One of ten was used to bind the session.
    assert_eq!(accepted(&mut vm, 100, Operation::Bind([2; 16])), 9);
    advance(100 * MS);
    assert_eq!(accepted(&mut vm, 100, Operation::Bind([2; 16])), 1, "10 a second");
    assert!(!vm.shared.lost_events());
}

#[test]
fn echoes_over_the_rate_limit_are_refused() {
    let mut vm = Vm::new(Fake::Works);
    assert_eq!(accepted(&mut vm, 5000, Operation::Echo), 1000);
    advance(MS);
    assert_eq!(accepted(&mut vm, 5000, Operation::Echo), 10, "10,000 a second");
}

#[test]
fn contexts_share_the_bind_limit_of_the_vm() {
    let mut vm = Vm::new(Fake::Works);
    vm.shared.connect();
    let mut all = 0;
    for context in 1000..1100 {
        vm.vmm.context_create(context, String::new());
        vm.vmm.attach(context, MAILBOX);
        // The mailbox remembers 32 attachments.
        let binds: Vec<_> = (0..5).filter_map(|_| vm.request_as(context, Operation::Bind([3; 16]))).collect();
        all += binds.iter().filter(|answer| answer.status == Status::Ok).count();
        vm.vmm.detach(context, MAILBOX);
    }
    assert_eq!(all, 50);
    assert!(!vm.shared.lost_events());
}

#[test]
fn failed_read_drops_only_that_frame() {
    let mut vm = Vm::new(Fake::Fails);
    vm.shared.connect();
    let context = vm.announce();
    let mut consumer = vm.session(1, context, 1 << 20);
    for _ in 0..20 {
        assert_eq!(vm.frame(frame(SCREEN)), Status::ReadFailed);
    }
    assert!(consumer.newest().is_none());
    assert_eq!(vm.shared.counters.snapshot().faults, 0);
}

#[test]
fn tap_is_disabled_after_three_faults() {
    let mut vm = Vm::new(Fake::Panics);
    vm.shared.connect();
    let context = vm.announce();
    let mut consumer = vm.session(1, context, 1 << 20);
    for _ in 0..MAX_FAULTS {
        assert_eq!(vm.frame(frame(SCREEN)), Status::ReadFailed);
    }
    assert_eq!(vm.frame(frame(SCREEN)), Status::Disabled);
    assert_eq!(vm.request(Operation::Echo).status, Status::Disabled);
    let stats = vm.shared.counters.snapshot();
    assert_eq!((stats.faults, stats.disabled), (MAX_FAULTS, 1));
    assert!(consumer.newest().is_none());
    vm.vmm.resource_unref(MAILBOX);
    assert_eq!(vm.request_as(SIDECAR, Operation::Echo), None, "objects are still recorded");
}

#[test]
fn full_event_queue_is_reported_as_lost_events() {
    let mut vm = Vm::new(Fake::Works);
    let epoch = vm.shared.connect();
    for generation in 0..5000 {
        vm.shared.send_event(epoch, Event::Gone(Context { id: 1, generation }));
    }
    assert!(vm.shared.lost_events());
    assert_eq!(vm.request(Operation::Bind([1; 16])).status, Status::RateLimited);
    vm.shared.disconnect();
    let epoch = vm.shared.connect();
    assert!(!vm.shared.lost_events());
    assert_eq!(vm.shared.next_event(epoch), None, "events of an earlier epoch are void");
}

proptest! {
    /// Any bytes in the page and any transfer give an answer or none, never a fault.
    #[test]
    fn any_transfer_is_answered_or_ignored(
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
        let result = catch_unwind(AssertUnwindSafe(|| vm.vmm.transfer_write(resource, context, offset)));
        prop_assert!(result.is_ok());
        let stats = vm.shared.counters.snapshot();
        prop_assert_eq!(stats.faults, 0);
        let to_mailbox = resource == MAILBOX && mailbox::slot_at(offset).is_some();
        let answered: u64 = stats.answers.iter().sum::<u64>() - 1;
        let expected = to_mailbox && Request::is_request(&request);
        prop_assert_eq!(answered, u64::from(expected));
    }
}
