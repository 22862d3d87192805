//! Decides under which names the entries stand; `cfg(exported)` is the answer.
//!
//! Exported under virglrenderer's own names, they stand in front of it by the dynamic linker's order (Linux) or in
//! its place (the drop-in library for macOS). Otherwise, on macOS, an interpose table names them.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(exported)");
    let macos = std::env::var_os("CARGO_CFG_TARGET_OS").is_some_and(|system| system == "macos");
    if !macos || std::env::var_os("CARGO_FEATURE_DROP_IN").is_some() {
        println!("cargo:rustc-cfg=exported");
    }
}
