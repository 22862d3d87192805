//! Breaks what `./x check-macos` looks at, one thing after the other, and sees it say so.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use check_macos::build::{Builder, Product};
use check_macos::inspect::{Facts, facts};
use check_macos::sdk::{self, Library};
use check_macos::toolchain::Toolchain;
use check_macos::{rules, signature};

/// cargo builds one thing at a time, all of them under one name.
fn in_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn linked(
    product: Product,
    change: impl FnOnce(&mut Vec<Library>),
    more: &[&str],
) -> Result<Vec<u8>, String> {
    let _turn = in_turn();
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

fn broken(product: Product, bytes: &[u8]) -> String {
    rules::of(product).broken(&read(bytes)).join("\n")
}

fn read(bytes: &[u8]) -> Facts {
    facts(bytes).expect("a Mach-O file")
}

/// Overwrites what is there once.
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

fn take_away(libraries: &mut [Library], library: &str, symbol: &str) {
    let library = libraries.iter_mut().find(|found| found.name == library).expect("known");
    let before = library.symbols.len();
    library.symbols.retain(|found| found != symbol);
    assert_eq!(library.symbols.len() + 1, before);
}

#[test]
fn unbroken_they_are_as_they_must_be() {
    assert_eq!(broken(Product::Tap, &tap()), "");
    assert_eq!(broken(Product::DropIn, &drop_in()), "");
    assert_ne!(broken(Product::DropIn, &tap()), "", "one is not the other");
}

#[test]
fn a_symbol_that_no_library_has_fails_the_link() {
    let error = linked(Product::Tap, |all| take_away(all, "libSystem", "_recvmsg"), &[]).expect_err("gone");
    assert!(error.contains("_recvmsg"), "{error}");
    let gone = "_virgl_renderer_transfer_read_iov";
    let error = linked(Product::Tap, |all| take_away(all, "virglrenderer", gone), &[]).expect_err("gone");
    assert!(error.contains(gone), "{error}");
}

#[test]
fn a_symbol_in_the_wrong_library_is_seen() {
    let moved = "_virgl_renderer_force_ctx_0";
    let bytes = linked(
        Product::Tap,
        |all| {
            take_away(all, "virglrenderer", moved);
            let system = all.iter_mut().find(|library| library.name == "libSystem").expect("known");
            system.symbols.push(moved.to_owned());
        },
        &[],
    );
    let broken = broken(Product::Tap, &bytes.expect("links: a stub proves the name only"));
    assert!(broken.contains(&format!("does not import {moved} from")), "{broken}");
}

#[test]
fn an_interpose_pair_without_its_original_is_seen() {
    let bytes = patch(tap(), b"_virgl_renderer_reset\0", b"_virgl_renderer_rexet\0");
    let broken = broken(Product::Tap, &bytes);
    assert!(broken.contains("does not take over _virgl_renderer_reset"), "{broken}");
}

#[test]
fn an_interpose_pair_without_its_replacement_is_seen() {
    let bytes = tap();
    let at = bytes.windows(11).position(|window| window == b"__interpose").expect("a section header");
    // struct section_64: names of 16 bytes each, then address, size, offset.
    let offset = u32::from_le_bytes(bytes[at + 48..at + 52].try_into().expect("four bytes")) as usize;
    let mut bytes = bytes;
    bytes[offset..offset + 8].fill(0);
    let broken = broken(Product::Tap, &bytes);
    assert!(broken.contains("is no code"), "{broken}");
}

#[test]
fn another_processor_is_seen() {
    // CPU_TYPE_X86_64 after the magic.
    let bytes = patch(tap(), &[0xCF, 0xFA, 0xED, 0xFE, 0x0C], &[0xCF, 0xFA, 0xED, 0xFE, 0x07]);
    assert!(broken(Product::Tap, &bytes).contains("not for Apple silicon"));
}

#[test]
fn a_newer_macos_is_seen() {
    // LC_BUILD_VERSION, 32 bytes, platform macOS, 13.0.
    let command = [0x32, 0, 0, 0, 0x20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 13, 0];
    let mut newer = command;
    newer[14] = 15;
    assert!(broken(Product::Tap, &patch(tap(), &command, &newer)).contains("oldest macOS is Some((15, 0))"));
}

#[test]
fn a_missing_reexport_is_seen() {
    // LC_REEXPORT_DYLIB becomes LC_LOAD_DYLIB.
    let bytes = patch(drop_in(), &[0x1F, 0, 0, 0x80], &[0x0C, 0, 0, 0]);
    let broken = broken(Product::DropIn, &bytes);
    assert!(broken.contains("as Reexported"), "{broken}");
}

#[test]
fn an_old_version_is_seen() {
    let facts = Facts { compatibility: 1 << 16, ..read(&drop_in()) };
    assert!(rules::DROP_IN.broken(&facts).join("\n").contains("dyld would refuse it"));
}

#[test]
fn a_missing_entry_is_seen() {
    let export = "_virgl_renderer_init";
    let mut facts = read(&drop_in());
    assert!(facts.exports.remove(export));
    assert!(rules::DROP_IN.broken(&facts).join("\n").contains("does not export _virgl_renderer_init"));
}

#[test]
fn a_changed_byte_breaks_the_signature() {
    let whole = read(&tap()).signature.expect("signed");
    assert!(whole.adhoc && whole.pages > 10);
    assert_eq!(whole, signature::Signature { wrong: 0, ..whole.clone() });
    let mut bytes = tap();
    bytes[0x5000] ^= 1;
    assert!(broken(Product::Tap, &bytes).contains("1 pages are not those that were signed"));
}

#[test]
fn an_unsigned_file_is_seen() {
    let bytes = linked(Product::Tap, |_| {}, &["-no_adhoc_codesign"]).expect("links");
    assert!(broken(Product::Tap, &bytes).contains("it has no signature"));
}
