//! What a tap may answer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::mailbox_answer(data));
