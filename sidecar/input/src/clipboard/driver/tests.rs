use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use contract::clipboard::{ClipboardPolicy, Format};
use contract::input::ControlPolicy;
use tokio::sync::mpsc;

use super::*;
use crate::Role;
use crate::clipboard::tests::{connected, text};
use crate::clipboard::{Selections, pipe};

/// A desktop that does what the test says.
struct Fake {
    events: mpsc::UnboundedReceiver<Event>,
    offered: Rc<RefCell<Vec<Content>>>,
}

impl Peer for Fake {
    async fn next(&mut self) -> Result<Event, BackendError> {
        self.events.recv().await.ok_or(BackendError::Timeout("fake desktop"))
    }

    fn offer(&mut self, content: &Content) -> LocalBoxFuture<'static, Result<(), BackendError>> {
        self.offered.borrow_mut().push(content.clone());
        Box::pin(async { Ok(()) })
    }
}

/// A program that copied something.
#[derive(Clone, Default)]
struct Program {
    contents: HashMap<&'static str, Written>,
    opened: Arc<AtomicUsize>,
}

#[derive(Clone)]
enum Written {
    /// Writes these bytes and closes the pipe.
    Bytes(Bytes),
    /// Writes zeros for ever.
    Endless,
    /// Neither writes nor closes the pipe.
    Silent,
}

impl Program {
    fn with(mut self, mime: &'static str, written: Written) -> Self {
        self.contents.insert(mime, written);
        self
    }

    fn bytes(self, mime: &'static str, bytes: &[u8]) -> Self {
        self.with(mime, Written::Bytes(Bytes::copy_from_slice(bytes)))
    }

    fn selected(self) -> Event {
        let mut offered = Offered::default();
        self.contents.keys().for_each(|mime| offered.add(mime));
        Event::Selected(Some(Selection { offered, source: Box::new(self) }))
    }
}

impl Source for Program {
    fn open(&self, mime: &'static str) -> LocalBoxFuture<'_, Result<OwnedFd, BackendError>> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let (reader, writer) = pipe::pair().expect("a pipe");
        let written = self.contents[mime].clone();
        tokio::spawn(async move {
            match written {
                Written::Bytes(bytes) => drop(pipe::write(writer, &bytes).await),
                Written::Endless => {
                    while pipe::write(writer.try_clone().expect("a copy"), &[0; 4096]).await.is_ok() {}
                }
                Written::Silent => {
                    std::future::pending::<()>().await;
                    drop(writer);
                }
            }
        });
        Box::pin(async { Ok(reader) })
    }
}

/// A program that pastes; stores what it gets, or never reads.
struct Pasting {
    pasted: Rc<RefCell<Vec<Option<Bytes>>>>,
    reads: bool,
}

impl Paste for Pasting {
    fn write(self: Box<Self>, content: Option<Bytes>) -> LocalBoxFuture<'static, Result<(), BackendError>> {
        Box::pin(async move {
            self.pasted.borrow_mut().push(content);
            if !self.reads {
                std::future::pending::<()>().await;
            }
            Ok(())
        })
    }
}

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and so on";

/// A viewer in control of a fake desktop.
struct Desk {
    session: crate::Session,
    events: mpsc::UnboundedSender<Event>,
    offered: Rc<RefCell<Vec<Content>>>,
    pasted: Rc<RefCell<Vec<Option<Bytes>>>>,
}

impl Desk {
    fn send(&self, event: Event) {
        assert!(self.events.send(event).is_ok(), "the driver runs");
    }

    fn paste(&self, mime: &str, reads: bool) {
        let paste = Box::new(Pasting { pasted: Rc::clone(&self.pasted), reads });
        self.send(Event::Pasted { mime: mime.to_owned(), paste });
    }

    fn selections(&self) -> Selections {
        self.session.selections().expect("allowed")
    }
}

/// Runs a test beside the driver of a fake desktop.
async fn with_desk(policy: ClipboardPolicy, test: impl AsyncFnOnce(&Desk)) {
    let (input, mut end) = connected(policy, ControlPolicy::Shared);
    let (events, receiver) = mpsc::unbounded_channel();
    let offered = Rc::default();
    let fake = Fake { events: receiver, offered: Rc::clone(&offered) };
    let desk = Desk { session: input.open(Role::Controller), events, offered, pasted: Rc::default() };
    tokio::select! {
        error = drive(fake, &mut end) => unreachable!("the driver ended: {error}"),
        () = test(&desk) => {}
    }
}

async fn next(selections: &mut Selections) -> Vec<(Format, Bytes)> {
    let content = selections.next().await.expect("runs").upgrade().expect("the newest content");
    content.parts().to_vec()
}

/// Waits until the driver has nothing to do; the clock is paused.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn all_formats_of_a_selection_are_read() {
    with_desk(ClipboardPolicy::Both, async |desk| {
        let mut selections = desk.selections();
        let program = Program::default().bytes("text/plain;charset=utf-8", "ü".as_bytes());
        let program =
            program.bytes("text/html", b"<b>u</b>").bytes("image/png", PNG).bytes("audio/ogg", b"x");
        let opened = Arc::clone(&program.opened);
        desk.send(program.selected());
        let parts = next(&mut selections).await;
        let formats: Vec<_> = parts.iter().map(|(format, _)| *format).collect();
        assert_eq!(formats, Format::ALL);
        assert_eq!((&parts[0].1[..], &parts[2].1[..]), ("ü".as_bytes(), PNG));
        assert_eq!(opened.load(Ordering::Relaxed), 3, "an unknown format is not asked for");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn program_that_writes_without_end_or_never_ends_is_given_up() {
    with_desk(ClipboardPolicy::Both, async |desk| {
        let mut selections = desk.selections();
        let endless = Program::default().with("text/plain", Written::Endless).bytes("image/png", PNG);
        desk.send(endless.selected());
        assert_eq!(next(&mut selections).await, [(Format::Png, Bytes::from_static(PNG))]);
        let start = Instant::now();
        let silent = Program::default().bytes("text/plain", b"a").with("text/html", Written::Silent);
        desk.send(silent.selected());
        assert_eq!(next(&mut selections).await, *text("a").parts(), "what was read in time");
        assert!(start.elapsed() >= READ_TIMEOUT);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn part_that_is_too_large_or_not_in_its_format_is_left_out() {
    with_desk(ClipboardPolicy::Both, async |desk| {
        let mut selections = desk.selections();
        let large = vec![b'x'; MAX_CONTENT + 1];
        desk.send(Program::default().bytes("text/plain", &large).bytes("text/html", b"h").selected());
        assert_eq!(next(&mut selections).await, [(Format::Html, Bytes::from_static(b"h"))]);
        desk.send(Program::default().bytes("text/plain", &large[1..]).bytes("text/html", b"h").selected());
        let parts = next(&mut selections).await;
        assert_eq!(
            (parts.len(), parts[0].1.len()),
            (1, MAX_CONTENT),
            "the limit holds for all parts together"
        );
        drop(parts);
        desk.send(Program::default().bytes("text/plain", b"t").bytes("image/png", b"GIF89a").selected());
        assert_eq!(next(&mut selections).await, *text("t").parts());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn selection_that_changes_without_end_is_read_with_pauses() {
    with_desk(ClipboardPolicy::Both, async |desk| {
        let mut selections = desk.selections();
        let opened = Arc::new(AtomicUsize::default());
        let start = Instant::now();
        for n in 0..1000 {
            let program = Program { opened: Arc::clone(&opened), ..Program::default() };
            desk.send(program.bytes("text/plain", n.to_string().as_bytes()).selected());
        }
        while next(&mut selections).await != *text("999").parts() {}
        let pauses = start.elapsed().as_millis() / READ_PAUSE.as_millis();
        let opened = opened.load(Ordering::Relaxed);
        assert!(opened as u128 <= pauses + 1, "{opened} reads in {:?}", start.elapsed());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn secret_of_a_password_manager_is_not_given_to_viewers() {
    with_desk(ClipboardPolicy::Both, async |desk| {
        let mut selections = desk.selections();
        let password = || Program::default().bytes("text/plain", b"hunter2");
        for program in [
            password().bytes(SECRET_HINT, b"secret"),
            password().bytes(SECRET_HINT, b"secret\n"),
            password().bytes(SECRET_HINT, b""),
            password().with(SECRET_HINT, Written::Endless),
            password().with(SECRET_HINT, Written::Silent),
        ] {
            desk.send(program.selected());
            tokio::time::sleep(READ_TIMEOUT * 2).await;
            assert!(futures_util::poll!(std::pin::pin!(selections.next())).is_pending());
        }
        desk.send(Program::default().bytes("text/plain", b"name").bytes(SECRET_HINT, b"public").selected());
        assert_eq!(next(&mut selections).await, *text("name").parts());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_without_a_viewer_or_against_the_policy() {
    for (policy, subscribed) in [(ClipboardPolicy::Both, false), (ClipboardPolicy::ToDesktop, false)] {
        with_desk(policy, async |desk| {
            assert_eq!(desk.session.selections().is_some() && subscribed, subscribed);
            let program = Program::default().bytes("text/plain", b"a");
            let opened = Arc::clone(&program.opened);
            desk.send(program.selected());
            settle().await;
            assert_eq!(opened.load(Ordering::Relaxed), 0, "{policy}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn content_of_a_viewer_is_pasted_and_not_sent_back() {
    with_desk(ClipboardPolicy::Both, async |desk| {
        let mut selections = desk.selections();
        desk.session.transfer().expect("allowed").finish(text("from the viewer")).await.expect("stored");
        assert_eq!(*desk.offered.borrow(), [text("from the viewer")]);
        let own = Program::default().bytes("text/plain", b"from the viewer");
        desk.send(own.bytes(crate::clipboard::content::OWN, b"").selected());
        for mime in ["UTF8_STRING", "image/png"] {
            desk.paste(mime, true);
        }
        settle().await;
        let expected = [Some(Bytes::from_static(b"from the viewer")), None];
        assert_eq!(*desk.pasted.borrow(), expected, "a format that there is not is refused");
        assert!(futures_util::poll!(std::pin::pin!(selections.next())).is_pending());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn programs_that_never_read_what_they_paste_are_limited_in_number_and_time() {
    with_desk(ClipboardPolicy::Both, async |desk| {
        desk.session.transfer().expect("allowed").finish(text("one")).await.expect("stored");
        let count = async || {
            settle().await;
            desk.pasted.borrow().len()
        };
        for _ in 0..100 {
            desk.paste("text/plain", false);
        }
        assert_eq!(count().await, MAX_WRITES);
        tokio::time::sleep(WRITE_TIMEOUT).await;
        desk.paste("text/plain", false);
        assert_eq!(count().await, MAX_WRITES + 1);
        let content = desk.pasted.borrow()[0].clone();
        desk.session.transfer().expect("allowed").finish(text("two")).await.expect("stored");
        desk.paste("text/plain", true);
        assert_eq!(count().await, MAX_WRITES + 2);
        assert_ne!(desk.pasted.borrow().last(), Some(&content));
    })
    .await;
}
