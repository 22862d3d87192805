//! TCP ports between the computer's network and the cluster's, in this process.
//!
//! A thread that listens or connects enters the other network for that alone; the sockets stay in it, and bytes are copied
//! by whoever holds them.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::host::within_network;

/// How long a connect may take: what is asked is on this computer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A network; none is this process's own.
type Network = Option<Arc<File>>;

/// A port that leads into another network, for as long as this lives.
pub struct Forward {
    address: SocketAddr,
    network: Network,
    ended: Arc<AtomicBool>,
}

impl Forward {
    /// From a free port of the loopback to an address in that network.
    pub fn inward(network: File, to: SocketAddr) -> Result<Self> {
        Self::start(None, (Ipv4Addr::LOCALHOST, 0).into(), Some(Arc::new(network)), to)
    }

    /// From an address in that network to one of the computer's.
    pub fn outward(network: File, from: SocketAddr, to: SocketAddr) -> Result<Self> {
        Self::start(Some(Arc::new(network)), from, None, to)
    }

    fn start(outer: Network, from: SocketAddr, inner: Network, to: SocketAddr) -> Result<Self> {
        let listener = within_network(outer.clone(), move || TcpListener::bind(from))
            .with_context(|| format!("listening on {from}: it may be in use"))?;
        let address = listener.local_addr()?;
        let ended = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ended);
        thread::Builder::new().name("forward".to_owned()).spawn(move || {
            for client in listener.incoming().flatten() {
                if flag.load(Ordering::Acquire) {
                    break;
                }
                let inner = inner.clone();
                // One that can't be served is hung up on, as by a router.
                let _ = thread::Builder::new().spawn(move || serve(&client, inner, to));
            }
        })?;
        Ok(Self { address, network: outer, ended })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // Wakes it from accept.
        let address = self.address;
        let _ = within_network(self.network.take(), move || TcpStream::connect_timeout(&address, PATIENCE));
    }
}

fn serve(client: &TcpStream, network: Network, to: SocketAddr) -> io::Result<()> {
    let server = within_network(network, move || TcpStream::connect_timeout(&to, PATIENCE))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let upward = (client.try_clone()?, server.try_clone()?);
    let upward = thread::Builder::new().spawn(move || copy(&upward.0, &upward.1))?;
    copy(&server, client);
    let _ = upward.join();
    Ok(())
}

/// To the end of what `from` says; the end is passed on, and nothing else is.
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

    #[test]
    fn bytes_and_ends_pass_both_ways() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let to = server.local_addr().expect("bound");
        let forward = Forward::start(None, (Ipv4Addr::LOCALHOST, 0).into(), None, to).expect("it listens");
        let answer = thread::spawn(move || {
            let (mut stream, _) = server.accept().expect("somebody comes");
            let mut asked = String::new();
            stream.read_to_string(&mut asked).expect("to the end");
            stream.write_all(asked.to_uppercase().as_bytes()).expect("written");
        });
        let mut client = TcpStream::connect(forward.address()).expect("it listens");
        client.write_all(b"hello").expect("written");
        client.shutdown(Shutdown::Write).expect("open until now");
        let mut answered = String::new();
        client.read_to_string(&mut answered).expect("to the end");
        assert_eq!(answered, "HELLO");
        answer.join().expect("it answered");

        let address = forward.address();
        drop(forward);
        let gone = (0..100).any(|_| {
            thread::sleep(Duration::from_millis(10));
            TcpStream::connect(address).is_err()
        });
        assert!(gone, "nobody listens any more");
    }
}
