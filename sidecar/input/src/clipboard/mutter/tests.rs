//! Against a fake of Mutter's session on a connection without a bus.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use contract::clipboard::Format;
use futures_util::StreamExt as _;
use zbus::connection::Builder;

use super::*;

const PATH: &str = "/org/gnome/Mutter/RemoteDesktop/Session/u1";
const TIMEOUT: Duration = Duration::from_mins(1);

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIMEOUT, future).await.expect("in time")
}

/// A session as Mutter has it.
struct Fake {
    connection: Connection,
    calls: MessageStream,
}

impl Fake {
    /// The fake, and a connection to it.
    async fn new() -> (Self, Connection) {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let server = Builder::unix_stream(ours).server(zbus::Guid::generate()).p2p().build();
        let client = Builder::unix_stream(theirs).p2p().build();
        let (connection, client) = within(async { tokio::join!(server, client) }).await;
        let (connection, client) = (connection.expect("connects"), client.expect("connects"));
        let calls = MessageStream::from(&connection);
        (Self { connection, calls }, client)
    }

    /// The next call, which must be of this method.
    async fn call(&mut self, method: &str) -> Message {
        let call = within(self.calls.next()).await.expect("connected").expect("a message");
        assert_eq!(call.header().member().map(|name| name.as_str().to_owned()).as_deref(), Some(method));
        call
    }

    async fn reply<B: zbus::export::serde::Serialize + zbus::DynamicType>(&self, call: &Message, body: &B) {
        let reply = Message::method_return(&call.header()).build(body).expect("a reply");
        self.connection.send(&reply).await.expect("sent");
    }

    async fn signal<B: zbus::export::serde::Serialize + zbus::DynamicType>(&self, name: &str, body: &B) {
        let signal = Message::signal(PATH, REMOTE_DESKTOP_SESSION, name).build(body).expect("a signal");
        self.connection.send(&signal).await.expect("sent");
    }

    async fn owner_changed(&self, types: Vec<String>, is_own: bool) {
        // As in Mutter, the list is inside a structure.
        let options = HashMap::from([
            ("mime-types", Variant::from((types,))),
            ("session-is-owner", Variant::from(is_own)),
        ]);
        self.signal("SelectionOwnerChanged", &(options,)).await;
    }
}

async fn connected() -> (Fake, Mutter) {
    let (mut fake, client) = Fake::new().await;
    let path = OwnedObjectPath::try_from(PATH).expect("a path");
    let enabled = async {
        let call = fake.call("EnableClipboard").await;
        fake.reply(&call, &()).await;
    };
    let (mutter, ()) = within(async { tokio::join!(Mutter::connect(&client, &path), enabled) }).await;
    (fake, mutter.expect("connects"))
}

async fn next(mutter: &mut Mutter) -> Event {
    within(mutter.next()).await.expect("connected")
}

#[tokio::test]
async fn content_that_a_program_copied_is_read_from_a_fake_mutter() {
    let (mut fake, mut mutter) = connected().await;
    let types = ["TEXT", "text/plain;charset=utf-8", "text/html"].map(str::to_owned).to_vec();
    fake.owner_changed(types, false).await;
    let Event::Selected(Some(selection)) = next(&mut mutter).await else { unreachable!("no content") };
    let parts: Vec<_> = selection.offered.parts().collect();
    assert_eq!(parts, [(Format::Text, "text/plain;charset=utf-8"), (Format::Html, "text/html")]);
    let served = async {
        let call = fake.call("SelectionRead").await;
        assert_eq!(call.body().deserialize::<&str>().expect("a type"), "text/html");
        let (reader, writer) = pipe::pair().expect("a pipe");
        fake.reply(&call, &zbus::Fd::from(reader)).await;
        pipe::write(writer, b"<b>").await.expect("written");
    };
    let (opened, ()) = tokio::join!(selection.source.open("text/html"), served);
    let read = within(pipe::read(opened.expect("opens"), 100)).await.expect("read");
    assert_eq!(&read[..], b"<b>");
}

#[tokio::test]
async fn own_content_and_malformed_or_huge_offers_are_no_selection() {
    let (fake, mut mutter) = connected().await;
    fake.owner_changed(vec!["text/plain".to_owned()], true).await;
    assert!(matches!(next(&mut mutter).await, Event::Selected(None)), "the viewer's own content");
    let many = (0..10_000).map(|n| format!("application/x-{n}")).chain(["text/plain".to_owned()]);
    fake.owner_changed(many.collect(), false).await;
    assert!(matches!(next(&mut mutter).await, Event::Selected(None)), "too many types");
    fake.signal("SelectionOwnerChanged", &(7_u32,)).await;
    assert!(matches!(next(&mut mutter).await, Event::Selected(None)), "malformed");
    fake.signal("SelectionTransfer", &("no serial",)).await;
    fake.owner_changed(vec!["image/png".to_owned()], false).await;
    let Event::Selected(Some(selection)) = next(&mut mutter).await else { unreachable!("no content") };
    assert_eq!(selection.offered.parts().count(), 1);
}

#[tokio::test]
async fn content_of_a_viewer_is_written_to_a_fake_mutter() {
    let (mut fake, mut mutter) = connected().await;
    let content = Content::new(vec![(Format::Text, Bytes::from_static(b"pasted"))]).expect("valid");
    let taken = async {
        let call = fake.call("SetSelection").await;
        let body = call.body();
        let (mut options,): (HashMap<String, zbus::OwnedVariant>,) = body.deserialize().expect("options");
        let types = Vec::<String>::try_from(options.remove("mime-types").expect("types")).expect("a list");
        assert_eq!(types, content.mime_types());
        fake.reply(&call, &()).await;
    };
    let offered = mutter.offer(&content);
    let (offered, ()) = within(async { tokio::join!(offered, taken) }).await;
    offered.expect("taken");
    for (mime, expected) in [("text/plain", Some(&b"pasted"[..])), ("image/png", None)] {
        fake.signal("SelectionTransfer", &(mime, 7_u32)).await;
        let Event::Pasted { mime, paste } = next(&mut mutter).await else { unreachable!("no paste") };
        let served = async {
            if let Some(expected) = expected {
                let call = fake.call("SelectionWrite").await;
                assert_eq!(call.body().deserialize::<u32>().expect("a serial"), 7);
                let (reader, writer) = pipe::pair().expect("a pipe");
                fake.reply(&call, &zbus::Fd::from(writer)).await;
                assert_eq!(&pipe::read(reader, 100).await.expect("read")[..], expected);
            }
            let call = fake.call("SelectionWriteDone").await;
            let done: (u32, bool) = call.body().deserialize().expect("a result");
            assert_eq!(done, (7, expected.is_some()));
            fake.reply(&call, &()).await;
        };
        let (written, ()) = within(async { tokio::join!(paste.write(content.part(&mime)), served) }).await;
        written.expect("written");
    }
}
