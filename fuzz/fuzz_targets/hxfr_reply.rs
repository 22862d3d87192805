//! What a host with the predecessor's code may answer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::hxfr_reply(data));
