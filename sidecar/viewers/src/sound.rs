//! Distributes the desktop's sound to viewers that listen.
//!
//! As the [`Hub`](crate::Hub) for pictures: publishing never blocks, and each listener has a bounded queue. A listener that is
//! too slow loses the oldest packets, which affects neither its pictures nor other listeners.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, watch};

/// Maximum number of packets queued per listener: 250 ms. Older sound would be late.
const QUEUE: usize = 25;

/// A packet of encoded sound, 10 ms of Opus at 48 kHz in stereo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SoundPacket {
    /// Number of the packet.
    pub seq: u64,
    /// Time of the first sample, ns of `CLOCK_MONOTONIC`, as the capture time of pictures.
    pub capture_ns: u64,
    /// True if the packet does not continue the preceding one.
    pub discontinuity: bool,
    /// The packet's bytes.
    pub data: Bytes,
}

/// Source of the sound, for viewers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SoundState {
    /// True while sound is captured.
    pub running: bool,
    /// Reason why sound cannot be captured, with a remedy; empty if it can, or if that is not known because no viewer listens.
    pub error: String,
}

/// The listeners of a stream. Clones refer to the same hub.
#[derive(Debug, Clone, Default)]
pub struct SoundHub(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    listeners: Mutex<Listeners>,
    wanted: watch::Sender<bool>,
    state: watch::Sender<SoundState>,
    sent: Counter,
    dropped: Counter,
    listening: Gauge,
}

#[derive(Debug, Default)]
struct Listeners {
    next: u64,
    queues: Vec<(u64, Arc<Queue>)>,
}

#[derive(Debug, Default)]
struct Queue {
    packets: Mutex<VecDeque<SoundPacket>>,
    changed: Notify,
}

impl Queue {
    /// Appends a packet; true if the oldest one was dropped for it.
    fn offer(&self, packet: SoundPacket) -> bool {
        let mut packets = self.packets.lock();
        let full = packets.len() >= QUEUE;
        if full {
            packets.pop_front();
            if let Some(next) = packets.front_mut() {
                next.discontinuity = true;
            }
        }
        packets.push_back(packet);
        self.changed.notify_one();
        full
    }

    async fn take(&self) -> SoundPacket {
        loop {
            if let Some(packet) = self.packets.lock().pop_front() {
                return packet;
            }
            self.changed.notified().await;
        }
    }
}

impl SoundHub {
    /// Queues a packet for every listener; never blocks.
    pub fn publish(&self, packet: &SoundPacket) {
        for (_, queue) in &self.0.listeners.lock().queues {
            if queue.offer(packet.clone()) {
                self.0.dropped.inc();
            }
        }
    }

    /// Sets the state that viewers receive.
    pub fn set_state(&self, state: SoundState) {
        self.0.state.send_if_modified(|current| {
            let modified = *current != state;
            *current = state;
            modified
        });
    }

    /// Current state.
    pub fn state(&self) -> watch::Receiver<SoundState> {
        self.0.state.subscribe()
    }

    /// True while at least one viewer listens.
    pub fn wanted(&self) -> watch::Receiver<bool> {
        self.0.wanted.subscribe()
    }

    /// Adds a listener, which receives packets from now on.
    pub fn listen(&self) -> Listener {
        let queue = Arc::new(Queue::default());
        let mut listeners = self.0.listeners.lock();
        let id = listeners.next;
        listeners.next += 1;
        listeners.queues.push((id, Arc::clone(&queue)));
        self.count(&listeners);
        Listener { hub: self.clone(), id, queue }
    }

    fn count(&self, listeners: &Listeners) {
        self.0.listening.set(i64::try_from(listeners.queues.len()).unwrap_or(i64::MAX));
        let wanted = !listeners.queues.is_empty();
        self.0.wanted.send_if_modified(|current| std::mem::replace(current, wanted) != wanted);
    }

    /// Registers this hub's metrics, by their complete names (`desktopstream_sound_listeners`, …).
    pub fn register(&self, registry: &mut Registry) {
        let Shared { sent, dropped, listening, .. } = &*self.0;
        registry.register("desktopstream_sound_listeners", "Viewers that listen", listening.clone());
        registry.register(
            "desktopstream_sound_packets_sent",
            "Packets of sound sent, summed over viewers",
            sent.clone(),
        );
        registry.register(
            "desktopstream_sound_packets_dropped",
            "Packets of sound not sent to slow viewers",
            dropped.clone(),
        );
    }
}

/// A viewer that listens; dropping it ends that.
#[derive(Debug)]
pub struct Listener {
    hub: SoundHub,
    id: u64,
    queue: Arc<Queue>,
}

impl Listener {
    /// The next packet. Cancel safe.
    pub async fn next(&self) -> SoundPacket {
        let packet = self.queue.take().await;
        self.hub.0.sent.inc();
        packet
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut listeners = self.hub.0.listeners.lock();
        listeners.queues.retain(|(id, _)| *id != self.id);
        self.hub.count(&listeners);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn packet(seq: u64) -> SoundPacket {
        SoundPacket { seq, capture_ns: seq * 10, discontinuity: false, data: Bytes::from_static(&[1]) }
    }

    fn taken(listener: &Listener) -> Vec<SoundPacket> {
        std::iter::from_fn(|| listener.next().now_or_never()).collect()
    }

    #[test]
    fn slow_listener_loses_the_oldest_packets_and_others_lose_none() {
        let hub = SoundHub::default();
        let (slow, fast) = (hub.listen(), hub.listen());
        let mut received = 0;
        for seq in 0..100 {
            hub.publish(&packet(seq));
            received += taken(&fast).len();
        }
        assert_eq!(received, 100);
        let rest = taken(&slow);
        assert_eq!(rest.len(), QUEUE);
        assert_eq!((rest[0].seq, rest[0].discontinuity), (75, true), "the gap is marked");
        assert!(rest[1..].iter().all(|packet| !packet.discontinuity));
        assert_eq!(hub.0.dropped.get(), 75);
    }

    #[test]
    fn sound_is_wanted_while_there_is_a_listener() {
        let hub = SoundHub::default();
        let wanted = hub.wanted();
        assert!(!*wanted.borrow());
        let (first, second) = (hub.listen(), hub.listen());
        assert!(*wanted.borrow());
        drop(first);
        assert!(*wanted.borrow());
        drop(second);
        assert!(!*wanted.borrow());
    }

    #[test]
    fn packets_before_a_listener_are_not_replayed() {
        let hub = SoundHub::default();
        hub.publish(&packet(0));
        let listener = hub.listen();
        assert_eq!(taken(&listener), []);
        hub.publish(&packet(1));
        assert_eq!(taken(&listener), [packet(1)]);
    }
}
