//! Each check of `./x check-macos` is shown to fail on a file that violates it.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use check_macos::build::{Builder, Product};
use check_macos::inspect::{Facts, facts};
use check_macos::sdk::{self, Library};
use check_macos::toolchain::Toolchain;
use check_macos::{rules, signature};

/// Serializes builds: all products share file names in the target folder.
fn build_lock() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn linked(
    product: Product,
    change: impl FnOnce(&mut Vec<Library>),
    more: &[&str],
) -> Result<Vec<u8>, String> {
    let _lock = build_lock();
    let mut libraries = sdk::libraries().expect("lists");
    change(&mut libraries);
    let folder = tempfile::tempdir().expect("a folder");
    let sdk = folder.path().join("sdk");
    sdk::write(&libraries, &sdk).expect("written");
    let builder = Builder::new(Toolchain::ready().expect("a toolchain"), &sdk);
    let more: Vec<_> = more.iter().map(|argument| (*argument).to_owned()).collect();
    let path = builder.link_with(product, &more).map_err(|error| format!("{error:#}"))?;
    Ok(std::fs::read(path).expect("there"))
}

fn tap() -> Vec<u8> {
    static TAP: OnceLock<Vec<u8>> = OnceLock::new();
    TAP.get_or_init(|| linked(Product::Tap, |_| {}, &[]).expect("links")).clone()
}

fn drop_in() -> Vec<u8> {
    static DROP_IN: OnceLock<Vec<u8>> = OnceLock::new();
    DROP_IN.get_or_init(|| linked(Product::DropIn, |_| {}, &[]).expect("links")).clone()
}

fn violations(product: Product, bytes: &[u8]) -> String {
    rules::of(product).violations(&read(bytes)).join("\n")
}

fn read(bytes: &[u8]) -> Facts {
    facts(bytes).expect("a Mach-O file")
}

/// Overwrites the first occurrence of `from`.
fn patch(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let places: Vec<_> = bytes
        .windows(from.len())
        .enumerate()
        .filter(|(_, window)| *window == from)
        .map(|(at, _)| at)
        .collect();
    let at = *places.first().expect("it is there");
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

fn remove_symbol(libraries: &mut [Library], library: &str, symbol: &str) {
    let library = libraries.iter_mut().find(|found| found.name == library).expect("known");
    let before = library.symbols.len();
    library.symbols.retain(|found| found != symbol);
    assert_eq!(library.symbols.len() + 1, before);
}

#[test]
fn unmodified_files_meet_their_requirements() {
    assert_eq!(violations(Product::Tap, &tap()), "");
    assert_eq!(violations(Product::DropIn, &drop_in()), "");
    assert_ne!(violations(Product::DropIn, &tap()), "", "the tap does not meet the drop-in's requirements");
}

#[test]
fn missing_symbol_fails_the_link() {
    let error =
        linked(Product::Tap, |all| remove_symbol(all, "libSystem", "_recvmsg"), &[]).expect_err("gone");
    assert!(error.contains("_recvmsg"), "{error}");
    let gone = "_virgl_renderer_transfer_read_iov";
    let error = linked(Product::Tap, |all| remove_symbol(all, "virglrenderer", gone), &[]).expect_err("gone");
    assert!(error.contains(gone), "{error}");
}

#[test]
fn symbol_in_another_library_is_a_violation() {
    let moved = "_virgl_renderer_force_ctx_0";
    let bytes = linked(
        Product::Tap,
        |all| {
            remove_symbol(all, "virglrenderer", moved);
            let system = all.iter_mut().find(|library| library.name == "libSystem").expect("known");
            system.symbols.push(moved.to_owned());
        },
        &[],
    );
    let violations = violations(Product::Tap, &bytes.expect("links"));
    assert!(violations.contains(&format!("does not import {moved} from")), "{violations}");
}

#[test]
fn interpose_pair_without_original_is_a_violation() {
    let bytes = patch(tap(), b"_virgl_renderer_reset\0", b"_virgl_renderer_rexet\0");
    let violations = violations(Product::Tap, &bytes);
    assert!(violations.contains("does not interpose _virgl_renderer_reset"), "{violations}");
}

#[test]
fn interpose_pair_without_replacement_is_a_violation() {
    let bytes = tap();
    let at = bytes.windows(11).position(|window| window == b"__interpose").expect("a section header");
    // struct section_64: names of 16 bytes each, then address, size, offset.
    let offset = u32::from_le_bytes(bytes[at + 48..at + 52].try_into().expect("four bytes")) as usize;
    let mut bytes = bytes;
    bytes[offset..offset + 8].fill(0);
    let violations = violations(Product::Tap, &bytes);
    assert!(violations.contains("is not in __text"), "{violations}");
}

#[test]
fn other_cpu_type_is_a_violation() {
    // CPU_TYPE_X86_64 after the magic.
    let bytes = patch(tap(), &[0xCF, 0xFA, 0xED, 0xFE, 0x0C], &[0xCF, 0xFA, 0xED, 0xFE, 0x07]);
    assert!(violations(Product::Tap, &bytes).contains("not an arm64 file"));
}

#[test]
fn newer_minimum_macos_is_a_violation() {
    // LC_BUILD_VERSION, 32 bytes, platform macOS, 13.0.
    let command = [0x32, 0, 0, 0, 0x20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 13, 0];
    let mut newer = command;
    newer[14] = 15;
    assert!(
        violations(Product::Tap, &patch(tap(), &command, &newer))
            .contains("minimum macOS version is Some((15, 0))")
    );
}

#[test]
fn missing_reexport_is_a_violation() {
    // LC_REEXPORT_DYLIB becomes LC_LOAD_DYLIB.
    let bytes = patch(drop_in(), &[0x1F, 0, 0, 0x80], &[0x0C, 0, 0, 0]);
    let violations = violations(Product::DropIn, &bytes);
    assert!(violations.contains("as Reexported"), "{violations}");
}

#[test]
fn old_compatibility_version_is_a_violation() {
    let facts = Facts { compatibility: 1 << 16, ..read(&drop_in()) };
    assert!(rules::DROP_IN.violations(&facts).join("\n").contains("dyld would reject it"));
}

#[test]
fn missing_export_is_a_violation() {
    let export = "_virgl_renderer_init";
    let mut facts = read(&drop_in());
    assert!(facts.exports.remove(export));
    assert!(rules::DROP_IN.violations(&facts).join("\n").contains("does not export _virgl_renderer_init"));
}

#[test]
fn changed_byte_invalidates_the_signature() {
    let whole = read(&tap()).signature.expect("signed");
    assert!(whole.adhoc && whole.pages > 10);
    assert_eq!(whole, signature::Signature { wrong: 0, ..whole.clone() });
    let mut bytes = tap();
    bytes[0x5000] ^= 1;
    assert!(violations(Product::Tap, &bytes).contains("1 pages differ from their signed hashes"));
}

#[test]
fn unsigned_file_is_a_violation() {
    let bytes = linked(Product::Tap, |_| {}, &["-no_adhoc_codesign"]).expect("links");
    assert!(violations(Product::Tap, &bytes).contains("no signature"));
}
