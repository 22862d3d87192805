//! A file with a private key or with public keys.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &str| fuzz::key_file(data));
