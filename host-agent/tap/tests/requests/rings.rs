//! Rings between the VMM's thread and the link thread.

use std::sync::Arc;

use frame_ring::wake::WakeState;
use protocol::mailbox::Status;
use tap::binding::{Account, Unmapped};
use tap::shared::MAX_SESSIONS;

use crate::vm::{SCREEN, SIDECAR, Vm, frame};

#[test]
fn ring_is_unmapped_by_the_link_thread_alone() {
    let (mut vm, _consumer, context) = Vm::bound();
    assert_eq!(vm.frame(frame(SCREEN)), Status::Ok);
    let bytes = vm.shared.ring_bytes.used();
    let _second = vm.session(2, context, 1 << 20);
    vm.wake_fds[0].clear();
    assert_eq!(vm.frame(frame(SCREEN)), Status::Ok);
    let [first, second] = [0, 1].map(|at| Arc::clone(&vm.attachments[at]));
    assert!(first.is_revoked() && !second.is_revoked());
    assert_eq!(vm.wake_fds[0].clear(), WakeState::Woken, "the link thread is told");
    assert_eq!(vm.shared.ring_bytes.used(), bytes + (1 << 20), "still mapped");
    assert_eq!(first.unmap(), Unmapped::Yes);
    assert_eq!(vm.shared.ring_bytes.used(), 1 << 20);
    vm.vmm.context_destroy(SIDECAR);
    assert!(second.is_revoked());
    drop(vm.vmm);
    assert_eq!(vm.shared.ring_bytes.used(), 1 << 20, "the VMM's thread dropped it without unmapping");
    assert_eq!(second.unmap(), Unmapped::Yes);
    assert_eq!(vm.shared.ring_bytes.used(), 0);
}

#[test]
fn ring_in_use_is_unmapped_once_it_is_given_back() {
    let (mut vm, _consumer, _) = Vm::bound();
    assert_eq!(vm.frame(frame(SCREEN)), Status::Ok);
    let attachment = Arc::clone(&vm.attachments[0]);
    let lent = vm.shared.lend(&attachment).expect("bound");
    attachment.revoke();
    assert_eq!(attachment.unmap(), Unmapped::InUse);
    vm.wake_fds[0].clear();
    drop(lent);
    assert_eq!(vm.wake_fds[0].clear(), WakeState::Woken);
    assert!(vm.shared.lend(&attachment).is_none());
    assert_eq!(attachment.unmap(), Unmapped::Yes);
}

#[test]
fn idle_vm_takes_any_number_of_attachments() {
    let (mut vm, _consumer, context) = Vm::bound();
    // The VM makes no request, so the queue is not emptied.
    for session in 0..10 * MAX_SESSIONS as u64 {
        let (_, attachment) = vm.attachment(session + 10, context, 64);
        assert!(vm.shared.send_attachment(Arc::clone(&attachment)), "session {session}");
        attachment.revoke();
        assert_eq!(attachment.unmap(), Unmapped::Yes);
    }
    let mut newest = vm.session(5, context, 1 << 20);
    assert_eq!(vm.frame(frame(SCREEN)), Status::Ok);
    assert!(newest.newest().is_some());
}

#[test]
fn ring_memory_counts_until_it_is_unmapped() {
    let account = Account::new(100);
    let (one, two) = (account.charge(60), account.charge(40));
    assert!(one.is_some() && two.is_some());
    assert!(account.charge(1).is_none() && account.charge(u64::MAX).is_none());
    drop(two);
    assert_eq!(account.used(), 60);
    assert!(account.charge(41).is_none() && account.charge(40).is_some());
    drop(one);
    assert_eq!(account.used(), 0);
}
