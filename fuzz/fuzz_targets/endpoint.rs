//! What a user may write as an address.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &str| fuzz::endpoint(data));
