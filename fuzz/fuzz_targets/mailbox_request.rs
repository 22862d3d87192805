//! Bytes from a guest to the tap, in a mailbox.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::mailbox_request(data));
