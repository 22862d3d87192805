//! Tests of the whole path, on a real VM.
