//! Reused buffers for copies of pictures.

use std::io;
use std::sync::Arc;

use virtgpu::SharedMap;

/// Number of buffers that are kept: one held by the consumer, one in the slot, one being written.
const MAX_KEPT: usize = 3;

/// Buffers of this process that are written again once no frame uses them.
#[derive(Debug, Default)]
pub struct Copies {
    kept: Vec<Arc<SharedMap>>,
}

impl Copies {
    /// A buffer of `len` bytes, filled by `fill`.
    ///
    /// # Errors
    /// The error of the allocation or of `fill`.
    pub fn make<E: From<io::Error>>(
        &mut self,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Arc<SharedMap>, E> {
        self.kept.retain(|copy| copy.len() == len);
        let free = self.kept.iter().position(|copy| Arc::strong_count(copy) == 1);
        let mut copy = match free {
            Some(index) => self.kept.swap_remove(index),
            None => Arc::new(SharedMap::create("desktopstream-copy", len)?.0),
        };
        if let Some(out) = Arc::get_mut(&mut copy).and_then(SharedMap::bytes_mut) {
            fill(out)?;
        }
        // Further buffers are freed with their frames.
        self.kept.truncate(MAX_KEPT - 1);
        self.kept.push(Arc::clone(&copy));
        Ok(copy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(copies: &mut Copies, len: usize, value: u8) -> Arc<SharedMap> {
        let filled = copies.make(len, |out| {
            out.fill(value);
            Ok::<_, io::Error>(())
        });
        filled.expect("a copy")
    }

    #[test]
    fn copy_in_use_is_not_written_and_a_released_one_is_reused() {
        let mut copies = Copies::default();
        let held: Vec<_> = (1..=5).map(|value| fill(&mut copies, 16, value)).collect();
        for (copy, value) in held.iter().zip(1..) {
            assert_eq!(copy.bytes(), [value; 16]);
        }
        assert_eq!(copies.kept.len(), MAX_KEPT);
        drop(held);
        let address = |copy: &Arc<SharedMap>| Arc::as_ptr(copy);
        let before: Vec<_> = copies.kept.iter().map(address).collect();
        let again = fill(&mut copies, 16, 9);
        assert!(before.contains(&address(&again)));
        assert_eq!(again.bytes(), [9; 16]);
    }

    #[test]
    fn copies_of_another_size_are_freed() {
        let mut copies = Copies::default();
        drop(fill(&mut copies, 16, 1));
        assert_eq!(fill(&mut copies, 32, 2).bytes(), [2; 32]);
        assert_eq!(copies.kept.len(), 1);
    }

    #[test]
    fn failed_fill_is_reported() {
        let failed = Copies::default().make(16, |_| Err(io::Error::from(io::ErrorKind::UnexpectedEof)));
        assert_eq!(failed.expect_err("fails").kind(), io::ErrorKind::UnexpectedEof);
    }
}
