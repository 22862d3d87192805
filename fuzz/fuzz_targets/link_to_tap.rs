//! Bytes from a host-agent to the tap.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::framed::<protocol::link::ToTap>(data));
