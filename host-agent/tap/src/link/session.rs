//! One connection to the host-agent, from hello to its end.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use protocol::link::{Context, FromTap, Stats, ToTap, VERSION};
use frame_ring::Producer;
use frame_ring::doorbell::{self, Bell};

use super::socket::{Socket, wait};
use super::{Link, LinkError};
use crate::binding::{Binding, Command};
use crate::log;
use crate::shared::Event;

/// Memory of all rings of one VM together: sixteen 4K sessions.
pub const MAX_RING_BYTES: u64 = 2 << 30;
/// Sessions of one VM.
const MAX_SESSIONS: usize = 256;
/// How long a host-agent may take to answer hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How often stats go out while something happens.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

/// The rings that this connection brought, for their sum.
#[derive(Debug, Default)]
struct Rings(HashMap<u64, (Context, u64)>);

impl Rings {
    /// Checks that one more fits; an earlier one of the session or context makes room.
    fn add(&mut self, session: u64, context: Context, bytes: u64) -> Result<(), LinkError> {
        self.0.retain(|other, (of, _)| *other != session && *of != context);
        let sum: u64 = self.0.values().map(|(_, bytes)| bytes).sum();
        if self.0.len() >= MAX_SESSIONS || bytes > MAX_RING_BYTES.saturating_sub(sum) {
            return Err(LinkError::Overrun("more rings than one VM may have"));
        }
        self.0.insert(session, (context, bytes));
        Ok(())
    }
}

/// Connects and serves until it ends; `connected` is called when hands are shaken.
pub(super) fn run(link: &Link, connected: impl Fn()) -> Result<(), LinkError> {
    let shared = &link.shared;
    let mut socket = Socket::connect(&link.settings.link)?;
    socket.send(&FromTap::Hello {
        min: VERSION,
        max: VERSION,
        tap_version: crate::VERSION,
        instance: link.instance,
        pid: std::process::id(),
        abi: shared.abi.load(Ordering::Relaxed),
        vm: link.settings.vm.clone(),
    })?;
    shake_hands(link, &mut socket)?;
    connected();
    let epoch = shared.up();
    log::line(format_args!("link: up"));
    let mut rings = Rings::default();
    let mut sent = Stats::default();
    let mut next_stats = Instant::now();
    loop {
        while let Some((message, descriptors)) = socket.receive()? {
            let command = command(message, descriptors, epoch, &mut rings)?;
            if !shared.send(command) {
                return Err(LinkError::Overrun("too many commands wait for an idle VM"));
            }
        }
        while let Some(event) = shared.event(epoch) {
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
        if wait(&link.wake, Some(&socket), left)? {
            doorbell::drain(&link.wake);
        }
        socket.flush()?;
    }
}

fn shake_hands(link: &Link, socket: &mut Socket) -> Result<(), LinkError> {
    let end = Instant::now() + HELLO_TIMEOUT;
    loop {
        match socket.receive()? {
            Some((ToTap::HelloAck { version: VERSION }, _)) => return Ok(()),
            Some((ToTap::HelloAck { .. }, _)) => {
                return Err(LinkError::Protocol("it chose a version that we did not offer"));
            }
            Some(_) => return Err(LinkError::Protocol("its first message was not hello")),
            None => {}
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(LinkError::Silent);
        }
        if wait(&link.wake, Some(socket), left)? {
            doorbell::drain(&link.wake);
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
            let Ok([memory, bell]) = <[OwnedFd; 2]>::try_from(descriptors) else {
                return Err(LinkError::Protocol("attach came without its two descriptors"));
            };
            // Mapping makes all pages present: look at the size first.
            let system = |step, errno: rustix::io::Errno| LinkError::System { step, source: errno.into() };
            let stat = rustix::fs::fstat(&memory).map_err(|errno| system("examine the ring", errno))?;
            rings.add(session, context, u64::try_from(stat.st_size).unwrap_or(u64::MAX))?;
            let producer = Producer::map(memory)?;
            let bell = Bell::new(bell)
                .map_err(|source| LinkError::System { step: "use the ring's bell", source })?;
            Ok(Command::Attach(context, Box::new(Binding { session, epoch, producer, bell })))
        }
    }
}

fn from_event(event: Event, rings: &mut Rings) -> FromTap {
    match event {
        Event::Bind { context, name, nonce } => FromTap::Bind { context, nonce, name },
        Event::Gone(context) => {
            rings.0.retain(|_, (of, _)| *of != context);
            FromTap::ContextGone(context)
        }
    }
}
