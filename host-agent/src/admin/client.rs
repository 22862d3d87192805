//! A request to the admin server of a running daemon.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use contract::Endpoint;

use crate::listen::folder;

/// Maximum size of an answer, bytes. A session's status has about 1 KiB.
const MAX_ANSWER: u64 = 16 << 20;

/// Requests a page; returns the status code and the body.
///
/// # Errors
/// Another user can change the folder of the server's socket, or the server does not answer within `timeout`
/// with HTTP.
pub fn get(server: &Endpoint, path: &str, timeout: Duration) -> io::Result<(u16, String)> {
    let deadline = Instant::now() + timeout;
    match server {
        Endpoint::Unix(socket) => {
            folder::check(folder::of(socket)).map_err(io::Error::other)?;
            let stream = UnixStream::connect(socket)?;
            stream.set_write_timeout(Some(timeout))?;
            exchange(&stream, path, || stream.set_read_timeout(Some(left(deadline)?)))
        }
        Endpoint::Tcp { host, port } => {
            let mut addresses = (host.as_str(), *port).to_socket_addrs()?;
            let address = addresses.next().ok_or(io::ErrorKind::HostUnreachable)?;
            let stream = TcpStream::connect_timeout(&address, timeout)?;
            stream.set_write_timeout(Some(timeout))?;
            exchange(&stream, path, || stream.set_read_timeout(Some(left(deadline)?)))
        }
        Endpoint::Tls { .. } | Endpoint::Vsock { .. } => {
            Err(io::Error::new(io::ErrorKind::Unsupported, "the admin server has neither TLS nor vsock"))
        }
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Sends an HTTP/1.0 request, which the server answers without chunks (RFC 9112, section 6.1) and ends by
/// closing the connection. `limit_read` sets the timeout of the next read.
fn exchange<S: Read + Write>(
    mut stream: S,
    path: &str,
    limit_read: impl Fn() -> io::Result<()>,
) -> io::Result<(u16, String)> {
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut limited = stream.take(MAX_ANSWER);
    let mut chunk = [0; 16 << 10];
    loop {
        limit_read()?;
        match limited.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(chunk.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    parse(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))
}

/// Status code and body of a complete answer.
fn parse(answer: &[u8]) -> Option<(u16, String)> {
    const END_OF_HEAD: &[u8] = b"\r\n\r\n";
    let at = answer.windows(END_OF_HEAD.len()).position(|window| window == END_OF_HEAD)?;
    let head = std::str::from_utf8(answer.get(..at)?).ok()?;
    let mut words = head.lines().next()?.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    let code = words.next()?.parse().ok()?;
    let body = answer.get(at + END_OF_HEAD.len()..)?;
    Some((code, String::from_utf8(body.to_vec()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_is_parsed_and_other_protocols_are_refused() {
        let parsed = parse(b"HTTP/1.0 503 Service Unavailable\r\ncontent-length: 3\r\n\r\nno\n");
        assert_eq!(parsed, Some((503, "no\n".to_owned())));
        for other in ["", "SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 x\r\n\r\n", "HTTP/1.1 200 OK\r\n"] {
            assert_eq!(parse(other.as_bytes()), None, "{other:?}");
        }
    }

    #[test]
    fn server_that_does_not_answer_times_out() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("admin.sock");
        let _silent = std::os::unix::net::UnixListener::bind(&path).expect("listening");
        let answer = get(&Endpoint::Unix(path), "/status", Duration::from_millis(50));
        let kind = answer.expect_err("no answer").kind();
        assert!(matches!(kind, io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock), "{kind}");
    }
}
