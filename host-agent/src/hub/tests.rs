use protocol::PixelFormat;
use protocol::frame::{HEADER_BYTES, Header};
use protocol::stream::Codec;
use tokio::sync::mpsc::Receiver;

use super::vm::Outgoing;
use super::*;
use crate::inbox::{self, InboxReader};
use crate::meter::Meter;
use crate::outbox::Outbox;

struct Fixture {
    hub: Hub,
    readers: Vec<InboxReader>,
}

impl Fixture {
    fn new() -> Self {
        Self { hub: Hub::new(3, 2), readers: Vec::new() }
    }

    fn session(&mut self, stream: &str, nonce: u8) -> Arc<Session> {
        self.try_session(stream, nonce).expect("room")
    }

    fn try_session(&mut self, stream: &str, nonce: u8) -> Result<Arc<Session>, Full> {
        self.session_of("test", stream, nonce)
    }

    fn session_of(&mut self, client: &str, stream: &str, nonce: u8) -> Result<Arc<Session>, Full> {
        let (inbox, reader) = inbox::inbox().expect("an inbox");
        self.readers.push(reader);
        self.hub.add_session(|id| {
            let meter = Meter::new(Arc::clone(&self.hub.totals));
            let outbox = Arc::new(Outbox::new(inbox.waker(), meter.clone()));
            let who = (stream.to_owned(), "peer".to_owned(), client.to_owned());
            Arc::new(Session::new(id, who, [nonce; 16], inbox, outbox, meter))
        })
    }

    fn vm(&self, name: &str) -> (Arc<Vm>, Receiver<Outgoing>) {
        let mut receiver = None;
        let vm = self.hub.add_vm(|id| {
            let description =
                VmDescription { name: name.to_owned(), pid: 1, tap_version: 7, abi: 1, instance: [0; 16] };
            let (vm, outgoing) = Vm::new(id, description);
            receiver = Some(outgoing);
            Arc::new(vm)
        });
        (vm.expect("room"), receiver.expect("made"))
    }
}

const CONTEXT: Context = Context { id: 5, generation: 1 };
const OTHER: Context = Context { id: 6, generation: 2 };

fn config(width: u16, path: Path) -> Config {
    let (format, codec) = (PixelFormat::Bgrx, Codec::H264);
    Config { width, height: 10, format, max_fps: 60, bitrate_kbps: 1000, keyframe_ms: 0, codec, path }
}

fn sent(receiver: &mut Receiver<Outgoing>) -> Vec<ToTap> {
    std::iter::from_fn(|| receiver.try_recv().ok())
        .map(|(message, descriptors)| {
            assert_eq!(descriptors.is_some(), matches!(message, ToTap::Attach { .. }));
            message
        })
        .collect()
}

/// Everything the session's sidecar would read.
async fn told(session: &Session) -> Vec<ServerMessage> {
    session.outbox.close();
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    session.outbox.run(crate::listen::Writer::other(ours)).await.expect("written");
    let mut messages = Vec::new();
    let second = std::time::Duration::from_secs(1);
    while let Ok((header, payload)) =
        crate::wire::read_message(&mut theirs, second, ServerMessage::limit).await
    {
        assert_eq!(header.encode().len(), HEADER_BYTES);
        messages.push(ServerMessage::decode(Header { ..header }, payload).expect("decodes"));
    }
    messages
}

#[tokio::test]
async fn a_nonce_binds_its_session_to_the_context_that_rang() {
    let mut f = Fixture::new();
    let session = f.session("a/b", 1);
    let (vm, mut to_tap) = f.vm("one");
    f.hub.configure(session.id, config(10, Path::ResourceId));
    assert!(sent(&mut to_tap).is_empty(), "no ring before a bind");
    assert!(f.hub.bind(&vm, CONTEXT, &[1; 16], "sidecar".to_owned()));
    assert_eq!(sent(&mut to_tap), [ToTap::Attach { session: session.id, context: CONTEXT }]);
    assert!(f.readers[0].take().ring.flatten().is_some_and(|end| end.consumer.slot_bytes() == 400));
    let bound = ServerMessage::Bound { context: 5, tap_version: 7, vm: "one".to_owned() };
    assert_eq!(told(&session).await, [bound]);
}

#[test]
fn a_bind_before_configure_is_remembered() {
    let mut f = Fixture::new();
    let session = f.session("a/b", 1);
    let (vm, mut to_tap) = f.vm("one");
    assert!(f.hub.bind(&vm, CONTEXT, &[1; 16], String::new()));
    assert!(sent(&mut to_tap).is_empty(), "no ring before a size is known");
    f.hub.configure(session.id, config(10, Path::ResourceId));
    assert_eq!(sent(&mut to_tap).len(), 1);
}

#[test]
fn foreign_and_replayed_nonces_are_refused() {
    let mut f = Fixture::new();
    f.session("a/b", 1);
    let (vm, mut to_tap) = f.vm("one");
    let (second, _keep) = f.vm("two");
    assert!(!f.hub.bind(&vm, CONTEXT, &[9; 16], String::new()), "nobody's nonce");
    assert!(f.hub.bind(&vm, CONTEXT, &[1; 16], String::new()));
    assert!(!f.hub.bind(&vm, OTHER, &[1; 16], String::new()), "replayed by another context");
    assert!(!f.hub.bind(&second, CONTEXT, &[1; 16], String::new()), "replayed in another VM");
    assert!(!f.hub.bind(&vm, Context { generation: 9, ..CONTEXT }, &[1; 16], String::new()), "a reused ID");
    assert!(f.hub.bind(&vm, CONTEXT, &[1; 16], String::new()), "rung again by the same");
    assert!(sent(&mut to_tap).is_empty());
    assert_eq!(f.hub.counts.binds.load(Ordering::Relaxed), 1);
    assert_eq!(f.hub.counts.binds_refused.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn after_its_context_is_gone_a_session_binds_again() {
    let mut f = Fixture::new();
    let session = f.session("a/b", 1);
    let (vm, mut to_tap) = f.vm("one");
    f.hub.configure(session.id, config(10, Path::ResourceId));
    f.hub.bind(&vm, CONTEXT, &[1; 16], String::new());
    f.hub.context_gone(vm.id, OTHER);
    assert_eq!(sent(&mut to_tap).len(), 1, "another context's end is none of ours");
    f.hub.context_gone(vm.id, CONTEXT);
    assert_eq!(sent(&mut to_tap), [ToTap::Detach { session: session.id }]);
    assert!(f.hub.bind(&vm, OTHER, &[1; 16], String::new()));
    assert_eq!(sent(&mut to_tap), [ToTap::Attach { session: session.id, context: OTHER }]);
    let kinds: Vec<_> =
        told(&session).await.iter().map(|m| matches!(m, ServerMessage::Bound { .. })).collect();
    assert_eq!(kinds, [true, false, true]);
}

#[tokio::test]
async fn a_killed_vm_takes_its_bindings_along() {
    let mut f = Fixture::new();
    let (one, two) = (f.session("a/one", 1), f.session("a/two", 2));
    let ((vm, _keep), (other, _keep_too)) = (f.vm("one"), f.vm("two"));
    f.hub.bind(&vm, CONTEXT, &[1; 16], String::new());
    f.hub.bind(&other, CONTEXT, &[2; 16], String::new());
    f.hub.remove_vm(vm.id);
    assert_eq!(f.hub.taps(), 1);
    assert!(told(&one).await.iter().any(|m| matches!(m, ServerMessage::Unbound { .. })));
    assert!(!told(&two).await.iter().any(|m| matches!(m, ServerMessage::Unbound { .. })));
    let (sessions, _) = f.hub.view();
    assert_eq!(sessions.iter().filter(|view| view.binding.is_some()).count(), 1);
}

#[test]
fn another_size_gets_another_ring_and_the_same_size_keeps_it() {
    let mut f = Fixture::new();
    let session = f.session("a/b", 1);
    let (vm, mut to_tap) = f.vm("one");
    f.hub.bind(&vm, CONTEXT, &[1; 16], String::new());
    f.hub.configure(session.id, config(10, Path::ResourceId));
    f.hub.configure(session.id, Config { max_fps: 30, ..config(10, Path::ResourceId) });
    assert_eq!(sent(&mut to_tap).len(), 1);
    f.hub.configure(session.id, config(20, Path::ResourceId));
    let (attach, detach) =
        (ToTap::Attach { session: session.id, context: CONTEXT }, ToTap::Detach { session: session.id });
    assert_eq!(sent(&mut to_tap), [detach, attach]);
    f.hub.configure(session.id, config(20, Path::Pixels));
    assert_eq!(sent(&mut to_tap), [detach], "pushed pixels need no ring");
    f.hub.remove_session(session.id);
    assert!(sent(&mut to_tap).is_empty());
}

#[tokio::test]
async fn one_context_serves_its_newest_session() {
    let mut f = Fixture::new();
    let (old, new) = (f.session("a/old", 1), f.session("a/new", 2));
    let (vm, mut to_tap) = f.vm("one");
    for session in [&old, &new] {
        f.hub.configure(session.id, config(10, Path::ResourceId));
    }
    f.hub.bind(&vm, CONTEXT, &[1; 16], String::new());
    f.hub.bind(&vm, CONTEXT, &[2; 16], String::new());
    let attach = |session: &Session| ToTap::Attach { session: session.id, context: CONTEXT };
    assert_eq!(sent(&mut to_tap), [attach(&old), ToTap::Detach { session: old.id }, attach(&new)]);
    assert!(told(&old).await.iter().any(|m| matches!(m, ServerMessage::Unbound { .. })));
}

#[tokio::test]
async fn a_newer_session_of_a_stream_replaces_the_older_even_when_full() {
    let mut f = Fixture::new();
    let old = f.session("a/b", 1);
    f.session("a/c", 2);
    f.session("a/d", 3);
    let full = f.try_session("a/e", 4).expect_err("three is the limit");
    assert!(full.to_string().contains("--max-sessions"), "{full}");
    let (vm, mut to_tap) = f.vm("one");
    f.hub.configure(old.id, config(10, Path::ResourceId));
    f.hub.bind(&vm, CONTEXT, &[1; 16], String::new());
    f.session("a/b", 5);
    assert_eq!(old.ended().await, ErrorCode::Replaced);
    assert_eq!(sent(&mut to_tap).last(), Some(&ToTap::Detach { session: old.id }));
    assert!(!f.hub.bind(&vm, CONTEXT, &[1; 16], String::new()), "the old nonce died with its session");
    f.hub.remove_session(old.id);
    assert_eq!(f.hub.view().0.len(), 3, "removing the old one twice leaves the new one");
}

#[tokio::test]
async fn a_doctor_looks_at_a_stream_beside_its_sidecar() {
    let mut f = Fixture::new();
    let sidecar = f.session("a/b", 1);
    let doctor = f.session_of("desktopstream doctor 1.0", "a/b", 2).expect("room");
    let (vm, _to_tap) = f.vm("one");
    assert!(f.hub.bind(&vm, CONTEXT, &[1; 16], String::new()), "the sidecar's session lives on");
    assert!(f.hub.bind(&vm, OTHER, &[2; 16], String::new()));
    f.session_of("desktopstream doctor 1.0", "a/b", 3).expect("room");
    assert_eq!(doctor.ended().await, ErrorCode::Replaced, "one doctor at a time");
    f.session("a/b", 4);
    assert_eq!(sidecar.ended().await, ErrorCode::Replaced);
    assert_eq!(f.hub.view().0.len(), 2);
}

#[test]
fn taps_are_bounded() {
    let f = Fixture::new();
    let _keep = (f.vm("one"), f.vm("two"));
    let full = f.hub.add_vm(|id| {
        let description =
            VmDescription { name: String::new(), pid: 1, tap_version: 1, abi: 1, instance: [0; 16] };
        Arc::new(Vm::new(id, description).0)
    });
    assert!(full.expect_err("two is the limit").to_string().contains("--max-taps"));
}
