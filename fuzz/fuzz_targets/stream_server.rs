//! What a host-agent may send to a sidecar.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::framed::<protocol::stream::ServerMessage>(data));
