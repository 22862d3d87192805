//! A token for a stream: a text, or changes of a valid token.

#![no_main]

libfuzzer_sys::fuzz_target!(|token: fuzz::UncheckedToken| token.check());
