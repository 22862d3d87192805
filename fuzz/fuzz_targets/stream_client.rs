//! Bytes from a sidecar to the host-agent.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::framed::<protocol::stream::ClientMessage>(data));
