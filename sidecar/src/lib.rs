//! Captures a desktop, resolves its buffers, serves its viewers.
