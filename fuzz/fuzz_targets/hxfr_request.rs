//! Bytes from the `vsockenc` element to the host-agent.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::hxfr_request(data));
