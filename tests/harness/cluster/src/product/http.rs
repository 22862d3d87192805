//! A minimal HTTP client: one request per connection.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Limit of connecting, and of each read.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Ports below the kernel's ephemeral ports, which outgoing connections never take.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// GET; returns status and body.
pub fn get(address: SocketAddr, path: &str, token: Option<&str>) -> Result<(u16, Vec<u8>)> {
    request(address, "GET", path, token, "")
}

/// Any request, with a JSON body; returns status and body.
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: &str,
) -> Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let bearer = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    // HTTP/1.0: the body is not chunked and ends with the connection.
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\n{bearer}Content-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|it| it == b"\r\n\r\n").context("the answer has no header")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split_whitespace().nth(1).and_then(|it| it.parse().ok());
    Ok((status.context("the answer has no status")?, answer.split_off(end + 4)))
}

/// A free port of the loopback, for a program that takes its listening address as an argument. Outgoing connections do not
/// use these ports, and each call returns another one.
///
/// # Errors
/// If no port is free.
pub fn free_address() -> Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    // Processes that run side by side begin at different ports.
    let begin = std::process::id().wrapping_mul(101) % u32::from(count);
    (0..count)
        .find_map(|_| {
            let offset = (begin + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % u32::from(count);
            let port = PORTS.start + u16::try_from(offset).ok()?;
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?.local_addr().ok()
        })
        .context("no port of the loopback is free")
}
