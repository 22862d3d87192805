//! Reading framed messages from a peer that may be slow, hostile or gone.
//!
//! A length is held against its message type's limit before room is made for it, and a message that has
//! begun must end within a time. Knows the framing, not what the messages mean.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use protocol::DecodeError;
use protocol::frame::{HEADER_BYTES, Header};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

/// How long the rest of a message may take once its first byte is there: 256 MiB at 100 Mbit/s take 21 s.
const MESSAGE_TIME: Duration = Duration::from_secs(30);

/// Why nothing more can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The peer closed the connection between two messages.
    #[error("the peer closed the connection")]
    Closed,
    /// The bytes make no sense.
    #[error("{0}")]
    Decode(#[from] DecodeError),
    /// The connection broke, also inside a message.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// Nothing came for too long, or a message did not end.
    #[error("nothing came for {0:?}")]
    Silent(Duration),
}

/// Reads one message. `limit` is as for [`Header::decode`]; `idle` bounds the wait for its first byte.
pub async fn read_message(
    reader: &mut (impl AsyncRead + Unpin),
    idle: Duration,
    limit: impl Fn(u8) -> Option<u32>,
) -> Result<(Header, Bytes), ReadError> {
    let mut header = [0; HEADER_BYTES];
    // tokio takes a time beyond its calendar for "for ever".
    let first = timeout(idle, reader.read(&mut header)).await.map_err(|_| ReadError::Silent(idle))??;
    if first == 0 {
        return Err(ReadError::Closed);
    }
    let rest = async {
        reader.read_exact(&mut header[first..]).await?;
        let header = Header::decode(header, limit)?;
        let mut payload = BytesMut::with_capacity(header.len as usize);
        let mut body = reader.take(header.len.into());
        while payload.len() < header.len as usize {
            if body.read_buf(&mut payload).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
        Ok((header, payload.freeze()))
    };
    timeout(MESSAGE_TIME, rest).await.map_err(|_| ReadError::Silent(MESSAGE_TIME))?
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_millis(200);

    fn limit(kind: u8) -> Option<u32> {
        (kind == 7).then_some(10)
    }

    async fn read(bytes: &[u8]) -> Result<(Header, Bytes), ReadError> {
        let mut bytes = bytes;
        read_message(&mut bytes, IDLE, limit).await
    }

    #[tokio::test]
    async fn a_message_in_pieces_is_one_message() {
        let mut pieces = tokio_test_pieces(&[&[3, 0], &[0, 0, 7, 0, 0], &[0, 1], &[2, 3]]);
        let (header, payload) = read_message(&mut pieces, IDLE, limit).await.expect("whole");
        assert_eq!((header.kind, &payload[..]), (7, &[1, 2, 3][..]));
    }

    /// A reader that gives one piece per read.
    fn tokio_test_pieces(pieces: &[&[u8]]) -> impl AsyncRead + Unpin {
        pieces.iter().fold(Box::new(tokio::io::empty()) as Box<dyn AsyncRead + Unpin>, |before, piece| {
            Box::new(before.chain(io::Cursor::new(piece.to_vec())))
        })
    }

    #[tokio::test]
    async fn limits_hold_before_the_payload_comes() {
        assert!(matches!(
            read(&[11, 0, 0, 0, 7, 0, 0, 0]).await,
            Err(ReadError::Decode(DecodeError::TooLarge { .. }))
        ));
        assert!(matches!(
            read(&[0, 0, 0, 0, 8, 0, 0, 0]).await,
            Err(ReadError::Decode(DecodeError::Unknown { .. }))
        ));
        assert!(matches!(
            read(&[0, 0, 0, 0, 7, 1, 0, 0]).await,
            Err(ReadError::Decode(DecodeError::Invalid(_)))
        ));
    }

    #[tokio::test]
    async fn ends_are_told_apart() {
        assert!(matches!(read(&[]).await, Err(ReadError::Closed)));
        assert!(matches!(read(&[1, 0]).await, Err(ReadError::Io(_))));
        assert!(matches!(read(&[2, 0, 0, 0, 7, 0, 0, 0, 1]).await, Err(ReadError::Io(_))));
        let (_keep, mut silent) = tokio::io::duplex(16);
        assert!(matches!(read_message(&mut silent, IDLE, limit).await, Err(ReadError::Silent(_))));
    }
}
