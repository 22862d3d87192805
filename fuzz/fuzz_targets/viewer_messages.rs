//! A text or binary message of a viewer's WebSocket.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::viewer_messages(data));
