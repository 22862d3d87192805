//! Checks of the macOS programs on Linux: lints for the target, Mach-O files linked by LLD against a stub SDK, and an
//! inspection of those files.
//!
//! | module        | contents                                                                 |
//! |---------------|--------------------------------------------------------------------------|
//! | [`toolchain`] | Rust target and linker                                                   |
//! | [`sdk`]       | stub libraries, generated from the symbol lists in `sdk/`                |
//! | [`build`]     | cargo for the target                                                     |
//! | [`inspect`]   | reader of Mach-O files                                                   |
//! | [`signature`] | verification of ad hoc signatures                                        |
//! | [`rules`]     | requirements on the files                                                |
//!
//! A symbol that is in no list fails the link with its name: add it to the list of the library that Apple's
//! documentation names for it, after checking the macOS version that introduced it. These checks do not show that a call
//! behaves as expected.

#![forbid(unsafe_code)]

pub mod build;
pub mod inspect;
pub mod rules;
pub mod sdk;
pub mod signature;
pub mod toolchain;

use std::path::PathBuf;

/// Minimum supported macOS version.
pub const MINIMUM: (u32, u32) = (13, 0);

/// Root of the repository, from the location of this crate.
pub fn repository() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| "tests/macos".into(), PathBuf::from);
    here.join("../..")
}
