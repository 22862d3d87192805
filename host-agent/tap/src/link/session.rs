//! One connection to the host-agent, from hello to its end.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use protocol::link::{FromTap, Stats, ToTap, VERSION};

use super::rings::Rings;
use super::socket::{Socket, wait};
use super::{Link, LinkError};
use crate::log;
use crate::shared::{Event, Shared};

/// Longest time until the host-agent answers the hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval between stats messages, which are sent only if the counters changed.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

/// Connects and serves until the connection ends. Calls `connected` after the hello was answered.
pub(super) fn run(link: &mut Link, connected: impl Fn()) -> Result<(), LinkError> {
    let shared = &Arc::clone(&link.shared);
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
    let mut sent = Stats::default();
    let mut next_stats = Instant::now();
    loop {
        while let Some((message, descriptors)) = socket.receive()? {
            if let Some(answer) = execute(message, descriptors, epoch, shared, &mut link.rings)? {
                socket.send(&answer)?;
            }
        }
        // The rest waits in the queue, whose end the VMM's thread respects.
        while socket.has_space()
            && let Some(event) = shared.next_event(epoch)
        {
            socket.send(&from_event(event))?;
        }
        link.rings.unmap_revoked();
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

fn await_hello(link: &mut Link, socket: &mut Socket) -> Result<(), LinkError> {
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
            link.rings.unmap_revoked();
        }
        socket.flush()?;
    }
}

/// Executes a message; returns the answer to it.
fn execute(
    message: ToTap,
    descriptors: Vec<OwnedFd>,
    epoch: u64,
    shared: &Shared,
    rings: &mut Rings,
) -> Result<Option<FromTap>, LinkError> {
    match message {
        ToTap::HelloAck { .. } => return Err(LinkError::Protocol("a second hello")),
        ToTap::Attach { session, ring, context } => {
            let Ok(descriptors) = <[OwnedFd; 2]>::try_from(descriptors) else {
                return Err(LinkError::Protocol("an attach without its two descriptors"));
            };
            return Ok(Some(match rings.attach(session, epoch, context, descriptors) {
                Ok(()) => FromTap::RingReady { session, ring },
                Err(refusal) => FromTap::RingRefused { session, ring, refusal },
            }));
        }
        ToTap::Detach { session } => rings.detach(session),
        ToTap::Expect(prefixes) => {
            if !prefixes.into_iter().all(|prefix| shared.expected.insert(prefix)) {
                log::line(format_args!("more sessions than nonces can be remembered"));
            }
        }
        ToTap::Forget(prefix) => shared.expected.remove(prefix),
    }
    Ok(None)
}

fn from_event(event: Event) -> FromTap {
    match event {
        Event::Bind { context, name, nonce } => FromTap::Bind { context, nonce, name },
        Event::Gone(context) => FromTap::ContextGone(context),
    }
}
