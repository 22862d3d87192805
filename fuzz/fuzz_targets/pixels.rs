//! Pixels that a careless sidecar puts together: structured.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: fuzz::CarelessPixels| data.try_out());
