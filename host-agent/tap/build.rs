//! Sets `cfg(exported)` if the entry points are exported under virglrenderer's names.
//!
//! Exported functions take precedence over virglrenderer's by the dynamic linker's search order (Linux) or
//! replace them (the drop-in library for macOS). Otherwise, on macOS, an interpose table lists them.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(exported)");
    let macos = std::env::var_os("CARGO_CFG_TARGET_OS").is_some_and(|system| system == "macos");
    if !macos || std::env::var_os("CARGO_FEATURE_DROP_IN").is_some() {
        println!("cargo:rustc-cfg=exported");
    }
}
