//! What an encoder may emit.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::annexb(data));
