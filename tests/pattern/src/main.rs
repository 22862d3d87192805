//! A tiny desktop that draws a known, numbered picture.

fn main() {}
