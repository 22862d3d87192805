//! What a guest may write into a mailbox.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::mailbox_request(data));
