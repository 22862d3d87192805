//! A viewer's access to the clipboard of the desktop.

use std::collections::VecDeque;
use std::sync::Weak;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use contract::clipboard::{ClipboardPolicy, Format, Part, check_parts};
use input::clipboard::{ClipboardRefused, ClipboardState, Content, Selections, Transfer};
use input::{Input, Session};
use protocol::rate::{RateLimit, TokenBucket};
use tokio::sync::watch;
use tokio::time::Instant;

use super::wire::clipboard::{Announcement, Chunk, ClipboardInfo, MAX_CHUNK, Stored};

/// Limit on contents of a viewer. The page sends one when it pastes, and when it gets the focus.
const CONTENT_LIMIT: RateLimit = RateLimit::new(2, 10);
/// Limit on chunks of a viewer: 8 MiB per second, and twice the largest content at once.
const CHUNK_LIMIT: RateLimit = RateLimit::new(256, 512);

/// Time limit for a content to arrive. Other viewers cannot send theirs meanwhile.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(30);

/// A violation that ends the viewer's connection: the reason that the page shows.
pub type Violation = &'static str;

/// Contents that a viewer sends.
#[derive(Debug)]
pub struct Incoming {
    contents: TokenBucket,
    chunks: TokenBucket,
    state: State,
}

#[derive(Debug)]
enum State {
    /// No content is announced.
    Idle,
    /// Chunks are stored.
    Receiving(Assembly),
    /// Chunks of a refused content are discarded: the page has sent them before it knows.
    Refused { id: u32 },
}

#[derive(Debug)]
struct Assembly {
    id: u32,
    /// `None` in tests of the assembly alone.
    transfer: Option<Transfer>,
    parts: Vec<(Part, BytesMut)>,
    /// Time by which the content must be complete.
    deadline: Instant,
}

/// A content that has arrived.
#[derive(Debug)]
pub struct Received {
    id: u32,
    transfer: Option<Transfer>,
    parts: Vec<(Format, Bytes)>,
}

impl Received {
    /// Puts the content into the desktop's clipboard.
    pub async fn store(self) -> Stored {
        let Self { id, transfer, parts } = self;
        let stored = async {
            let content = Content::new(parts)?;
            transfer.ok_or(ClipboardRefused::Unavailable)?.finish(content).await
        };
        Stored { id, error: stored.await.err().map(|refused| refused.to_string()) }
    }
}

impl Default for Incoming {
    fn default() -> Self {
        Self {
            contents: TokenBucket::new(CONTENT_LIMIT),
            chunks: TokenBucket::new(CHUNK_LIMIT),
            state: State::Idle,
        }
    }
}

impl Incoming {
    /// Begins a content, in place of one that is not complete. Returns the answer if it is refused.
    pub fn announce(
        &mut self,
        announced: Announcement,
        session: Option<&Session>,
        now_ns: u64,
    ) -> Option<Stored> {
        // Ends the former transfer before the next one begins.
        self.state = State::Idle;
        let Announcement { id, parts } = announced;
        let mut begin = || {
            if !self.contents.try_take(now_ns) {
                return Err(ClipboardRefused::Busy);
            }
            check_parts(parts.iter().map(|part| (part.format, part.bytes as usize)))?;
            session.ok_or(ClipboardRefused::NotAllowed)?.transfer()
        };
        match begin() {
            Ok(transfer) => {
                self.state = State::Receiving(Assembly::new(id, Some(transfer), parts));
                None
            }
            Err(refused) => {
                self.state = State::Refused { id };
                Some(Stored { id, error: Some(refused.to_string()) })
            }
        }
    }

    /// Waits until a content has not arrived in time, and returns the answer; never without one. Cancel safe.
    pub async fn expired(&mut self) -> Stored {
        let State::Receiving(Assembly { id, deadline, .. }) = &self.state else {
            return std::future::pending().await;
        };
        let id = *id;
        tokio::time::sleep_until(*deadline).await;
        self.state = State::Refused { id };
        Stored { id, error: Some("the clipboard did not arrive in time".to_owned()) }
    }

    /// Stores a chunk. Returns the content once it is complete.
    pub fn chunk(&mut self, chunk: &Chunk, now_ns: u64) -> Result<Option<Received>, Violation> {
        if !self.chunks.try_take(now_ns) {
            return Err("Too much clipboard data");
        }
        match &mut self.state {
            State::Refused { id } if *id == chunk.id => return Ok(None),
            State::Receiving(assembly) if assembly.id == chunk.id => {
                if !assembly.add(chunk)? {
                    return Ok(None);
                }
            }
            _ => return Err("Unexpected clipboard data"),
        }
        let State::Receiving(assembly) = std::mem::replace(&mut self.state, State::Idle) else {
            return Ok(None);
        };
        Ok(Some(assembly.finish()))
    }
}

impl Assembly {
    fn new(id: u32, transfer: Option<Transfer>, parts: Vec<Part>) -> Self {
        let parts = parts.into_iter().map(|part| (part, BytesMut::new())).collect();
        Self { id, transfer, parts, deadline: Instant::now() + RECEIVE_TIMEOUT }
    }

    /// Appends a chunk to the first part that is not complete. True if all parts are.
    fn add(&mut self, chunk: &Chunk) -> Result<bool, Violation> {
        let open = self.parts.iter_mut().find(|(part, bytes)| bytes.len() < part.bytes as usize);
        let Some((part, bytes)) = open else { return Err("Unexpected clipboard data") };
        if part.format != chunk.format || bytes.len() + chunk.bytes.len() > part.bytes as usize {
            return Err("Unexpected clipboard data");
        }
        bytes.extend_from_slice(&chunk.bytes);
        Ok(self.parts.iter().all(|(part, bytes)| bytes.len() == part.bytes as usize))
    }

    fn finish(self) -> Received {
        let parts = self.parts.into_iter().map(|(part, bytes)| (part.format, bytes.freeze())).collect();
        Received { id: self.id, transfer: self.transfer, parts }
    }
}

/// Message to the viewer.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// The clipboard's state has changed.
    Info(ClipboardInfo),
    /// Begins a content.
    Announcement(Announcement),
    /// Continues it.
    Chunk(Chunk),
}

/// State of the desktop's clipboard and its contents, for one viewer.
#[derive(Debug)]
pub struct Outgoing<'s> {
    session: &'s Session,
    policy: ClipboardPolicy,
    state: watch::Receiver<ClipboardState>,
    /// Formats that the viewer accepts.
    accepts: watch::Receiver<Vec<Format>>,
    /// `None` until the viewer accepts formats, and if it may not have contents.
    selections: Option<Selections>,
    sending: Sending,
}

impl<'s> Outgoing<'s> {
    /// For the viewer of a session. The first message is the present state.
    pub fn new(input: &Input, session: &'s Session, accepts: watch::Receiver<Vec<Format>>) -> Self {
        let (policy, mut state) = (input.clipboard_policy(), input.clipboard());
        state.mark_changed();
        Self { session, policy, state, accepts, selections: None, sending: Sending::default() }
    }

    /// Waits for the next message. Cancel safe.
    pub async fn next(&mut self) -> Message {
        loop {
            tokio::select! {
                biased;
                // Without a backend thread the state never changes.
                Ok(()) = self.state.changed() => {
                    let ClipboardState { protocol, error } = self.state.borrow_and_update().clone();
                    return Message::Info(ClipboardInfo { policy: self.policy, protocol, reason: error });
                }
                Ok(()) = self.accepts.changed() => {
                    let accepts = !self.accepts.borrow_and_update().is_empty();
                    self.selections = if accepts { self.session.selections() } else { None };
                    self.sending.end();
                }
                Some(content) = next(&mut self.selections) => {
                    let announcement = self.sending.begin(content, &self.accepts.borrow());
                    if let Some(announcement) = announcement {
                        return Message::Announcement(announcement);
                    }
                }
                () = std::future::ready(()), if self.sending.is_active() => {
                    if !self.selections.as_ref().is_some_and(Selections::has_control) {
                        self.sending.end();
                    } else if let Some(chunk) = self.sending.chunk() {
                        return Message::Chunk(chunk);
                    }
                }
                // All other branches are disabled: the input has ended.
                else => return std::future::pending().await,
            }
        }
    }
}

/// The next content; never without access to them.
async fn next(selections: &mut Option<Selections>) -> Option<Weak<Content>> {
    match selections {
        Some(selections) => selections.next().await,
        None => std::future::pending().await,
    }
}

/// Progress of sending one content. The content is weak: the next one frees it, and ends this.
#[derive(Debug, Default)]
struct Sending {
    id: u32,
    content: Weak<Content>,
    /// Indices of the parts that are not sent completely.
    parts: VecDeque<usize>,
    /// Bytes of the first of them that are sent.
    offset: usize,
}

impl Sending {
    fn is_active(&self) -> bool {
        !self.parts.is_empty()
    }

    fn end(&mut self) {
        self.parts.clear();
    }

    /// Begins a content; `None` if it has no part of these formats.
    fn begin(&mut self, content: Weak<Content>, formats: &[Format]) -> Option<Announcement> {
        self.end();
        let strong = content.upgrade()?;
        let accepted = |(_, (format, _)): &(usize, &(Format, Bytes))| formats.contains(format);
        let indexed: Vec<_> = strong.parts().iter().enumerate().filter(accepted).collect();
        if indexed.is_empty() {
            return None;
        }
        self.id = self.id.wrapping_add(1);
        self.offset = 0;
        self.parts = indexed.iter().map(|(index, _)| *index).collect();
        let part = |format: Format, bytes: &Bytes| Some(Part { format, bytes: bytes.len().try_into().ok()? });
        let parts = indexed.into_iter().filter_map(|(_, (format, bytes))| part(*format, bytes)).collect();
        self.content = content;
        Some(Announcement { id: self.id, parts })
    }

    /// The next chunk; `None` at the end, or if the content was replaced.
    fn chunk(&mut self) -> Option<Chunk> {
        let index = *self.parts.front()?;
        let Some(content) = self.content.upgrade() else {
            self.end();
            return None;
        };
        let (format, bytes) = content.parts().get(index)?;
        let end = (self.offset + MAX_CHUNK).min(bytes.len());
        // A copy, because a slice would hold the content in memory.
        let chunk = Bytes::copy_from_slice(bytes.get(self.offset..end)?);
        self.offset = end;
        if end == bytes.len() {
            self.parts.pop_front();
            self.offset = 0;
        }
        Some(Chunk { id: self.id, format: *format, bytes: chunk })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use contract::clipboard::MAX_CONTENT;

    use super::*;

    fn receiving(parts: &[(Format, u32)]) -> Incoming {
        let parts = parts.iter().map(|&(format, bytes)| Part { format, bytes }).collect();
        Incoming { state: State::Receiving(Assembly::new(7, None, parts)), ..Incoming::default() }
    }

    fn chunk(format: Format, bytes: &'static [u8]) -> Chunk {
        Chunk { id: 7, format, bytes: Bytes::from_static(bytes) }
    }

    #[test]
    fn content_is_assembled_from_its_chunks() {
        let mut incoming = receiving(&[(Format::Text, 5), (Format::Html, 3)]);
        let mut add = |chunk: &Chunk| incoming.chunk(chunk, 0);
        assert!(matches!(add(&chunk(Format::Text, b"ab")), Ok(None)));
        assert!(matches!(add(&chunk(Format::Text, b"cde")), Ok(None)));
        let received = add(&chunk(Format::Html, b"<b>")).expect("accepted").expect("complete");
        let text = |bytes: &'static [u8]| Bytes::from_static(bytes);
        assert_eq!(received.parts, [(Format::Text, text(b"abcde")), (Format::Html, text(b"<b>"))]);
        assert!(add(&chunk(Format::Html, b"x")).is_err(), "a chunk after the end");
    }

    #[test]
    fn chunk_that_was_not_announced_ends_the_connection() {
        let refused = |sent: Chunk| receiving(&[(Format::Text, 2)]).chunk(&sent, 0).is_err();
        assert!(refused(chunk(Format::Text, b"abc")), "more than announced");
        assert!(refused(chunk(Format::Png, b"a")), "another format");
        assert!(refused(Chunk { id: 8, ..chunk(Format::Text, b"a") }), "another content");
        assert!(Incoming::default().chunk(&chunk(Format::Text, b"a"), 0).is_err(), "no content");
    }

    #[test]
    fn refused_content_is_discarded_and_counts_against_the_limit() {
        let mut incoming = Incoming::default();
        let parts = vec![Part { format: Format::Text, bytes: MAX_CONTENT as u32 }];
        let announced = Announcement { id: 7, parts };
        let answer = incoming.announce(announced.clone(), None, 0).expect("refused");
        assert!(answer.id == 7 && answer.error.is_some_and(|error| error.contains("may not")));
        let sent = chunk(Format::Text, b"a");
        let accepted = (0..10_000).filter(|_| incoming.chunk(&sent, 0).is_ok()).count();
        assert_eq!(accepted, 512);
        let answers: Vec<_> =
            (0..50).filter_map(|_| incoming.announce(announced.clone(), None, 0)?.error).collect();
        assert!(answers.len() == 50 && answers[49].contains("try again"), "{answers:?}");
    }

    #[test]
    fn content_that_is_too_large_is_refused_before_it_arrives() {
        for bytes in [0, MAX_CONTENT as u32 + 1, u32::MAX] {
            let parts = vec![Part { format: Format::Png, bytes }];
            let mut incoming = Incoming::default();
            assert!(incoming.announce(Announcement { id: 1, parts }, None, 0).is_some(), "{bytes}");
            assert!(matches!(incoming.state, State::Refused { id: 1 }));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn content_that_does_not_arrive_in_time_makes_way_for_others() {
        let mut incoming = receiving(&[(Format::Text, 2)]);
        assert!(matches!(incoming.chunk(&chunk(Format::Text, b"a"), 0), Ok(None)));
        let start = Instant::now();
        let stored = incoming.expired().await;
        assert!(stored.id == 7 && stored.error.is_some() && start.elapsed() >= RECEIVE_TIMEOUT);
        assert!(matches!(incoming.state, State::Refused { id: 7 }), "which holds no transfer");
        assert!(matches!(incoming.chunk(&chunk(Format::Text, b"b"), 0), Ok(None)), "is discarded");
    }

    #[test]
    fn content_is_sent_in_chunks_of_the_accepted_formats() {
        let text: Bytes = vec![b'x'; MAX_CHUNK + 1].into();
        let parts = vec![(Format::Text, text.clone()), (Format::Html, Bytes::from_static(b"<b>"))];
        let content = Arc::new(Content::new(parts).expect("valid"));
        let mut sending = Sending::default();
        assert_eq!(sending.begin(Arc::downgrade(&content), &[Format::Png]), None);
        let announcement = sending.begin(Arc::downgrade(&content), &[Format::Text]).expect("text");
        assert_eq!(announcement.parts, [Part { format: Format::Text, bytes: MAX_CHUNK as u32 + 1 }]);
        let chunks: Vec<_> = std::iter::from_fn(|| sending.chunk()).collect();
        let sent: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.bytes.clone()).collect();
        assert_eq!((chunks.len(), sent), (2, text.to_vec()));
        assert!(!sending.is_active() && chunks.iter().all(|chunk| chunk.id == announcement.id));
    }

    #[test]
    fn viewer_that_reads_slowly_holds_no_replaced_content() {
        let parts = vec![(Format::Text, vec![b'x'; 4 * MAX_CHUNK].into())];
        let content = Arc::new(Content::new(parts).expect("valid"));
        let mut sending = Sending::default();
        sending.begin(Arc::downgrade(&content), &Format::ALL).expect("begins");
        assert!(sending.chunk().is_some());
        assert_eq!(Arc::strong_count(&content), 1);
        drop(content);
        assert_eq!(sending.chunk(), None);
        assert!(!sending.is_active());
    }
}
