//! The VMM state machine on plain memory: every mailbox answer, with a fake reader, a fake clock and no
//! threads. `virgl/` has the tests with virglrenderer.

mod limits;
mod rings;
mod vm;

use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;
use protocol::link::Context;
use protocol::mailbox::{self, FrameRequest, Operation, Request, Status};
use protocol::{PixelFormat, Rect};
use tap::abi::CreateArgs;
use tap::memory::Page;
use tap::shared::Event;
use tap::vmm::MAX_FAULTS;

use vm::{Fake, MAILBOX, SCREEN, SIDECAR, Vm, WIDTH, frame, mailbox, screen};

#[test]
fn echo_without_host_agent_is_answered() {
    let mut vm = Vm::new(Fake::works());
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
    let mut vm = Vm::new(Fake::works());
    assert_eq!(vm.frame(frame(SCREEN)), Status::NoHostAgent);
    assert_eq!(vm.request(Operation::Bind([1; 16])).status, Status::NoHostAgent);
    vm.shared.connect();
    assert_eq!(vm.frame(frame(SCREEN)), Status::NotBound);
}

#[test]
fn session_is_bound_only_to_a_context_that_sent_a_bind() {
    let mut vm = Vm::new(Fake::works());
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
    let last = vm.attachments.pop().expect("session 5");
    vm.attachments.iter().for_each(|other| other.revoke());
    assert_eq!(vm.frame(frame(SCREEN)), Status::Ok);
    last.revoke();
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

#[test]
fn failed_read_drops_only_that_frame() {
    let mut vm = Vm::new(Fake::fails());
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
    let mut vm = Vm::new(Fake::panics());
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
fn bind_is_refused_while_the_event_queue_is_full() {
    let mut vm = Vm::new(Fake::works());
    let epoch = vm.shared.connect();
    while vm.shared.send_event(epoch, Event::Gone(Context { id: 1, generation: 1 })) {}
    assert_eq!(vm.request(Operation::Bind([1; 16])).status, Status::RateLimited);
    vm.shared.disconnect();
    let epoch = vm.shared.connect();
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
