//! Foreign memory: guest pages and C strings from the VMM.
//!
//! The guest's CPUs may write to a mailbox page at any time. It is therefore accessed as atomic words
//! only, a request is copied out once before it is decoded, and an answer's first word is stored last.
//! Making a [`Page`] is unsafe; using one is safe.

use std::ffi::c_char;
use std::sync::atomic::{AtomicU64, Ordering};

use protocol::mailbox::{self, ANSWER_BYTES, Answer, REQUEST_BYTES};

use crate::abi::iovec;

const WORDS: usize = mailbox::BYTES / size_of::<u64>();

/// A mailbox page. The holder must drop it before the memory is unmapped: see [`Page::from_iov`].
#[derive(Debug, Clone, Copy)]
pub struct Page(&'static [AtomicU64; WORDS]);

impl Page {
    /// A page in memory of this process.
    pub fn from_static(words: &'static [AtomicU64; WORDS]) -> Self {
        Self(words)
    }

    /// The first part of a resource's guest memory; `None` if it is too short for a mailbox or not aligned
    /// to 8 bytes.
    ///
    /// # Safety
    /// `iov` must be null or point to `count` entries. The memory of the first entry must be readable and
    /// writable until the page and all copies of it are dropped.
    pub unsafe fn from_iov(iov: *const iovec, count: usize) -> Option<Self> {
        if iov.is_null() || count == 0 {
            return None;
        }
        // SAFETY: not null and at least one entry (checked); the caller guarantees that entries are readable.
        let first = unsafe { *iov };
        let base = first.iov_base.cast::<[AtomicU64; WORDS]>();
        if first.iov_len < mailbox::BYTES || base.is_null() || !base.is_aligned() {
            return None;
        }
        // SAFETY:
        // - valid: not null and at least as long as the array (checked), readable and writable until the
        //   page is dropped (caller).
        // - aligned: checked.
        // - initialised: atomics of integers accept any bytes.
        // - aliasing: atomics, so writes by the guest are not data races.
        Some(Self(unsafe { &*base }))
    }

    /// Copies out the request of `slot`, which must be less than [`mailbox::SLOTS`]. If the guest writes
    /// meanwhile, the copy is a mixture of both, and is decoded like any other bytes.
    pub fn request(self, slot: usize) -> [u8; REQUEST_BYTES] {
        let mut out = [0; REQUEST_BYTES];
        let words = &self.0[mailbox::request_offset(slot) / 8..];
        for (bytes, word) in out.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        out
    }

    /// Writes the answer of `slot`. The sequence number is stored last, with release ordering, so a guest
    /// that loads it with acquire ordering sees the whole answer.
    pub fn answer(self, slot: usize, answer: &Answer) {
        let bytes: [u8; ANSWER_BYTES] = answer.encode();
        let words = &self.0[mailbox::answer_offset(slot) / 8..];
        let (encoded, _) = bytes.as_chunks::<8>();
        for (word, bytes) in words.iter().zip(encoded).skip(1) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        words[0].store(u64::from_ne_bytes(encoded[0]), Ordering::Release);
    }
}

/// Longest context name in bytes: `debug_name` of `struct virtio_gpu_ctx_create` (`virtio_gpu.h`).
const NAME_BYTES: usize = 64;

/// A context's debug name, with control characters and invalid UTF-8 replaced. The guest chooses both
/// bytes and length, and QEMU passes both on unchecked.
///
/// # Safety
/// `name` must be null, or point to min(`len`, 64) readable bytes, or to a shorter C string.
pub unsafe fn context_name(name: *const c_char, len: u32) -> String {
    let mut bytes = Vec::with_capacity(NAME_BYTES);
    if !name.is_null() {
        for at in 0..NAME_BYTES.min(len as usize) {
            // SAFETY: `at` is less than `len` and 64, and no NUL came before it, so the caller guarantees that
            // this byte is readable.
            let byte = unsafe { *name.wrapping_add(at) }.cast_unsigned();
            if byte == 0 {
                break;
            }
            bytes.push(byte);
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::mailbox::{Operation, Request, Status};

    fn page() -> (Page, &'static [AtomicU64; WORDS]) {
        let words: &'static _ = Box::leak(Box::new([const { AtomicU64::new(0) }; WORDS]));
        (Page::from_static(words), words)
    }

    #[test]
    fn requests_and_answers_are_at_the_protocols_offsets() {
        let (page, words) = page();
        for slot in 0..mailbox::SLOTS {
            let request = Request { seq: slot as u64 + 1, operation: Operation::Bind([slot as u8; 16]) };
            for (at, bytes) in request.encode().as_chunks::<8>().0.iter().enumerate() {
                words[mailbox::request_offset(slot) / 8 + at]
                    .store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
            }
            assert_eq!(Request::decode(&page.request(slot)), Ok(request));
            let answer =
                Answer { seq: request.seq, status: Status::BadBox, spent_ns: 3, dropped: 4, tap_version: 5 };
            page.answer(slot, &answer);
            let at = mailbox::answer_offset(slot) / 8;
            let mut bytes = [0; ANSWER_BYTES];
            for (bytes, word) in bytes.chunks_exact_mut(8).zip(&words[at..]) {
                bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
            }
            assert_eq!(Answer::decode(&bytes), Ok(answer));
        }
    }

    #[test]
    fn page_needs_a_whole_aligned_mailbox() {
        let (_, words) = page();
        let base: *mut std::ffi::c_void = words.as_ptr().cast_mut().cast();
        let part = |iov_base, iov_len| iovec { iov_base, iov_len };
        let make = |part: &iovec, count| {
            // SAFETY: the count is 0 or 1, and a page is only made of leaked memory of 4096 bytes.
            unsafe { Page::from_iov(part, count) }
        };
        assert!(make(&part(base, 4096), 1).is_some());
        assert!(make(&part(base, 4096), 0).is_none());
        assert!(make(&part(base, 4095), 1).is_none());
        assert!(make(&part(base.wrapping_byte_add(4), 4096), 1).is_none());
        assert!(make(&part(std::ptr::null_mut(), 4096), 1).is_none());
        // SAFETY: a null `iov` is allowed.
        assert!(unsafe { Page::from_iov(std::ptr::null(), 3) }.is_none());
    }

    #[test]
    fn context_name_is_bounded_and_printable() {
        let name = |bytes: &[u8], len| {
            // SAFETY: every test string ends with NUL or has at least 64 bytes.
            unsafe { context_name(bytes.as_ptr().cast(), len) }
        };
        assert_eq!(name(b"gnome-shell\0", 64), "gnome-shell");
        assert_eq!(name(b"gnome-shell\0", 5), "gnome");
        assert_eq!(name(&[b'a'; 100], u32::MAX).len(), NAME_BYTES);
        assert_eq!(name(b"a\x1b[2J\xff\0", 64), "a?[2J\u{fffd}");
        // SAFETY: a null name is allowed.
        assert_eq!(unsafe { context_name(std::ptr::null(), 9) }, "");
    }
}
