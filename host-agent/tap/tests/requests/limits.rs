//! Limits of requests, binds and time.

use protocol::link::{Context, nonce_prefix};
use protocol::mailbox::{Operation, Status};
use tap::shared::Event;

use crate::vm::{Fake, MAILBOX, MS, NONCE, SCREEN, Vm, advance, frame};

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
    assert_eq!(accepted(&mut vm, 20, operation), 0);
    advance(10 * MS);
    assert_eq!(accepted(&mut vm, 20, operation), 10, "1000 a second");
}

#[test]
fn context_over_its_time_on_the_vmm_thread_is_refused() {
    let (mut vm, _consumer, _) = Vm::bound();
    vm.vmm.reader().slow = 20 * MS;
    let operation = Operation::Frame(frame(SCREEN));
    let burst = accepted(&mut vm, 1000, operation);
    assert!((3..10).contains(&burst), "{burst} reads of 20 ms");
    assert_eq!(accepted(&mut vm, 1000, operation), 0, "a flood is not served at all");
    advance(2000 * MS);
    assert_eq!(accepted(&mut vm, 1, operation), 1);
    // Echoes are answered.
    assert_eq!(vm.request(Operation::Echo).status, Status::Ok);
}

#[test]
fn binds_over_the_rate_limit_are_refused() {
    let (mut vm, _consumer, _) = Vm::bound();
    // One of ten was used to bind the session.
    assert_eq!(accepted(&mut vm, 100, Operation::Bind(NONCE)), 9);
    advance(100 * MS);
    assert_eq!(accepted(&mut vm, 100, Operation::Bind(NONCE)), 1, "10 a second");
    assert_eq!(accepted(&mut vm, 100, Operation::Bind([2; 16])), 3, "guesses");
    advance(1000 * MS);
    assert_eq!(accepted(&mut vm, 100, Operation::Bind([2; 16])), 1, "1 a second");
}

/// Takes the queued events; returns the ends of contexts among them.
fn ends(vm: &Vm) -> Vec<Context> {
    let events = std::iter::from_fn(|| vm.shared.next_event(vm.shared.epoch()));
    let end = |event| if let Event::Gone(context) = event { Some(context) } else { None };
    events.filter_map(end).collect()
}

/// Creates contexts that each sent a bind.
fn announced_contexts(vm: &mut Vm, ids: std::ops::Range<u32>) {
    for context in ids {
        vm.vmm.context_create(context, String::new());
        vm.vmm.attach(context, MAILBOX);
        advance(50 * MS);
        let answer = vm.request_as(context, Operation::Bind([3; 16])).expect("answered");
        assert_eq!(answer.status, Status::Ok);
        vm.vmm.detach(context, MAILBOX);
        assert!(ends(vm).is_empty());
    }
}

#[test]
fn contexts_that_end_at_once_cost_no_tenant_the_link() {
    let (mut vm, _consumer, _) = Vm::bound();
    let ids = 1000..4000;
    announced_contexts(&mut vm, ids.clone());
    // A process exits while the link thread maps a ring.
    ids.clone().for_each(|context| vm.vmm.context_destroy(context));
    assert_eq!(vm.frame(frame(SCREEN)), Status::Ok, "the other tenant's session goes on");
    assert_eq!(vm.request(Operation::Bind(NONCE)).status, Status::RateLimited, "after the ends");
    let mut reported = Vec::new();
    while reported.len() < ids.len() {
        let part = ends(&vm);
        assert!(!part.is_empty(), "{} of {} ends were reported", reported.len(), ids.len());
        reported.extend(part);
        assert_eq!(vm.request(Operation::Echo).status, Status::Ok);
    }
    assert!(reported.iter().map(|context| context.id).eq(ids));
    advance(100 * MS);
    assert_eq!(vm.request(Operation::Bind(NONCE)).status, Status::Ok);
}

#[test]
fn ends_of_contexts_are_void_in_another_epoch() {
    let (mut vm, _consumer, _) = Vm::bound();
    announced_contexts(&mut vm, 1000..3000);
    (1000..3000).for_each(|context| vm.vmm.context_destroy(context));
    vm.shared.disconnect();
    vm.shared.connect();
    assert_eq!(vm.request(Operation::Echo).status, Status::Ok);
    assert!(ends(&vm).is_empty());
    vm.announce();
}

/// Sends `times` binds from each of 100 contexts; returns how many were accepted.
fn binds_of_many_contexts(vm: &mut Vm, times: usize, nonce: [u8; 16]) -> usize {
    let mut all = 0;
    for context in 1000..1100 {
        vm.vmm.context_create(context, String::new());
        vm.vmm.attach(context, MAILBOX);
        let binds: Vec<_> =
            (0..times).filter_map(|_| vm.request_as(context, Operation::Bind(nonce))).collect();
        all += binds.iter().filter(|answer| answer.status == Status::Ok).count();
        // The mailbox remembers 32 attachments.
        vm.vmm.detach(context, MAILBOX);
    }
    all
}

#[test]
fn contexts_that_guess_nonces_take_no_bind_from_a_sidecar() {
    let mut vm = Vm::new(Fake::works());
    vm.shared.connect();
    assert_eq!(binds_of_many_contexts(&mut vm, 5, [3; 16]), 20, "guesses share the VM's limit");
    assert_eq!(vm.request(Operation::Bind([3; 16])).status, Status::RateLimited);
    while vm.shared.next_event(vm.shared.epoch()).is_some() {}
    vm.announce();
}

#[test]
fn contexts_share_the_bind_limit_of_their_session() {
    let mut vm = Vm::new(Fake::works());
    vm.shared.connect();
    let own = [4; 16];
    vm.shared.expected.insert(nonce_prefix(&own));
    assert_eq!(binds_of_many_contexts(&mut vm, 5, own), 10);
    while vm.shared.next_event(vm.shared.epoch()).is_some() {}
    vm.announce();
    // The next session in the same place has its own limit.
    let next = [5; 16];
    vm.shared.expected.remove(nonce_prefix(&own));
    vm.shared.expected.insert(nonce_prefix(&next));
    assert_eq!(vm.request(Operation::Bind(next)).status, Status::Ok);
}

#[test]
fn echoes_over_the_rate_limit_are_refused() {
    let mut vm = Vm::new(Fake::works());
    assert_eq!(accepted(&mut vm, 5000, Operation::Echo), 1000);
    advance(MS);
    assert_eq!(accepted(&mut vm, 5000, Operation::Echo), 10, "10,000 a second");
}
