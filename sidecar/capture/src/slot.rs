//! The newest-wins slot between a source and the pump.
//!
//! It holds at most one frame. A newer one replaces it and takes over its damage, so that whoever looks only
//! at what changed misses nothing; the replaced frame's buffer goes back at once. It does not know how frames
//! are made.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::frame::Frame;

/// A place for one frame.
#[derive(Debug, Default)]
pub struct Slot {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct State {
    frame: Option<Frame>,
    overwritten: u64,
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements: a panic elsewhere does not matter to it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a frame in; one that was there goes back to its compositor.
    pub fn put(&self, mut frame: Frame) {
        let old = {
            let mut state = self.state();
            let old = state.frame.take();
            if let Some(old) = &old {
                state.overwritten += 1;
                if (old.width, old.height) == (frame.width, frame.height) {
                    frame.damage = frame.damage.union(old.damage);
                }
            }
            state.frame = Some(frame);
            old
        };
        self.filled.notify_one();
        // Outside of the lock: giving back calls into the source.
        drop(old);
    }

    /// Takes the frame; waits at most `timeout` for one.
    pub fn take(&self, timeout: Duration) -> Option<Frame> {
        let waited = self.filled.wait_timeout_while(self.state(), timeout, |state| state.frame.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.frame.take()
    }

    /// Whether a frame would replace none.
    pub fn is_empty(&self) -> bool {
        self.state().frame.is_none()
    }

    /// Empties it.
    pub fn clear(&self) {
        let old = self.state().frame.take();
        drop(old);
    }

    /// Frames replaced before anybody took them.
    pub fn overwritten(&self) -> u64 {
        self.state().overwritten
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use protocol::{PixelFormat, Rect};
    use virtgpu::SharedMap;

    use super::*;
    use crate::frame::{FrameBuffer, GiveBack, Lease, ShmView};

    #[derive(Default)]
    struct Returned(Mutex<Vec<u64>>);

    impl GiveBack for Returned {
        fn give_back(&self, token: u64) {
            self.0.lock().expect("not poisoned").push(token);
        }
    }

    fn frame(seq: u64, size: u32, damage: Rect, owner: &Arc<Returned>) -> Frame {
        let (map, _) = SharedMap::create("test", 4096).expect("memfd");
        let view = ShmView::new(Arc::new(map), 0, 4, 1).expect("fits");
        let owner: Arc<dyn GiveBack> = owner.clone();
        Frame {
            seq,
            capture_ns: seq,
            width: size,
            height: size,
            format: PixelFormat::Bgrx,
            damage,
            buffer: FrameBuffer::Shm(view),
            lease: Lease::new(owner, seq),
        }
    }

    fn rect(x: u32) -> Rect {
        Rect { x, y: 0, width: 10, height: 10 }
    }

    #[test]
    fn the_newest_wins_and_inherits_the_damage() {
        let (slot, returned) = (Slot::default(), Arc::new(Returned::default()));
        for (seq, x) in [(1, 0), (2, 40), (3, 20)] {
            slot.put(frame(seq, 100, rect(x), &returned));
        }
        assert_eq!(*returned.0.lock().expect("not poisoned"), [1, 2]);
        let newest = slot.take(Duration::ZERO).expect("a frame");
        assert_eq!((newest.seq, slot.overwritten()), (3, 2));
        assert_eq!(newest.damage, Rect { x: 0, y: 0, width: 50, height: 10 });
        assert!(slot.take(Duration::ZERO).is_none() && slot.is_empty(), "taken once");
        drop(newest);
        assert_eq!(*returned.0.lock().expect("not poisoned"), [1, 2, 3]);
        // Damage of a picture of another size means nothing.
        slot.put(frame(4, 200, rect(150), &returned));
        slot.put(frame(5, 100, rect(0), &returned));
        assert_eq!(slot.take(Duration::ZERO).expect("a frame").damage, rect(0));
    }

    #[test]
    fn a_waiting_consumer_is_woken() {
        let (slot, returned) = (Arc::new(Slot::default()), Arc::new(Returned::default()));
        let start = Instant::now();
        let consumer = {
            let slot = Arc::clone(&slot);
            std::thread::spawn(move || slot.take(Duration::from_secs(30)).map(|frame| frame.seq))
        };
        slot.put(frame(7, 100, rect(0), &returned));
        assert_eq!(consumer.join().expect("took"), Some(7));
        assert!(start.elapsed() < Duration::from_secs(10));
        assert!(slot.take(Duration::from_millis(1)).is_none());
    }
}
