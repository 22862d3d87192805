//! Slot between a source and the consumer; holds one frame, newest wins.
//!
//! A newer frame replaces an unreceived one and takes over its damage, so a consumer that reads only damaged
//! areas misses no change. The replaced frame's buffer is released at once.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::frame::Frame;

/// Holds at most one frame.
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
    /// Stores a frame; drops the one it replaces.
    pub fn put(&self, mut frame: Frame) {
        let replaced = {
            let mut state = self.state.lock();
            let replaced = state.frame.take();
            if let Some(old) = &replaced {
                state.overwritten += 1;
                if (old.width, old.height) == (frame.width, frame.height) {
                    frame.damage = frame.damage.union(old.damage);
                }
            }
            state.frame = Some(frame);
            replaced
        };
        self.filled.notify_one();
        // Dropped without the lock: dropping a frame calls its buffer's owner.
        drop(replaced);
    }

    /// Takes the frame; waits up to `timeout` for one.
    pub fn take(&self, timeout: Duration) -> Option<Frame> {
        let mut state = self.state.lock();
        self.filled.wait_while_for(&mut state, |state| state.frame.is_none(), timeout);
        state.frame.take()
    }

    /// True if the slot holds no frame.
    pub fn is_empty(&self) -> bool {
        self.state.lock().frame.is_none()
    }

    /// Drops the frame in the slot.
    pub fn clear(&self) {
        let frame = self.state.lock().frame.take();
        // Dropped without the lock, as in `put`.
        drop(frame);
    }

    /// Number of frames replaced before they were taken.
    pub fn overwritten(&self) -> u64 {
        self.state.lock().overwritten
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use protocol::{PixelFormat, Rect};
    use virtgpu::SharedMap;

    use super::*;
    use crate::frame::{BufferOwner, FrameBuffer, Lease, ShmView};

    #[derive(Default)]
    struct Released(Mutex<Vec<u64>>);

    impl BufferOwner for Released {
        fn release(&self, token: u64) {
            self.0.lock().push(token);
        }
    }

    fn frame(seq: u64, size: u32, damage: Rect, owner: &Arc<Released>) -> Frame {
        let (map, _) = SharedMap::create("test", 4096).expect("memfd");
        let view = ShmView::new(Arc::new(map), 0, 4, 1).expect("the view lies in the map");
        let owner: Arc<dyn BufferOwner> = owner.clone();
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
    fn newer_frame_replaces_older_and_takes_over_its_damage() {
        let (slot, released) = (Slot::default(), Arc::new(Released::default()));
        for (seq, x) in [(1, 0), (2, 40), (3, 20)] {
            slot.put(frame(seq, 100, rect(x), &released));
        }
        assert_eq!(*released.0.lock(), [1, 2]);
        let newest = slot.take(Duration::ZERO).expect("a frame");
        assert_eq!((newest.seq, slot.overwritten()), (3, 2));
        assert_eq!(newest.damage, Rect { x: 0, y: 0, width: 50, height: 10 });
        assert!(slot.take(Duration::ZERO).is_none() && slot.is_empty(), "a frame is taken once");
        drop(newest);
        assert_eq!(*released.0.lock(), [1, 2, 3]);
    }

    #[test]
    fn frame_of_another_size_keeps_its_own_damage() {
        let (slot, released) = (Slot::default(), Arc::new(Released::default()));
        slot.put(frame(4, 200, rect(150), &released));
        slot.put(frame(5, 100, rect(0), &released));
        assert_eq!(slot.take(Duration::ZERO).expect("a frame").damage, rect(0));
    }

    #[test]
    fn cleared_slot_releases_its_frame() {
        let (slot, released) = (Slot::default(), Arc::new(Released::default()));
        slot.put(frame(1, 100, rect(0), &released));
        slot.clear();
        assert_eq!(*released.0.lock(), [1]);
        assert_eq!(slot.overwritten(), 0);
    }

    #[test]
    fn waiting_consumer_receives_the_frame() {
        let (slot, released) = (Arc::new(Slot::default()), Arc::new(Released::default()));
        let consumer = {
            let slot = Arc::clone(&slot);
            std::thread::spawn(move || slot.take(Duration::from_secs(60)).map(|frame| frame.seq))
        };
        slot.put(frame(7, 100, rect(0), &released));
        assert_eq!(consumer.join().expect("the consumer ends"), Some(7));
        assert!(slot.take(Duration::from_millis(1)).is_none());
    }
}
