//! Frames that were handed to an asynchronous stage and have not completed.
//!
//! A *ticket* is the number by which a stage returns a frame: an encoder's ticket, a frame's sequence
//! number, or its capture time. Entries keep the order in which they began. The capacity is fixed, so
//! nothing is allocated after construction, and a stage that never completes anything cannot make the
//! list grow. There is no clock and no lock inside; share it under the owner's lock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A frame that has begun and not completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<T> {
    /// Number by which the stage returns the frame.
    pub ticket: u64,
    /// When the frame began, or when the owner last extended its deadline.
    pub since: Instant,
    /// The owner's data about the frame.
    pub value: T,
}

/// The list is full; returns the new frame's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many frames in flight")]
pub struct Full<T>(pub T);

/// A bounded list of in-flight frames, oldest first.
#[derive(Debug)]
pub struct InFlight<T> {
    entries: VecDeque<Entry<T>>,
    capacity: usize,
}

impl<T> InFlight<T> {
    /// An empty list of at most `capacity` frames. Allocates room for all of them.
    pub fn new(capacity: usize) -> Self {
        Self { entries: VecDeque::with_capacity(capacity), capacity }
    }

    /// Adds a frame as the newest.
    ///
    /// # Errors
    /// [`Full`] if `capacity` frames are in flight.
    pub fn begin(&mut self, ticket: u64, value: T, now: Instant) -> Result<(), Full<T>> {
        if self.is_full() {
            return Err(Full(value));
        }
        self.entries.push_back(Entry { ticket, since: now, value });
        Ok(())
    }

    /// Removes the frame with this ticket and no other: for stages that complete out of order, and for a
    /// frame that the stage refused. `None` if no frame has it.
    pub fn complete(&mut self, ticket: u64) -> Option<Entry<T>> {
        let at = self.position(ticket)?;
        self.entries.remove(at)
    }

    /// Removes the frame with this ticket and all older ones, oldest first: for stages that complete in
    /// order and leave frames out. The last item is the frame itself. Empty if no frame has the ticket.
    pub fn complete_through(
        &mut self,
        ticket: u64,
    ) -> impl ExactSizeIterator<Item = Entry<T>> + DoubleEndedIterator + '_ {
        let count = self.position(ticket).map_or(0, |at| at + 1);
        self.entries.drain(..count)
    }

    /// Removes the oldest frame.
    pub fn complete_oldest(&mut self) -> Option<Entry<T>> {
        self.entries.pop_front()
    }

    /// Removes the frames that are older than `timeout`, oldest first.
    pub fn expire(
        &mut self,
        now: Instant,
        timeout: Duration,
    ) -> impl ExactSizeIterator<Item = Entry<T>> + DoubleEndedIterator + '_ {
        let expired = |entry: &&Entry<T>| now.saturating_duration_since(entry.since) > timeout;
        let count = self.entries.iter().take_while(expired).count();
        self.entries.drain(..count)
    }

    /// Restarts every frame's deadline at `now`: for time in which the process did not run.
    pub fn extend(&mut self, now: Instant) {
        for entry in &mut self.entries {
            entry.since = now;
        }
    }

    /// Removes all frames, oldest first.
    pub fn clear(&mut self) -> impl ExactSizeIterator<Item = Entry<T>> + DoubleEndedIterator + '_ {
        self.entries.drain(..)
    }

    /// The oldest frame.
    pub fn oldest(&self) -> Option<&Entry<T>> {
        self.entries.front()
    }

    /// Time for which the oldest frame has been in flight; `None` if there is none.
    pub fn oldest_age(&self, now: Instant) -> Option<Duration> {
        self.oldest().map(|entry| now.saturating_duration_since(entry.since))
    }

    /// The frame with this ticket.
    pub fn get_mut(&mut self, ticket: u64) -> Option<&mut Entry<T>> {
        let at = self.position(ticket)?;
        self.entries.get_mut(at)
    }

    /// All frames, oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Entry<T>> {
        self.entries.iter()
    }

    /// All frames, oldest first.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = &mut Entry<T>> {
        self.entries.iter_mut()
    }

    /// Number of frames in flight.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if no frame is in flight.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// True if [`InFlight::begin`] would fail.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.capacity
    }

    fn position(&self, ticket: u64) -> Option<usize> {
        self.entries.iter().position(|entry| entry.ticket == ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn tickets<T>(entries: impl Iterator<Item = Entry<T>>) -> Vec<u64> {
        entries.map(|entry| entry.ticket).collect()
    }

    /// Three frames that began a second apart; tickets 1, 2 and 3.
    fn three(start: Instant) -> InFlight<char> {
        let mut frames = InFlight::new(3);
        for (ticket, value) in [(1, 'a'), (2, 'b'), (3, 'c')] {
            let now = start + SECOND * (ticket as u32 - 1);
            frames.begin(ticket, value, now).expect("there is room");
        }
        frames
    }

    #[test]
    fn full_list_refuses_a_frame_and_gives_it_back() {
        let now = Instant::now();
        let mut frames = three(now);
        assert!(frames.is_full());
        assert_eq!(frames.begin(4, 'd', now), Err(Full('d')));
        assert_eq!(frames.len(), 3);
        frames.complete(1);
        assert_eq!(frames.begin(4, 'd', now), Ok(()));
    }

    #[test]
    fn list_never_allocates_beyond_its_capacity() {
        let now = Instant::now();
        let mut frames = InFlight::new(3);
        let room = frames.entries.capacity();
        for ticket in 0..1000 {
            if frames.begin(ticket, (), now).is_err() {
                frames.complete_oldest();
            }
        }
        assert_eq!(frames.entries.capacity(), room);
    }

    #[test]
    fn complete_removes_one_frame_whatever_its_place() {
        let mut frames = three(Instant::now());
        assert_eq!(frames.complete(2).map(|entry| entry.value), Some('b'));
        assert_eq!(frames.complete(2), None, "a second time");
        assert_eq!(tickets(frames.clear()), [1, 3]);
        assert!(frames.is_empty());
    }

    #[test]
    fn complete_through_removes_older_frames_too() {
        let mut frames = three(Instant::now());
        assert_eq!(frames.complete_through(9).len(), 0, "an unknown ticket");
        assert_eq!(frames.len(), 3);
        assert_eq!(frames.complete_through(2).next_back().map(|entry| entry.value), Some('b'));
        assert_eq!(frames.oldest().map(|entry| entry.ticket), Some(3));
    }

    #[test]
    fn expire_removes_frames_past_the_timeout_only() {
        let start = Instant::now();
        let mut frames = three(start);
        assert_eq!(frames.oldest_age(start + 3 * SECOND), Some(3 * SECOND));
        assert_eq!(tickets(frames.expire(start + 3 * SECOND, 3 * SECOND)), [0; 0], "not past it yet");
        assert_eq!(tickets(frames.expire(start + 4 * SECOND, 2 * SECOND)), [1, 2]);
        assert_eq!(frames.oldest_age(start + 4 * SECOND), Some(2 * SECOND));
        assert_eq!(frames.expire(start + 9 * SECOND, SECOND).len(), 1);
        assert_eq!(frames.oldest_age(start), None);
    }

    #[test]
    fn extend_restarts_every_deadline() {
        let start = Instant::now();
        let mut frames = three(start);
        frames.extend(start + 60 * SECOND);
        assert_eq!(frames.expire(start + 61 * SECOND, SECOND).len(), 0);
        assert_eq!(frames.expire(start + 62 * SECOND, SECOND).len(), 3);
    }

    #[test]
    fn age_of_a_frame_from_the_future_is_zero() {
        let start = Instant::now();
        let mut frames = InFlight::new(1);
        frames.begin(1, (), start + SECOND).expect("there is room");
        assert_eq!(frames.oldest_age(start), Some(Duration::ZERO));
        assert_eq!(frames.expire(start, Duration::ZERO).len(), 0);
    }

    #[test]
    fn get_mut_reaches_the_frame_of_a_ticket() {
        let mut frames = three(Instant::now());
        frames.get_mut(3).expect("in flight").value = 'z';
        assert!(frames.get_mut(4).is_none());
        frames.iter_mut().for_each(|entry| entry.value = entry.value.to_ascii_uppercase());
        assert_eq!(frames.iter().map(|entry| entry.value).collect::<String>(), "ABZ");
    }
}
