//! Bytes from a host-agent to the sidecar.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::framed::<protocol::stream::ServerMessage>(data));
