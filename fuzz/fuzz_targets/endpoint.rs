//! An endpoint text from a user.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &str| fuzz::endpoint(data));
