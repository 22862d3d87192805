//! The writing half of a connection.
//!
//! Two threads write: the connection's task, which waits for slow peers, and an encoder's thread, which
//! writes an access unit directly while nothing else is queued. That saves a wake-up of another thread, the
//! largest part of the latency on a busy machine.

use std::fmt;
use std::io::{self, IoSlice};

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::{tcp, unix};
use tokio::sync::Mutex;

/// The writing half. Dropping it, after [`Writer::shutdown`], shuts down the connection for writing.
pub enum Writer {
    /// TCP connection.
    Tcp(tcp::OwnedWriteHalf),
    /// Unix stream socket.
    Unix(unix::OwnedWriteHalf),
    /// Another transport, such as TLS, which only the connection's task can write.
    Other(Mutex<Box<dyn AsyncWrite + Send + Unpin>>),
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp(_) => "Tcp",
            Self::Unix(_) => "Unix",
            Self::Other(_) => "Other",
        })
    }
}

impl Writer {
    /// Wraps a transport other than TCP and Unix sockets.
    pub fn other(writer: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        Self::Other(Mutex::new(Box::new(writer)))
    }

    /// Writes without blocking and returns the number of bytes written.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if the socket's buffer is full, or the error of the
    /// connection.
    pub fn try_write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_write_vectored(parts),
            Self::Unix(half) => half.try_write_vectored(parts),
            Self::Other(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Waits until the socket accepts data, writes, and returns the number of bytes written.
    ///
    /// # Errors
    /// The error of the connection.
    pub async fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            match self {
                Self::Tcp(half) => half.writable().await?,
                Self::Unix(half) => half.writable().await?,
                Self::Other(writer) => {
                    let mut writer = writer.lock().await;
                    let written = writer.write_vectored(parts).await?;
                    // TLS keeps what the socket's buffer has no space for.
                    writer.flush().await?;
                    return Ok(written);
                }
            }
            match self.try_write(parts) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return written,
            }
        }
    }

    /// Tells the peer that nothing follows, if dropping the half does not.
    ///
    /// # Errors
    /// The error of the connection.
    pub async fn shutdown(&self) -> io::Result<()> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Ok(()),
            Self::Other(writer) => writer.lock().await.shutdown().await,
        }
    }

    /// Writes all bytes.
    ///
    /// # Errors
    /// The error of the connection.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write(&[IoSlice::new(bytes)]).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => bytes = bytes.get(written..).unwrap_or_default(),
            }
        }
        Ok(())
    }
}
