//! Bytes from an HXFR host.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::hxfr_reply(data));
