//! A proxy in front of the apiserver that answers requests for one kind's list late.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use anyhow::Result;

/// State of the proxy.
#[derive(Default)]
struct State {
    /// True once lists of the kind are answered.
    is_released: bool,
    /// Paths of watches that were started.
    watches: Vec<String>,
    /// Number of lists that wait.
    waiting: usize,
}

type Shared = Arc<(Mutex<State>, Condvar)>;

/// The proxy. Its threads end with this process.
pub struct LateList {
    address: SocketAddr,
    state: Shared,
}

impl LateList {
    /// Starts a proxy to `apiserver`, which answers without TLS. Lists at `path` wait until [`release`](Self::release).
    ///
    /// # Errors
    /// If no port is free.
    pub fn start(apiserver: SocketAddr, path: &'static str) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let state = Shared::default();
        let shared = Arc::clone(&state);
        thread::Builder::new().name("late list".to_owned()).spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // A connection that cannot be served is closed, and the client tries again.
                let _ = thread::Builder::new().spawn(move || serve(&client, apiserver, path, &state));
            }
        })?;
        Ok(Self { address, state })
    }

    /// The listening address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Number of lists that wait.
    pub fn waiting(&self) -> usize {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner).waiting
    }

    /// Number of watches that were started.
    pub fn watches(&self) -> usize {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner).watches.len()
    }

    /// Answers the lists that wait, and all later ones at once.
    pub fn release(&self) {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner).is_released = true;
        self.state.1.notify_all();
    }
}

/// Passes on one request, and the answer until the apiserver closes the connection.
fn serve(client: &TcpStream, apiserver: SocketAddr, path: &str, state: &Shared) -> io::Result<()> {
    let mut reader = BufReader::new(client);
    let mut head = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line.trim().is_empty() {
            break;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or_default();
        }
        if !lower.starts_with("connection:") {
            head.push_str(&line);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let target = head.split_whitespace().nth(1).unwrap_or_default();
    await_turn(target, path, state);
    let mut server = TcpStream::connect(apiserver)?;
    write!(server, "{head}Connection: close\r\n\r\n")?;
    server.write_all(&body)?;
    io::copy(&mut server, &mut &*client)?;
    client.shutdown(Shutdown::Both)
}

/// Waits if `target` is a list at `path`.
fn await_turn(target: &str, path: &str, (state, released): &(Mutex<State>, Condvar)) {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let (at, query) = target.split_once('?').unwrap_or((target, ""));
    if query.contains("watch=") {
        state.watches.push(at.to_owned());
    } else if at == path {
        state.waiting += 1;
        let waited = released.wait_while(state, |state| !state.is_released);
        waited.unwrap_or_else(PoisonError::into_inner).waiting -= 1;
    }
}
