//! Headers of a viewer's request: lines with Host, Origin, Cookie and an allowed origin.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::viewer_headers(data));
