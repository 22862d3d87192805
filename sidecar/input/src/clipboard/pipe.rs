//! Reading and writing the pipes of untrusted programs, without ever blocking.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use bytes::Bytes;
use rustix::fs::{FileType, Mode, OFlags};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe::{Receiver, Sender};

/// Bytes that are read at once.
const BLOCK: usize = 64 << 10;

/// Reason why a pipe was not read or written to its end.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    /// The program passed another kind of file.
    #[error("the file descriptor is not a pipe")]
    NotAPipe,
    /// The program writes more than the limit.
    #[error("more than {0} bytes")]
    TooLarge(usize),
    /// The operating system reports an error.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A pipe: the end for reading, which is nonblocking, and the end for a program that writes.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

/// Reads to the end, at most `limit` bytes. The caller limits the time.
pub async fn read(pipe: OwnedFd, limit: usize) -> Result<Bytes, PipeError> {
    let mut pipe = Receiver::from_owned_fd(reopen(&pipe, OFlags::RDONLY)?)?;
    let mut content = Vec::new();
    let mut block = vec![0; BLOCK];
    loop {
        let count = pipe.read(&mut block).await?;
        if count == 0 {
            return Ok(content.into());
        }
        if content.len() + count > limit {
            return Err(PipeError::TooLarge(limit));
        }
        content.extend_from_slice(&block[..count]);
    }
}

/// Writes all bytes and closes the pipe. The caller limits the time.
pub async fn write(pipe: OwnedFd, bytes: &[u8]) -> Result<(), PipeError> {
    let mut pipe = Sender::from_owned_fd(reopen(&pipe, OFlags::WRONLY)?)?;
    pipe.write_all(bytes).await?;
    Ok(())
}

/// The pipe with an open file description of our own. Who shares the one that was passed could clear its `O_NONBLOCK`, and
/// the thread would block.
fn reopen(pipe: &OwnedFd, access: OFlags) -> Result<OwnedFd, PipeError> {
    let kind = rustix::fs::fstat(pipe.as_fd()).map_err(io::Error::from)?.st_mode;
    if FileType::from_raw_mode(kind) != FileType::Fifo {
        return Err(PipeError::NotAPipe);
    }
    let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn pipe_is_read_to_its_end_and_not_beyond_the_limit() {
        for (written, limit) in [(0, 10), (10, 10), (200_000, 200_000), (11, 10), (200_000, 199_999)] {
            let (reader, writer) = pair().expect("a pipe");
            let content: Vec<u8> = (0..written).map(|n| (n % 251) as u8).collect();
            let (read, _) = tokio::join!(read(reader, limit), write(writer, &content));
            match read {
                Ok(read) => assert!(written <= limit && read == content, "{written}"),
                Err(error) => assert!(written > limit && matches!(error, PipeError::TooLarge(_)), "{error}"),
            }
        }
    }

    #[tokio::test]
    async fn descriptor_that_is_not_a_pipe_or_has_the_wrong_direction_is_refused() {
        let zero = || OwnedFd::from(std::fs::File::open("/dev/zero").expect("opens"));
        assert!(matches!(read(zero(), 10).await, Err(PipeError::NotAPipe)));
        assert!(matches!(write(zero(), b"x").await, Err(PipeError::NotAPipe)));
        let (one, _other) = std::os::unix::net::UnixStream::pair().expect("sockets");
        assert!(matches!(read(one.into(), 10).await, Err(PipeError::NotAPipe)));
        let (reader, writer) = pair().expect("a pipe");
        drop(reader);
        assert!(write(writer, b"x").await.is_err(), "a pipe without a reader");
    }

    /// A program that shares the description of its pipe can make it blocking again at any time.
    #[test]
    fn program_that_makes_its_pipe_blocking_blocks_no_thread() {
        let (sender, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let (reader, writer) = pair().expect("a pipe");
                let shared = writer.try_clone().expect("a copy");
                let content = vec![0; 1 << 20];
                let mut writing = std::pin::pin!(write(writer, &content));
                assert!(futures_util::poll!(&mut writing).is_pending(), "the pipe is full");
                rustix::fs::fcntl_setfl(&shared, OFlags::empty()).expect("cleared");
                let (read, written) = tokio::join!(read(reader, 1 << 20), async {
                    let written = writing.await;
                    drop(shared);
                    written
                });
                written.expect("written");
                assert_eq!(read.expect("read").len(), content.len());
            });
            sender.send(())
        });
        ended.recv_timeout(Duration::from_mins(1)).expect("the thread is not blocked");
    }
}
