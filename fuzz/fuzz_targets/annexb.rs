//! An H.264 byte stream from an encoder.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::annexb(data));
