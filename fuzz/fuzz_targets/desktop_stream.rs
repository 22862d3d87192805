//! The spec of a DesktopStream as JSON.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::desktop_stream(data));
