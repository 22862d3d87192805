//! One connection to the host-agent, from hello to its end.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use frame_ring::Producer;
use frame_ring::wake::Waker;
use protocol::link::{Context, FromTap, Stats, ToTap, VERSION};

use super::socket::{Socket, wait};
use super::{Link, LinkError};
use crate::binding::{Binding, Command};
use crate::log;
use crate::shared::Event;

/// Largest total size of all rings of one VM in bytes: sixteen 4K sessions.
pub const MAX_RING_BYTES: u64 = 2 << 30;
/// Largest number of sessions of one VM.
const MAX_SESSIONS: usize = 256;
/// Longest time until the host-agent answers the hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval between stats messages, which are sent only if the counters changed.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

/// A ring that was attached over this connection.
#[derive(Debug)]
struct RingEntry {
    context: Context,
    bytes: u64,
}

/// The attached rings by session.
#[derive(Debug, Default)]
struct Rings(HashMap<u64, RingEntry>);

impl Rings {
    /// Records a ring if it fits into the limits. It replaces earlier ones of its session or context.
    fn add(&mut self, session: u64, context: Context, bytes: u64) -> Result<(), LinkError> {
        self.0.retain(|other, ring| *other != session && ring.context != context);
        let sum: u64 = self.0.values().map(|ring| ring.bytes).sum();
        if self.0.len() >= MAX_SESSIONS || bytes > MAX_RING_BYTES.saturating_sub(sum) {
            return Err(LinkError::Overrun("the VM's sessions need more ring memory than allowed"));
        }
        self.0.insert(session, RingEntry { context, bytes });
        Ok(())
    }
}

/// Connects and serves until the connection ends. Calls `connected` after the hello was answered.
pub(super) fn run(link: &Link, connected: impl Fn()) -> Result<(), LinkError> {
    let shared = &link.shared;
    let mut socket = Socket::connect(&link.settings.link, &link.settings.trusted_users)?;
    socket.send(&FromTap::Hello {
        min: VERSION,
        max: VERSION,
        tap_version: crate::VERSION,
        instance: link.instance,
        pid: std::process::id(),
        abi: shared.abi.load(Ordering::Relaxed),
        vm: link.settings.vm.clone(),
    })?;
    await_hello(link, &mut socket)?;
    connected();
    let epoch = shared.connect();
    log::line(format_args!("link connected"));
    let mut rings = Rings::default();
    let mut sent = Stats::default();
    let mut next_stats = Instant::now();
    loop {
        while let Some((message, descriptors)) = socket.receive()? {
            let command = command(message, descriptors, epoch, &mut rings)?;
            if !shared.send_command(command) {
                return Err(LinkError::Overrun("the command queue is full; the VM makes no requests"));
            }
        }
        while let Some(event) = shared.next_event(epoch) {
            socket.send(&from_event(event, &mut rings))?;
        }
        if shared.lost_events() {
            return Err(LinkError::Overrun("events were lost"));
        }
        shared.unmap_retired();
        if Instant::now() >= next_stats {
            next_stats = Instant::now() + STATS_INTERVAL;
            let stats = shared.counters.snapshot();
            if stats != sent {
                sent = stats;
                socket.send(&FromTap::Stats(sent))?;
            }
        }
        let left = next_stats.saturating_duration_since(Instant::now());
        if wait(&link.wake_fd, Some(&socket), left)? {
            link.wake_fd.clear();
        }
        socket.flush()?;
    }
}

fn await_hello(link: &Link, socket: &mut Socket) -> Result<(), LinkError> {
    let end = Instant::now() + HELLO_TIMEOUT;
    loop {
        match socket.receive()? {
            Some((ToTap::HelloAck { version: VERSION }, _)) => return Ok(()),
            Some((ToTap::HelloAck { .. }, _)) => {
                return Err(LinkError::Protocol("the chosen version was not offered"));
            }
            Some(_) => return Err(LinkError::Protocol("the first message is not a hello")),
            None => {}
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(LinkError::HelloTimeout);
        }
        if wait(&link.wake_fd, Some(socket), left)? {
            link.wake_fd.clear();
            link.shared.unmap_retired();
        }
        socket.flush()?;
    }
}

fn command(
    message: ToTap,
    descriptors: Vec<OwnedFd>,
    epoch: u64,
    rings: &mut Rings,
) -> Result<Command, LinkError> {
    match message {
        ToTap::HelloAck { .. } => Err(LinkError::Protocol("a second hello")),
        ToTap::Detach { session } => {
            rings.0.remove(&session);
            Ok(Command::Detach { epoch, session })
        }
        ToTap::Attach { session, context } => {
            let Ok([memory, wake_socket]) = <[OwnedFd; 2]>::try_from(descriptors) else {
                return Err(LinkError::Protocol("an attach without its two descriptors"));
            };
            // The size is checked first, because mapping makes all pages present.
            let system = |step, errno: rustix::io::Errno| LinkError::System { step, source: errno.into() };
            let stat = rustix::fs::fstat(&memory).map_err(|errno| system("examine the ring", errno))?;
            rings.add(session, context, u64::try_from(stat.st_size).unwrap_or(u64::MAX))?;
            let producer = Producer::map(memory)?;
            let waker = Waker::new(wake_socket)
                .map_err(|source| LinkError::System { step: "use the session's wake fd", source })?;
            Ok(Command::Attach(context, Box::new(Binding { session, epoch, producer, waker })))
        }
    }
}

fn from_event(event: Event, rings: &mut Rings) -> FromTap {
    match event {
        Event::Bind { context, name, nonce } => FromTap::Bind { context, nonce, name },
        Event::Gone(context) => {
            rings.0.retain(|_, ring| ring.context != context);
            FromTap::ContextGone(context)
        }
    }
}
