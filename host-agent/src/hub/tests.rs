use std::cell::Cell;

use protocol::PixelFormat;
use protocol::stream::{Codec, Path};
use tokio::sync::mpsc::Receiver;

use super::*;
use crate::framing::FramedReader;
use crate::inbox::{self, InboxReader};
use crate::meter::Meter;
use crate::outbox::Outbox;

thread_local! {
    /// The fake clock of this thread's hub, ns. It stands still unless a test advances it.
    static NOW: Cell<u64> = const { Cell::new(1 << 40) };
}

pub(super) fn advance(time: std::time::Duration) {
    NOW.set(NOW.get() + time.as_nanos() as u64);
}

pub(super) struct Fixture {
    pub(super) hub: Hub,
    /// Inboxes of the sessions, in order.
    pub(super) inboxes: Vec<InboxReader>,
}

impl Fixture {
    /// A hub for three sessions and two taps.
    fn new() -> Self {
        Self::with_sessions(3)
    }

    pub(super) fn with_sessions(max_sessions: usize) -> Self {
        let hub = Hub { clock: || NOW.get(), ..Hub::new(max_sessions, 2) };
        Self { hub, inboxes: Vec::new() }
    }

    pub(super) fn session(&mut self, stream: &str, nonce: u8) -> Arc<Session> {
        self.try_session("test", stream, nonce).expect("below the limit")
    }

    fn doctor(&mut self, stream: &str, nonce: u8) -> Arc<Session> {
        self.try_session(&format!("{DOCTOR} 1.0"), stream, nonce).expect("below the limit")
    }

    fn try_session(&mut self, client: &str, stream: &str, nonce: u8) -> Result<Arc<Session>, LimitReached> {
        let (inbox, reader) = inbox::inbox().expect("a socket pair");
        self.inboxes.push(reader);
        self.hub.add_session(|id| {
            let meter = Meter::new(Arc::clone(&self.hub.totals));
            let outbox = Arc::new(Outbox::new(inbox.waker(), meter.clone()));
            let info = SessionInfo {
                id,
                stream: stream.to_owned(),
                peer: "peer".to_owned(),
                client: client.to_owned(),
                nonce: [nonce; 16],
            };
            Arc::new(Session::new(info, inbox, outbox, meter))
        })
    }

    fn try_vm(&self, name: &str) -> Result<(Arc<Vm>, Receiver<Outgoing>), LimitReached> {
        let mut receiver = None;
        let vm = self.hub.add_vm(|id| {
            let description =
                VmDescription { name: name.to_owned(), pid: 1, tap_version: 7, abi: 1, instance: [0; 16] };
            let (vm, outgoing) = Vm::new(id, description);
            receiver = Some(outgoing);
            Arc::new(vm)
        })?;
        Ok((vm, receiver.expect("set")))
    }

    pub(super) fn vm(&self, name: &str) -> (Arc<Vm>, Receiver<Outgoing>) {
        self.try_vm(name).expect("below the limit")
    }

    pub(super) fn bind(&self, vm: &Arc<Vm>, context: Context, nonce: u8) -> bool {
        self.hub.bind(vm, context, &[nonce; 16], "sidecar")
    }
}

pub(super) const CONTEXT: Context = Context { id: 5, generation: 1 };
pub(super) const OTHER: Context = Context { id: 6, generation: 2 };

pub(super) fn config(width: u16, path: Path) -> Config {
    let (format, codec) = (PixelFormat::Bgrx, Codec::H264);
    Config { width, height: 10, format, max_fps: 60, bitrate_kbps: 1000, keyframe_ms: 0, codec, path }
}

/// A message for a tap, without the ring's number.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Attach(u64, Context),
    Detach(u64),
}

fn attach(session: &Session, context: Context) -> Sent {
    Sent::Attach(session.info.id, context)
}

fn detach(session: &Session) -> Sent {
    Sent::Detach(session.info.id)
}

/// Messages about rings that are queued for a tap.
pub(super) fn sent_messages(receiver: &mut Receiver<Outgoing>) -> Vec<ToTap> {
    std::iter::from_fn(|| receiver.try_recv().ok())
        .map(|(message, descriptors)| {
            assert_eq!(descriptors.is_some(), matches!(message, ToTap::Attach { .. }));
            message
        })
        .filter(|message| matches!(message, ToTap::Attach { .. } | ToTap::Detach { .. }))
        .collect()
}

/// The same, with each ring answered as ready.
fn sent(hub: &Hub, vm: &Vm, receiver: &mut Receiver<Outgoing>) -> Vec<Sent> {
    let messages = sent_messages(receiver);
    let sent = messages.into_iter().map(|message| match message {
        ToTap::Attach { session, ring, context } => {
            hub.ring_answered(vm.id, session, ring, Ok(()));
            Sent::Attach(session, context)
        }
        ToTap::Detach { session } => Sent::Detach(session),
        other => unreachable!("{other:?}"),
    });
    sent.collect()
}

/// All messages queued for a session's sidecar. Closes the session.
pub(super) async fn received(session: &Session) -> Vec<ServerMessage> {
    session.outbox.close();
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    session.outbox.run(crate::listen::Writer::other(ours)).await.expect("written");
    let mut reader = FramedReader::new(theirs);
    let mut messages = Vec::new();
    while let Ok((header, payload)) =
        reader.read(std::time::Duration::from_secs(1), ServerMessage::limit).await
    {
        messages.push(ServerMessage::decode(header, payload).expect("decoded"));
    }
    messages
}

async fn was_unbound(session: &Session) -> bool {
    received(session).await.iter().any(|message| matches!(message, ServerMessage::Unbound { .. }))
}

#[tokio::test]
async fn nonce_binds_its_session_to_the_context_that_sent_it() {
    let mut f = Fixture::new();
    let session = f.session("a/b", 1);
    let (vm, mut to_tap) = f.vm("one");
    f.hub.configure(session.info.id, config(10, Path::ResourceId));
    assert!(sent(&f.hub, &vm, &mut to_tap).is_empty(), "an unbound session has no ring");
    assert!(f.bind(&vm, CONTEXT, 1));
    assert_eq!(sent(&f.hub, &vm, &mut to_tap), [attach(&session, CONTEXT)]);
    let ring = f.inboxes[0].take_orders().ring.flatten().expect("a ring");
    assert_eq!(ring.consumer.slot_bytes(), 400);
    let bound = ServerMessage::Bound { context: 5, tap_version: 7, vm: "one".to_owned() };
    assert_eq!(received(&session).await, [bound]);
}

#[test]
fn session_bound_before_configure_gets_its_ring_at_configure() {
    let mut f = Fixture::new();
    let session = f.session("a/b", 1);
    let (vm, mut to_tap) = f.vm("one");
    assert!(f.bind(&vm, CONTEXT, 1));
    assert!(sent(&f.hub, &vm, &mut to_tap).is_empty(), "the size is unknown");
    f.hub.configure(session.info.id, config(10, Path::ResourceId));
    assert_eq!(sent(&f.hub, &vm, &mut to_tap), [attach(&session, CONTEXT)]);
}

#[test]
fn unknown_or_replayed_nonce_is_refused() {
    let mut f = Fixture::new();
    f.session("a/b", 1);
    let (vm, mut to_tap) = f.vm("one");
    let (second, _keep) = f.vm("two");
    assert!(!f.bind(&vm, CONTEXT, 9), "of no session");
    assert!(f.bind(&vm, CONTEXT, 1));
    assert!(!f.bind(&vm, OTHER, 1), "replayed by another context");
    assert!(!f.bind(&second, CONTEXT, 1), "replayed in another VM");
    assert!(!f.bind(&vm, Context { generation: 9, ..CONTEXT }, 1), "a reused context ID");
    assert!(sent(&f.hub, &vm, &mut to_tap).is_empty());
    assert_eq!(f.hub.counts.binds_refused.load(Ordering::Relaxed), 4);
}

#[test]
fn repeated_bind_of_the_same_context_is_confirmed_and_counted_once() {
    let mut f = Fixture::new();
    f.session("a/b", 1);
    let (vm, _to_tap) = f.vm("one");
    assert!(f.bind(&vm, CONTEXT, 1) && f.bind(&vm, CONTEXT, 1));
    assert_eq!(f.hub.counts.binds.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn session_of_a_destroyed_context_binds_another() {
    let mut f = Fixture::new();
    let session = f.session("a/b", 1);
    let (vm, mut to_tap) = f.vm("one");
    f.hub.configure(session.info.id, config(10, Path::ResourceId));
    f.bind(&vm, CONTEXT, 1);
    f.hub.context_destroyed(vm.id, OTHER);
    assert_eq!(sent(&f.hub, &vm, &mut to_tap), [attach(&session, CONTEXT)], "another context was destroyed");
    f.hub.context_destroyed(vm.id, CONTEXT);
    assert_eq!(sent(&f.hub, &vm, &mut to_tap), [detach(&session)]);
    assert!(f.bind(&vm, OTHER, 1));
    assert_eq!(sent(&f.hub, &vm, &mut to_tap), [attach(&session, OTHER)]);
    let bound: Vec<_> =
        received(&session).await.iter().map(|m| matches!(m, ServerMessage::Bound { .. })).collect();
    assert_eq!(bound, [true, false, true]);
}

#[tokio::test]
async fn removed_vm_unbinds_its_own_sessions_only() {
    let mut f = Fixture::new();
    let (one, two) = (f.session("a/one", 1), f.session("a/two", 2));
    let ((vm, _keep), (other, _keep_too)) = (f.vm("one"), f.vm("two"));
    f.bind(&vm, CONTEXT, 1);
    f.bind(&other, CONTEXT, 2);
    f.hub.remove_vm(vm.id);
    assert_eq!(f.hub.taps(), 1);
    assert!(was_unbound(&one).await);
    assert!(!was_unbound(&two).await);
    let (sessions, _) = f.hub.view();
    assert_eq!(sessions.iter().filter(|view| view.binding.is_some()).count(), 1);
}

#[test]
fn ring_is_replaced_only_if_the_frame_size_changes() {
    let mut f = Fixture::new();
    let session = f.session("a/b", 1);
    let id = session.info.id;
    let (vm, mut to_tap) = f.vm("one");
    f.bind(&vm, CONTEXT, 1);
    f.hub.configure(id, config(10, Path::ResourceId));
    f.hub.configure(id, Config { max_fps: 30, ..config(10, Path::ResourceId) });
    assert_eq!(sent(&f.hub, &vm, &mut to_tap), [attach(&session, CONTEXT)]);
    f.hub.configure(id, config(20, Path::ResourceId));
    assert_eq!(sent(&f.hub, &vm, &mut to_tap), [detach(&session), attach(&session, CONTEXT)]);
    f.hub.configure(id, config(20, Path::Pixels));
    assert_eq!(sent(&f.hub, &vm, &mut to_tap), [detach(&session)], "pushed pixels need no ring");
    f.hub.remove_session(id);
    assert!(sent(&f.hub, &vm, &mut to_tap).is_empty());
}

#[tokio::test]
async fn context_serves_the_newest_session_that_it_bound() {
    let mut f = Fixture::new();
    let (old, new) = (f.session("a/old", 1), f.session("a/new", 2));
    let (vm, mut to_tap) = f.vm("one");
    for session in [&old, &new] {
        f.hub.configure(session.info.id, config(10, Path::ResourceId));
    }
    f.bind(&vm, CONTEXT, 1);
    f.bind(&vm, CONTEXT, 2);
    assert_eq!(sent(&f.hub, &vm, &mut to_tap), [attach(&old, CONTEXT), detach(&old), attach(&new, CONTEXT)]);
    assert!(was_unbound(&old).await);
}

#[test]
fn session_over_the_limit_is_refused() {
    let mut f = Fixture::new();
    for nonce in 0..3 {
        f.session(&format!("a/{nonce}"), nonce);
    }
    let error = f.try_session("test", "a/3", 3).expect_err("the limit is three");
    assert!(error.to_string().contains("--max-sessions"), "{error}");
}

#[tokio::test]
async fn newer_session_of_a_stream_replaces_the_older_at_the_limit() {
    let mut f = Fixture::new();
    let old = f.session("a/b", 1);
    f.session("a/c", 2);
    f.session("a/d", 3);
    let (vm, mut to_tap) = f.vm("one");
    f.hub.configure(old.info.id, config(10, Path::ResourceId));
    f.bind(&vm, CONTEXT, 1);
    f.session("a/b", 5);
    assert_eq!(old.ended().await, ErrorCode::Replaced);
    assert_eq!(sent(&f.hub, &vm, &mut to_tap).last(), Some(&detach(&old)));
    assert!(!f.bind(&vm, CONTEXT, 1), "the nonce of a replaced session is invalid");
    f.hub.remove_session(old.info.id);
    assert_eq!(f.hub.view().0.len(), 3, "removing the replaced session does not remove the new one");
}

#[tokio::test]
async fn doctor_and_sidecar_of_a_stream_do_not_replace_each_other() {
    let mut f = Fixture::new();
    let sidecar = f.session("a/b", 1);
    let doctor = f.doctor("a/b", 2);
    let (vm, _to_tap) = f.vm("one");
    assert!(f.bind(&vm, CONTEXT, 1) && f.bind(&vm, OTHER, 2), "both sessions exist");
    f.doctor("a/b", 3);
    assert_eq!(doctor.ended().await, ErrorCode::Replaced, "by the newer doctor");
    f.session("a/b", 4);
    assert_eq!(sidecar.ended().await, ErrorCode::Replaced, "by the newer sidecar");
    assert_eq!(f.hub.view().0.len(), 2);
}

#[test]
fn taps_know_the_nonces_of_sessions() {
    let mut f = Fixture::new();
    let (vm, mut early) = f.vm("one");
    let session = f.session("a/b", 1);
    f.session("a/c", 2);
    let all = |receiver: &mut Receiver<Outgoing>| -> Vec<ToTap> {
        std::iter::from_fn(|| receiver.try_recv().ok()).map(|(message, _)| message).collect()
    };
    let prefix = |nonce: u8| nonce_prefix(&[nonce; 16]);
    assert_eq!(all(&mut early), [ToTap::Expect(vec![prefix(1)]), ToTap::Expect(vec![prefix(2)])]);
    let (_, mut late) = f.vm("two");
    let [ToTap::Expect(mut prefixes)] = <[ToTap; 1]>::try_from(all(&mut late)).expect("one message") else {
        unreachable!("only nonces")
    };
    prefixes.sort_unstable();
    assert_eq!(prefixes, [prefix(1), prefix(2)]);
    f.hub.remove_session(session.info.id);
    assert_eq!(all(&mut early), [ToTap::Forget(prefix(1))]);
    f.session("a/c", 3);
    assert_eq!(all(&mut early), [ToTap::Forget(prefix(2)), ToTap::Expect(vec![prefix(3)])], "replaced");
    drop(vm);
}

#[test]
fn tap_over_the_limit_is_refused() {
    let f = Fixture::new();
    let _keep = (f.vm("one"), f.vm("two"));
    let error = f.try_vm("three").expect_err("the limit is two");
    assert!(error.to_string().contains("--max-taps"), "{error}");
}
