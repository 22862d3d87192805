//! Connection limiter: bounds connections in total and per peer, so that neither slow nor silent clients keep the apiserver out.
//!
//! At a limit, the connection that has waited the longest for its client is evicted: an idle one, or one whose request is
//! still incomplete. Connections whose request is being answered are not evicted.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Bounds of the limiter.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Maximum number of connections.
    pub total: usize,
    /// Maximum number of connections of one address.
    pub per_peer: usize,
}

/// Open connections.
#[derive(Debug)]
pub struct Connections {
    bounds: Bounds,
    open: Mutex<Open>,
    /// A connection was closed, or became evictable.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Open {
    /// Counts changes of state: orders connections by the time that they have waited, without a clock.
    steps: u64,
    next: u64,
    entries: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    peer: IpAddr,
    /// Step since which the connection has waited for its client; `None` while a request is being answered.
    waits_since: Option<u64>,
    evicted: Arc<Notify>,
}

impl Connections {
    /// Makes an empty limiter.
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { bounds, open: Mutex::default(), changed: Notify::new() })
    }

    /// A place for a connection of `peer`. Waits while all connections that could make room are being answered.
    pub async fn admit(self: &Arc<Self>, peer: IpAddr) -> Slot {
        loop {
            // Registered before the attempt, so that no change is missed.
            let changed = self.changed.notified();
            if let Some(slot) = self.try_admit(peer) {
                return slot;
            }
            changed.await;
        }
    }

    /// A place for a connection of `peer`; `None` if no other connection can make room.
    fn try_admit(self: &Arc<Self>, peer: IpAddr) -> Option<Slot> {
        let mut open = self.lock();
        let of_peer = open.entries.values().filter(|entry| entry.peer == peer).count();
        let is_crowded = of_peer >= self.bounds.per_peer;
        if is_crowded || open.entries.len() >= self.bounds.total {
            let candidates = open.entries.iter().filter(|(_, entry)| !is_crowded || entry.peer == peer);
            let waiting = candidates.filter_map(|(id, entry)| Some((entry.waits_since?, *id)));
            let (_, victim) = waiting.min()?;
            if let Some(entry) = open.entries.remove(&victim) {
                entry.evicted.notify_one();
            }
        }
        let (id, evicted) = (open.next, Arc::new(Notify::new()));
        open.next += 1;
        open.steps += 1;
        let waits_since = Some(open.steps);
        open.entries.insert(id, Entry { peer, waits_since, evicted: Arc::clone(&evicted) });
        Some(Slot { connections: Arc::clone(self), id, evicted })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of connections.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }
}

/// Place of a connection. Freed on drop.
#[derive(Debug)]
pub struct Slot {
    connections: Arc<Connections>,
    id: u64,
    evicted: Arc<Notify>,
}

impl Slot {
    /// Returns when the connection must be closed to make room.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Keeps the connection from being evicted until the guard is dropped.
    pub fn answering(&self) -> Answering<'_> {
        self.wait(false);
        Answering(self)
    }

    fn wait(&self, waits: bool) {
        let mut open = self.connections.lock();
        open.steps += 1;
        let step = open.steps;
        if let Some(entry) = open.entries.get_mut(&self.id) {
            entry.waits_since = waits.then_some(step);
        }
        drop(open);
        if waits {
            self.connections.changed.notify_one();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connections.lock().entries.remove(&self.id);
        self.connections.changed.notify_one();
    }
}

/// While it lives, its connection is not evicted.
#[derive(Debug)]
pub struct Answering<'s>(&'s Slot);

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.wait(true);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    async fn is_evicted(slot: &Slot) -> bool {
        let mut evicted = pin!(slot.evicted());
        poll_fn(|context| Poll::Ready(evicted.as_mut().poll(context).is_ready())).await
    }

    #[tokio::test]
    async fn crowded_peer_evicts_its_own_oldest_connection() {
        let all = Connections::new(Bounds { total: 10, per_peer: 2 });
        let other = all.admit(B).await;
        let (first, second) = (all.admit(A).await, all.admit(A).await);
        let third = all.admit(A).await;
        assert!(is_evicted(&first).await);
        assert!(!is_evicted(&second).await && !is_evicted(&third).await && !is_evicted(&other).await);
        assert_eq!(all.len(), 3);
        drop(first);
        assert_eq!(all.len(), 3, "an evicted place is freed once");
    }

    #[tokio::test]
    async fn answered_connection_is_not_evicted() {
        let all = Connections::new(Bounds { total: 2, per_peer: 2 });
        let (first, second) = (all.admit(A).await, all.admit(B).await);
        let answering = first.answering();
        let third = all.admit(A).await;
        assert!(!is_evicted(&first).await && is_evicted(&second).await);
        let busy = third.answering();
        assert!(all.try_admit(B).is_none(), "all are being answered");
        drop(answering);
        assert!(all.try_admit(B).is_some());
        assert!(is_evicted(&first).await);
        drop(busy);
    }

    #[tokio::test]
    async fn waiting_peer_is_admitted_when_a_connection_closes() {
        let all = Connections::new(Bounds { total: 1, per_peer: 1 });
        let first = all.admit(A).await;
        let answering = first.answering();
        let waiting = tokio::spawn({
            let all = Arc::clone(&all);
            async move { all.admit(B).await.id }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(answering);
        drop(first);
        assert_eq!(waiting.await.expect("admitted"), 1);
    }
}
