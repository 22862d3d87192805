//! Memory that belongs to somebody else: guest pages and C strings from the VMM.
//!
//! A mailbox page is guest memory: the guest's processors write it whenever they like. It is therefore
//! only ever seen as atomic words, a request is copied out once before anybody looks at it, and an
//! answer's first word is stored last. Unsafe is only how a [`Page`] comes to be; its use is safe.

use std::ffi::c_char;
use std::sync::atomic::{AtomicU64, Ordering};

use protocol::mailbox::{self, ANSWER_BYTES, Answer, REQUEST_BYTES};

use crate::abi::IoVec;

const WORDS: usize = mailbox::BYTES / size_of::<u64>();

/// A mailbox's page. Whoever holds one drops it before the memory goes: see [`Page::from_iov`].
#[derive(Debug, Clone, Copy)]
pub struct Page(&'static [AtomicU64; WORDS]);

impl Page {
    /// Memory of our own as a page, for tests and for programs that play a guest.
    pub fn of(words: &'static [AtomicU64; WORDS]) -> Self {
        Self(words)
    }

    /// The first part of a resource's backing, if it can hold a mailbox.
    ///
    /// # Safety
    /// `iov` is null or points to `count` parts; the first one, if there is any, is memory that can be
    /// read and written until the page is dropped.
    pub unsafe fn from_iov(iov: *const IoVec, count: usize) -> Option<Self> {
        if iov.is_null() || count == 0 {
            return None;
        }
        // SAFETY: not null, and by the caller's promise it points to at least one part.
        let first = unsafe { *iov };
        let base = first.base.cast::<[AtomicU64; WORDS]>();
        if first.len < mailbox::BYTES || base.is_null() || !base.is_aligned() {
            return None;
        }
        // SAFETY: not null, aligned, at least as long as the array, valid for as long as the page is
        // held (caller); atomics may be changed by others and have no invalid values.
        Some(Self(unsafe { &*base }))
    }

    /// Copies out the request of `slot`, which is below [`mailbox::SLOTS`]. The guest may change it
    /// meanwhile: then it is some mixture, and is judged as such.
    pub fn request(self, slot: usize) -> [u8; REQUEST_BYTES] {
        let mut out = [0; REQUEST_BYTES];
        let words = &self.0[mailbox::request_offset(slot) / 8..];
        for (bytes, word) in out.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        out
    }

    /// Writes the answer of `slot`: the sequence number last, so that who sees it sees the rest.
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

/// Longest context name: `debug_name` of `struct virtio_gpu_ctx_create` (`virtio_gpu.h`).
const NAME_BYTES: usize = 64;

/// A context's debug name. The guest chooses both bytes and length, and QEMU hands both on unchecked.
///
/// # Safety
/// `name` is null or points to `len` bytes or to 64, whichever is less, or to a shorter C string.
pub unsafe fn context_name(name: *const c_char, len: u32) -> String {
    let mut bytes = Vec::with_capacity(NAME_BYTES);
    if !name.is_null() {
        for at in 0..NAME_BYTES.min(len as usize) {
            // SAFETY: below `len` and 64, and no NUL was before it.
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
        (Page::of(words), words)
    }

    #[test]
    fn requests_and_answers_lie_where_the_protocol_says() {
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
    fn a_page_needs_whole_aligned_memory() {
        let (_, words) = page();
        let base: *mut std::ffi::c_void = words.as_ptr().cast_mut().cast();
        let part = |base, len| IoVec { base, len };
        let make = |part: &IoVec, count| {
            // SAFETY: one part of leaked memory, or none.
            unsafe { Page::from_iov(part, count) }
        };
        assert!(make(&part(base, 4096), 1).is_some());
        assert!(make(&part(base, 4096), 0).is_none());
        assert!(make(&part(base, 4095), 1).is_none());
        assert!(make(&part(base.wrapping_byte_add(4), 4096), 1).is_none());
        assert!(make(&part(std::ptr::null_mut(), 4096), 1).is_none());
        // SAFETY: null is allowed.
        assert!(unsafe { Page::from_iov(std::ptr::null(), 3) }.is_none());
    }

    #[test]
    fn names_are_bounded_and_printable() {
        let name = |bytes: &[u8], len| {
            // SAFETY: every test string ends with NUL or is at least 64 bytes long.
            unsafe { context_name(bytes.as_ptr().cast(), len) }
        };
        assert_eq!(name(b"gnome-shell\0", 64), "gnome-shell");
        assert_eq!(name(b"gnome-shell\0", 5), "gnome");
        assert_eq!(name(&[b'a'; 100], u32::MAX).len(), NAME_BYTES);
        assert_eq!(name(b"a\x1b[2J\xff\0", 64), "a?[2J\u{fffd}");
        // SAFETY: null is allowed.
        assert_eq!(unsafe { context_name(std::ptr::null(), 9) }, "");
    }
}
