use frame_ring::wake::{self, WakeFd};
use frame_ring::{Consumer, Ring as FrameRing};

use super::*;

const CONTEXT: Context = Context { id: 7, generation: 1 };
const EPOCH: u64 = 1;

struct Fixture {
    rings: Rings,
    shared: Arc<Shared>,
    /// Keeps the host-agent's ends and the link thread's wake fd open.
    ends: Vec<(Option<Consumer>, WakeFd)>,
}

impl Fixture {
    fn new() -> Self {
        let (wake_fd, waker) = wake::pair().expect("pair");
        let shared = Arc::new(Shared::new(waker));
        assert_eq!(shared.connect(), EPOCH);
        Self { rings: Rings::new(Arc::clone(&shared)), shared, ends: vec![(None, wake_fd)] }
    }

    fn descriptors(&mut self, slot_bytes: usize) -> [OwnedFd; 2] {
        let (consumer, memory) = FrameRing::create(frame_ring::SLOTS, slot_bytes).expect("ring");
        let (wake_fd, waker) = wake::pair().expect("pair");
        self.ends.push((Some(consumer), wake_fd));
        [memory, waker.into()]
    }

    fn attach(&mut self, session: u64, context: Context, slot_bytes: usize) -> Result<(), RingRefusal> {
        let descriptors = self.descriptors(slot_bytes);
        self.rings.attach(session, EPOCH, context, descriptors)
    }
}

fn context(id: u32) -> Context {
    Context { id, generation: id.into() }
}

#[test]
fn session_that_alternates_sizes_keeps_one_ring_mapped() {
    let mut f = Fixture::new();
    let size = |round: u64| if round.is_multiple_of(2) { 1 << 20 } else { (1 << 20) - 8192 };
    for round in 0..1000 {
        // The VM makes no requests meanwhile.
        f.attach(1, CONTEXT, size(round)).expect("attached");
        f.ends.truncate(1);
        let bytes = f.shared.ring_bytes.used();
        assert!(bytes < 5 << 20, "{bytes} bytes after {round} rings");
    }
    f.rings.end_all();
    assert_eq!((f.shared.ring_bytes.used(), f.shared.sessions.load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn ring_over_the_limit_is_refused_and_others_stay() {
    let mut f = Fixture::new();
    f.attach(1, CONTEXT, 4096).expect("attached");
    // A sparse file of the limit's size; it is refused before it is mapped.
    let [_, waker] = f.descriptors(4096);
    let file = tempfile::tempfile().expect("file");
    file.set_len(protocol::link::MAX_RING_BYTES).expect("sized");
    let refused = f.rings.attach(2, EPOCH, context(8), [file.into(), waker]);
    assert_eq!(refused, Err(RingRefusal::Memory));
    assert!(!f.rings.attached[&1].is_revoked());
    assert_eq!(f.shared.sessions.load(Ordering::Relaxed), 1);
}

#[test]
fn unusable_descriptor_is_refused_and_uncharged() {
    let mut f = Fixture::new();
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").expect("null"));
    let [memory, waker] = f.descriptors(4096);
    assert_eq!(f.rings.attach(1, EPOCH, CONTEXT, [null(), waker]), Err(RingRefusal::Memfd));
    assert_eq!(f.rings.attach(1, EPOCH, CONTEXT, [memory, null()]), Err(RingRefusal::WakeFd));
    assert_eq!(f.shared.ring_bytes.used(), 0);
    f.attach(1, CONTEXT, 4096).expect("attached");
}

#[test]
fn session_beyond_the_limit_is_refused_and_others_stay() {
    let mut f = Fixture::new();
    for session in 0..MAX_SESSIONS as u32 {
        f.attach(session.into(), context(session), 64).expect("attached");
    }
    assert_eq!(f.attach(9999, context(9999), 64), Err(RingRefusal::Sessions));
    f.attach(3, context(3), 128).expect("a session that exists gets another ring");
    f.rings.detach(4);
    f.attach(9999, context(9999), 64).expect("one session ended");
    let queued = std::iter::from_fn(|| f.shared.next_attachment()).filter(|queued| !queued.is_revoked());
    assert_eq!(queued.count(), MAX_SESSIONS);
}

#[test]
fn newer_session_of_a_context_ends_the_older() {
    let mut f = Fixture::new();
    f.attach(1, CONTEXT, 64).expect("attached");
    let first = Arc::clone(&f.rings.attached[&1]);
    f.attach(2, CONTEXT, 64).expect("attached");
    assert!(first.is_revoked());
    assert_eq!(f.shared.sessions.load(Ordering::Relaxed), 1);
}

#[test]
fn attachment_that_the_vmm_thread_ended_is_unmapped() {
    let mut f = Fixture::new();
    f.attach(1, CONTEXT, 64).expect("attached");
    f.shared.revoke(&f.rings.attached[&1]);
    assert!(f.shared.ring_bytes.used() > 0);
    f.rings.unmap_revoked();
    assert_eq!(f.shared.ring_bytes.used(), 0);
}

#[test]
fn ring_in_use_counts_until_it_is_given_back() {
    let mut f = Fixture::new();
    f.attach(1, CONTEXT, 64).expect("attached");
    let attachment = Arc::clone(&f.rings.attached[&1]);
    let lent = f.shared.lend(&attachment).expect("attached");
    f.rings.detach(1);
    assert!(f.shared.ring_bytes.used() > 0, "in use");
    drop(lent);
    f.rings.unmap_revoked();
    assert_eq!(f.shared.ring_bytes.used(), 0);
}
