//! What a guest with the predecessor's element may send to the host-agent.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::hxfr_request(data));
