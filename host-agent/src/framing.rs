//! Reads framed messages from a peer that may be slow, hostile or disconnected.
//!
//! The framing and its limits are those of [`protocol::frame::Decoder`]; this module adds the stream and
//! the timeouts.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use protocol::DecodeError;
use protocol::frame::{Decoder, FrameHeader, Header};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout, timeout_at};

/// Maximum time from the first to the last byte of a message: 256 MiB take 21 s at 100 Mbit/s.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Additional time to read data that is already there when a timeout fires. After a suspension of the process
/// (host asleep, SIGSTOP) expired timers may fire before the runtime has seen that the socket is readable.
const READABLE_GRACE: Duration = Duration::from_millis(200);

/// Reason why a connection cannot be read further.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The peer closed the connection between two messages.
    #[error("the peer closed the connection")]
    Closed,
    /// A message is malformed or over its limit.
    #[error("{0}")]
    Decode(#[from] DecodeError),
    /// The connection failed, or ended inside a message.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The next message did not begin in time.
    #[error("no message for {0:?}")]
    Idle(Duration),
    /// A message did not end in time.
    #[error("a message was not complete after {MESSAGE_TIMEOUT:?}")]
    Incomplete,
}

/// A reader of messages with a fixed header.
#[derive(Debug)]
pub struct FramedReader<R, H = Header> {
    reader: R,
    decoder: Decoder<H>,
    message_timeout: Duration,
}

impl<R: AsyncRead + Unpin, H: FrameHeader> FramedReader<R, H> {
    /// Reads from the start of a message.
    pub fn new(reader: R) -> Self {
        Self { reader, decoder: Decoder::default(), message_timeout: MESSAGE_TIMEOUT }
    }

    /// Reads a message: its header and payload. `idle_timeout` bounds the wait for its first byte; `limit`
    /// gives the maximum payload of a message type in bytes, or `None` for a type that is not accepted.
    /// Cancel safe.
    ///
    /// # Errors
    /// The peer closed the connection, sent a malformed message, or none in time. Close the connection then.
    pub async fn read(
        &mut self,
        idle_timeout: Duration,
        limit: impl Fn(u8) -> Option<u32>,
    ) -> Result<(H, Bytes), ReadError> {
        let mut deadline = None;
        loop {
            if let Some(message) = self.decoder.next(&limit)? {
                return Ok(message);
            }
            let idle = self.decoder.is_between_messages();
            let read = self.reader.read_buf(self.decoder.buffer());
            let in_time = if idle {
                timeout(idle_timeout, read).await
            } else {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.message_timeout);
                timeout_at(deadline, read).await
            };
            let count = if let Ok(count) = in_time {
                count?
            } else {
                let read = self.reader.read_buf(self.decoder.buffer());
                let late = timeout(READABLE_GRACE, read).await;
                late.map_err(|_| if idle { ReadError::Idle(idle_timeout) } else { ReadError::Incomplete })??
            };
            match count {
                0 if idle => return Err(ReadError::Closed),
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                _ => {}
            }
        }
    }

    /// True if the peer already disconnected and no message is left to read.
    pub async fn is_disconnected(&mut self) -> bool {
        if !self.decoder.is_between_messages() {
            return false;
        }
        // Polls once: a timeout means that there is neither data nor an end.
        match timeout(Duration::ZERO, self.reader.read_buf(self.decoder.buffer())).await {
            Ok(Ok(count)) => count == 0,
            Ok(Err(_)) => true,
            Err(_) => false,
        }
    }

    /// The underlying reader, without what was already received.
    pub fn into_inner(self) -> R {
        self.reader
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_millis(200);

    fn limit(kind: u8) -> Option<u32> {
        (kind == 7).then_some(10)
    }

    async fn read(bytes: &[u8]) -> Result<(Header, Bytes), ReadError> {
        FramedReader::new(bytes).read(IDLE, limit).await
    }

    /// A reader that returns one piece per read.
    fn pieces(pieces: &[&[u8]]) -> impl AsyncRead + Unpin {
        pieces.iter().fold(Box::new(tokio::io::empty()) as Box<dyn AsyncRead + Unpin>, |before, piece| {
            Box::new(before.chain(io::Cursor::new(piece.to_vec())))
        })
    }

    #[tokio::test]
    async fn message_in_pieces_is_one_message() {
        let mut reader = FramedReader::<_>::new(pieces(&[&[3, 0], &[0, 0, 7, 0, 0], &[0, 1], &[2, 3]]));
        let (header, payload) = reader.read(IDLE, limit).await.expect("a message");
        assert_eq!((header.kind, &payload[..]), (7, &[1, 2, 3][..]));
        assert!(matches!(reader.read(IDLE, limit).await, Err(ReadError::Closed)));
    }

    #[tokio::test]
    async fn limit_is_checked_before_the_payload_arrives() {
        let too_large = read(&[11, 0, 0, 0, 7, 0, 0, 0]).await;
        assert!(matches!(too_large, Err(ReadError::Decode(DecodeError::TooLarge { .. }))));
        let unknown = read(&[0, 0, 0, 0, 8, 0, 0, 0]).await;
        assert!(matches!(unknown, Err(ReadError::Decode(DecodeError::Unknown { .. }))));
        let reserved = read(&[0, 0, 0, 0, 7, 1, 0, 0]).await;
        assert!(matches!(reserved, Err(ReadError::Decode(DecodeError::Invalid(_)))));
    }

    #[tokio::test]
    async fn end_between_messages_differs_from_end_inside_one() {
        assert!(matches!(read(&[]).await, Err(ReadError::Closed)));
        assert!(matches!(read(&[1, 0]).await, Err(ReadError::Io(_))));
        assert!(matches!(read(&[2, 0, 0, 0, 7, 0, 0, 0, 1]).await, Err(ReadError::Io(_))));
    }

    #[tokio::test]
    async fn silent_peer_times_out() {
        let (_peer, ours) = tokio::io::duplex(16);
        let mut reader = FramedReader::<_>::new(ours);
        assert!(matches!(reader.read(IDLE, limit).await, Err(ReadError::Idle(IDLE))));
    }

    #[tokio::test]
    async fn peer_that_stops_inside_a_message_times_out() {
        let (mut peer, ours) = tokio::io::duplex(16);
        tokio::io::AsyncWriteExt::write_all(&mut peer, &[1, 0]).await.expect("written");
        let mut reader = FramedReader { message_timeout: IDLE, ..FramedReader::<_>::new(ours) };
        assert!(matches!(reader.read(Duration::MAX, limit).await, Err(ReadError::Incomplete)));
    }

    #[tokio::test]
    async fn disconnected_peer_is_detected_after_its_last_message() {
        let (mut peer, ours) = tokio::io::duplex(16);
        let mut reader = FramedReader::<_>::new(ours);
        tokio::io::AsyncWriteExt::write_all(&mut peer, &[0, 0, 0, 0, 7, 0, 0, 0]).await.expect("written");
        reader.read(IDLE, limit).await.expect("a message");
        assert!(!reader.is_disconnected().await);
        drop(peer);
        assert!(reader.is_disconnected().await);
    }
}
