//! What ships on a Mac, checked where there is none: lints for its target, real Mach-O files by LLD against a stub
//! SDK, and a look into those files.
//!
//! | module        | what                                                                     |
//! |---------------|--------------------------------------------------------------------------|
//! | [`toolchain`] | Rust's target and linker                                                 |
//! | [`sdk`]       | libraries that have nothing but names, made of the lists in `sdk/`       |
//! | [`build`]     | cargo for that target                                                    |
//! | [`inspect`]   | what a Mach-O file says of itself                                        |
//! | [`signature`] | its ad-hoc signature, hashed again                                       |
//! | [`rules`]     | what ours must say                                                       |
//!
//! A symbol that is in no list fails the link and is named: look up in Apple's documentation which library has it
//! and since which macOS, and add it. What this can't show: that a call does what we think.

#![forbid(unsafe_code)]

pub mod build;
pub mod inspect;
pub mod rules;
pub mod sdk;
pub mod signature;
pub mod toolchain;

use std::path::PathBuf;

/// The oldest macOS that we run on.
pub const MINIMUM: (u32, u32) = (13, 0);

/// The repository: where cargo found this crate.
pub fn repository() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| "tests/macos".into(), PathBuf::from);
    here.join("../..")
}
