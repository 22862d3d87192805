//! A `Pixels` value with unchecked fields (structured).

#![no_main]

libfuzzer_sys::fuzz_target!(|data: fuzz::UncheckedPixels| data.check_both_ends());
