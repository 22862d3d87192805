//! What a host-agent may send to a tap.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::framed::<protocol::link::ToTap>(data));
