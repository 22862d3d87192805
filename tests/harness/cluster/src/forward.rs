//! TCP forwards between the host's network and a cluster's, served by this process.
//!
//! A thread enters the other network only to create a socket. The socket stays in that network; bytes are copied by threads of
//! this process.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use lab::host::within_network;

/// Limit of a connection attempt; both ends are on this host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A network namespace; `None` is this process's own.
type Network = Option<Arc<File>>;

/// A listening port that leads into another network. Dropping the forward closes the port.
pub struct Forward {
    address: SocketAddr,
    network: Network,
    ended: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Forward {
    /// Forwards a free port of the host's loopback to an address in `network`.
    pub fn inward(network: File, to: SocketAddr) -> Result<Self> {
        Self::start(None, (Ipv4Addr::LOCALHOST, 0).into(), Some(Arc::new(network)), to)
    }

    /// Forwards an address in `network` to an address of the host.
    pub fn outward(network: File, from: SocketAddr, to: SocketAddr) -> Result<Self> {
        Self::start(Some(Arc::new(network)), from, None, to)
    }

    fn start(outer: Network, from: SocketAddr, inner: Network, to: SocketAddr) -> Result<Self> {
        let listener = within_network(outer.clone(), move || TcpListener::bind(from))
            .with_context(|| format!("listening on {from}: the port may be in use"))?;
        let address = listener.local_addr()?;
        let ended = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ended);
        let thread = thread::Builder::new().name("forward".to_owned()).spawn(move || {
            for client in listener.incoming().flatten() {
                if flag.load(Ordering::Acquire) {
                    break;
                }
                let inner = inner.clone();
                // Dropping the client's socket on failure closes the connection, as a router would.
                let _ = thread::Builder::new().spawn(move || serve(&client, inner, to));
            }
        })?;
        Ok(Self { address, network: outer, ended, listener: Some(thread) })
    }

    /// The listening address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        let address = self.address;
        let connect = move || TcpStream::connect_timeout(&address, CONNECT_TIMEOUT);
        // The connection wakes the thread from accept. If it fails, the network is gone and the thread with its port ends with
        // this process.
        if within_network(self.network.take(), connect).is_ok()
            && let Some(listener) = self.listener.take()
        {
            // A panic of the thread closed the port, too.
            let _ = listener.join();
        }
    }
}

fn serve(client: &TcpStream, network: Network, to: SocketAddr) -> io::Result<()> {
    let server = within_network(network, move || TcpStream::connect_timeout(&to, CONNECT_TIMEOUT))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let upward = (client.try_clone()?, server.try_clone()?);
    let upward = thread::Builder::new().spawn(move || copy(&upward.0, &upward.1))?;
    copy(&server, client);
    let _ = upward.join();
    Ok(())
}

/// Copies until end of file, which is passed on. A read error closes both directions.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    if io::copy(&mut from, &mut to).is_err() {
        let _ = from.shutdown(Shutdown::Both);
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    fn forward_to(server: &TcpListener) -> Forward {
        let to = server.local_addr().expect("a bound socket has an address");
        Forward::start(None, (Ipv4Addr::LOCALHOST, 0).into(), None, to).expect("a port is free")
    }

    #[test]
    fn bytes_and_end_of_file_pass_in_both_directions() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let forward = forward_to(&server);
        let answer = thread::spawn(move || {
            let (mut stream, _) = server.accept().expect("a connection");
            let mut request = String::new();
            stream.read_to_string(&mut request).expect("request until end of file");
            stream.write_all(request.to_uppercase().as_bytes()).expect("answer is sent");
        });
        let mut client = TcpStream::connect(forward.address()).expect("the forward listens");
        client.write_all(b"hello").expect("request is sent");
        client.shutdown(Shutdown::Write).expect("connection is open");
        let mut answered = String::new();
        client.read_to_string(&mut answered).expect("answer until end of file");
        assert_eq!(answered, "HELLO");
        answer.join().expect("the server thread does not panic");
    }

    #[test]
    fn dropped_forward_closes_its_port() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let forward = forward_to(&server);
        let address = forward.address();
        drop(forward);
        assert!(TcpStream::connect(address).is_err());
    }
}
