//! The link: a Unix socket on which taps connect, tell who is bound, and get their rings.
//!
//! A tap is code in a VMM that runs as our user (or root); the kernel says so (`SO_PEERCRED`) before it is
//! heard. Its messages are still only believed in form: what they may do is decided by the
//! [hub](crate::hub). When the connection ends, for whatever reason, everything of that VM is gone.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use protocol::link::{ATTACH_DESCRIPTORS, FromTap, ToTap, VERSION, from_tap_limit};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::{BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::hub::{Hub, Vm, VmDescription};
use crate::listen::UnixSocket;
use crate::wire::{ReadError, read_message};

/// Longest time that a tap may take to say `Hello`, or to take a message.
const PATIENCE: Duration = Duration::from_secs(5);
/// A tap has nothing to say while its VM does nothing.
const FOR_EVER: Duration = Duration::MAX;

/// Why a tap's connection ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("the peer runs as user {0}; run the VM as the user that runs host-agent")]
    Stranger(u32),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the first message is not Hello")]
    NoHello,
    #[error(
        "the tap speaks versions {min} to {max}, we speak {VERSION}; run tap and host-agent of one release"
    )]
    Version { min: u16, max: u16 },
    #[error(transparent)]
    Full(#[from] crate::hub::Full),
    #[error("the tap does not read: {0}")]
    Write(#[from] io::Error),
}

/// Takes taps until `stop` says so, and then lets go of them.
pub async fn run(socket: UnixSocket, hub: Arc<Hub>, mut stop: watch::Receiver<bool>) {
    let mut taps = JoinSet::new();
    loop {
        tokio::select! {
            () = crate::serve::stopped(&mut stop) => break,
            // Reaps those that ended.
            Some(_) = taps.join_next() => {}
            accepted = socket.listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let hub = Arc::clone(&hub);
                    taps.spawn(async move { serve(stream, &hub).await });
                }
                Err(error) => {
                    tracing::error!(%error, "can't take a tap");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
    taps.shutdown().await;
}

async fn serve(stream: UnixStream, hub: &Hub) {
    match begin(stream, hub).await {
        Ok((vm, reader, writer, outgoing)) => {
            // Removed on the way out, also when this task is aborted at shutdown.
            let _guard = Departure { hub, vm: &vm };
            let end = tokio::select! {
                end = read_all(&vm, hub, reader) => end,
                end = write_all(writer, outgoing) => end,
            };
            let reason = end.err().map_or_else(|| "closed".to_owned(), |error| error.to_string());
            tracing::info!(vm = vm.description.name, reason, "tap gone");
        }
        Err(error) => tracing::warn!(%error, "a tap was refused"),
    }
}

struct Departure<'a> {
    hub: &'a Hub,
    vm: &'a Vm,
}

impl Drop for Departure<'_> {
    fn drop(&mut self) {
        self.hub.remove_vm(self.vm.id);
    }
}

type Begun = (Arc<Vm>, BufReader<OwnedReadHalf>, OwnedWriteHalf, mpsc::Receiver<crate::hub::Outgoing>);

async fn begin(stream: UnixStream, hub: &Hub) -> Result<Begun, LinkError> {
    let peer = stream.peer_cred()?.uid();
    if peer != rustix::process::getuid().as_raw() && peer != 0 {
        return Err(LinkError::Stranger(peer));
    }
    let (reader, writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let (header, payload) = read_message(&mut reader, PATIENCE, from_tap_limit).await?;
    let message = FromTap::decode(header, payload).map_err(ReadError::from)?;
    let FromTap::Hello { min, max, tap_version, instance, pid, abi, vm: name } = message else {
        return Err(LinkError::NoHello);
    };
    if !(min..=max).contains(&VERSION) {
        return Err(LinkError::Version { min, max });
    }
    let description = VmDescription { name, pid, tap_version, abi, instance };
    let mut receiver = None;
    let vm = hub.add_vm(|id| {
        let (vm, outgoing) = Vm::new(id, description);
        receiver = Some(outgoing);
        Arc::new(vm)
    })?;
    vm.send(ToTap::HelloAck { version: VERSION }, None);
    let outgoing = receiver.ok_or(LinkError::NoHello)?;
    tracing::info!(vm = vm.description.name, pid, tap_version, abi, "tap connected");
    Ok((vm, reader, writer, outgoing))
}

async fn read_all(vm: &Arc<Vm>, hub: &Hub, mut reader: BufReader<OwnedReadHalf>) -> Result<(), LinkError> {
    loop {
        let (header, payload) = match read_message(&mut reader, FOR_EVER, from_tap_limit).await {
            Ok(message) => message,
            Err(ReadError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match FromTap::decode(header, payload).map_err(ReadError::from)? {
            FromTap::Hello { .. } => return Err(LinkError::NoHello),
            FromTap::Bind { context, nonce, name } => {
                hub.bind(vm, context, &nonce, name);
            }
            FromTap::ContextGone(context) => hub.context_gone(vm.id, context),
            FromTap::Stats(stats) => vm.set_stats(stats),
        }
        if vm.is_stuck() {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
    }
}

async fn write_all(
    writer: OwnedWriteHalf,
    mut outgoing: mpsc::Receiver<crate::hub::Outgoing>,
) -> Result<(), LinkError> {
    while let Some((message, descriptors)) = outgoing.recv().await {
        let bytes = message.encode().to_vec();
        let send = send(writer.as_ref(), &bytes, descriptors.as_ref());
        timeout(PATIENCE, send).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    }
    Ok(())
}

/// Sends a message whose first byte carries the descriptors.
async fn send(
    stream: &UnixStream,
    mut bytes: &[u8],
    mut descriptors: Option<&[OwnedFd; ATTACH_DESCRIPTORS]>,
) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        let sent = stream.try_io(Interest::WRITABLE, || Ok(send_once(stream, bytes, descriptors)?));
        match sent {
            Ok(sent) => {
                bytes = bytes.get(sent..).unwrap_or_default();
                descriptors = None;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn send_once(
    stream: &UnixStream,
    bytes: &[u8],
    descriptors: Option<&[OwnedFd; ATTACH_DESCRIPTORS]>,
) -> rustix::io::Result<usize> {
    let borrowed: Vec<_> = descriptors.into_iter().flatten().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(ATTACH_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(rustix::io::Errno::NOBUFS);
    }
    rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::empty())
}
