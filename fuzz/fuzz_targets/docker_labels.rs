//! Name and labels of a container on a Docker Engine, and labels of its image: lines.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &str| fuzz::docker_labels(data));
