//! A stream's name from a label, an argument, a file or a folder's listing.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &str| fuzz::stream_name(data));
