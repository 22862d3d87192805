//! The link: a Unix socket on which taps connect, report binds and receive rings.
//!
//! A tap runs inside a VMM of the same user or of root, which the kernel attests (`SO_PEERCRED`) before any
//! message is read. Messages are checked for form here; permissions are decided by the [hub](crate::hub).
//! The end of a connection removes everything of its VM.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use protocol::link::{ATTACH_DESCRIPTORS, FromTap, ToTap, VERSION, from_tap_limit};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::accept::accept_until;
use crate::framing::{FramedReader, ReadError};
use crate::hub::{Hub, LimitReached, Outgoing, Vm, VmDescription};
use crate::listen::{ForeignUser, UnixSocket, check_peer};

/// Maximum time between accept and `Hello`, and for a tap to accept a message.
const PEER_TIMEOUT: Duration = Duration::from_secs(5);
/// A tap is silent while its VM draws nothing.
const NO_IDLE_TIMEOUT: Duration = Duration::MAX;

/// Reason why a tap's connection ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    ForeignUser(#[from] ForeignUser),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the first message is not Hello, or Hello was sent twice")]
    UnexpectedHello,
    #[error(
        "the tap supports protocol versions {min} to {max}, host-agent supports {VERSION}; install tap and host-agent of \
         the same release"
    )]
    Version { min: u16, max: u16 },
    #[error(transparent)]
    LimitReached(#[from] LimitReached),
    #[error("the tap does not read: {0}")]
    Write(#[from] io::Error),
}

/// Accepts taps until `stop`, then closes their connections.
pub async fn run(socket: UnixSocket, hub: Arc<Hub>, mut stop: watch::Receiver<bool>) {
    let serve = |stream| {
        let hub = Arc::clone(&hub);
        async move { serve(stream, &hub).await }
    };
    let mut taps = tokio::select! {
        taps = accept_until(&socket, "link", &mut stop, serve) => taps,
        never = hub.pace_rings() => match never {},
    };
    taps.shutdown().await;
}

async fn serve(stream: UnixStream, hub: &Hub) {
    match handshake(stream, hub).await {
        Ok(Established { vm, reader, writer, outgoing }) => {
            // Dropped also when this task is aborted at shutdown.
            let _registration = Registration { hub, vm: &vm };
            let end = tokio::select! {
                end = read_messages(&vm, hub, reader) => end,
                end = write_messages(&vm, writer, outgoing) => end,
            };
            let reason = end.err().map_or_else(|| "closed".to_owned(), |error| error.to_string());
            tracing::info!(vm = vm.description.name, reason, "tap disconnected");
        }
        Err(error) => tracing::warn!(%error, "tap rejected"),
    }
}

/// Removes the VM from the hub when it is dropped.
struct Registration<'a> {
    hub: &'a Hub,
    vm: &'a Vm,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.hub.remove_vm(self.vm.id);
    }
}

/// A tap whose handshake succeeded.
struct Established {
    vm: Arc<Vm>,
    reader: FramedReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    outgoing: mpsc::Receiver<Outgoing>,
}

async fn handshake(stream: UnixStream, hub: &Hub) -> Result<Established, LinkError> {
    check_peer(&stream)??;
    let (reader, writer) = stream.into_split();
    let mut reader = FramedReader::new(reader);
    let (header, payload) = reader.read(PEER_TIMEOUT, from_tap_limit).await?;
    let message = FromTap::decode(header, payload).map_err(ReadError::from)?;
    let FromTap::Hello { min, max, tap_version, instance, pid, abi, vm: name } = message else {
        return Err(LinkError::UnexpectedHello);
    };
    if !(min..=max).contains(&VERSION) {
        return Err(LinkError::Version { min, max });
    }
    let description = VmDescription { name, pid, tap_version, abi, instance };
    let mut receiver = None;
    let vm = hub.add_vm(|id| {
        let (vm, outgoing) = Vm::new(id, description);
        // Queued first: once the tap is in the hub, other threads queue messages.
        vm.send(ToTap::HelloAck { version: VERSION }, None);
        receiver = Some(outgoing);
        Arc::new(vm)
    })?;
    let outgoing = receiver.ok_or(LinkError::UnexpectedHello)?;
    tracing::info!(vm = vm.description.name, pid, tap_version, abi, "tap connected");
    Ok(Established { vm, reader, writer, outgoing })
}

async fn read_messages(
    vm: &Arc<Vm>,
    hub: &Hub,
    mut reader: FramedReader<OwnedReadHalf>,
) -> Result<(), LinkError> {
    loop {
        let (header, payload) = match reader.read(NO_IDLE_TIMEOUT, from_tap_limit).await {
            Ok(message) => message,
            Err(ReadError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match FromTap::decode(header, payload).map_err(ReadError::from)? {
            FromTap::Hello { .. } => return Err(LinkError::UnexpectedHello),
            FromTap::Bind { context, nonce, name } => {
                hub.bind(vm, context, &nonce, &name);
            }
            FromTap::ContextGone(context) => hub.context_destroyed(vm.id, context),
            FromTap::Stats(stats) => vm.set_stats(stats),
            FromTap::RingReady { session, ring } => hub.ring_answered(vm.id, session, ring, Ok(())),
            FromTap::RingRefused { session, ring, refusal } => {
                hub.ring_answered(vm.id, session, ring, Err(refusal));
            }
        }
        if vm.is_stuck() {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
    }
}

async fn write_messages(
    vm: &Vm,
    writer: OwnedWriteHalf,
    mut outgoing: mpsc::Receiver<Outgoing>,
) -> Result<(), LinkError> {
    while let Some((message, descriptors)) = outgoing.recv().await {
        let bytes = message.encode().to_vec();
        let send = send(writer.as_ref(), &bytes, descriptors.as_ref());
        timeout(PEER_TIMEOUT, send).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        if vm.is_stuck() {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
    }
    Ok(())
}

/// Sends a message; the descriptors accompany its first byte.
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
