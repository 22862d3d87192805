//! `host-agent run` and `host-agent tap install` on the Mach-O files that `./x check-macos` links and LLD
//! signs: as they are, and with protections that VMM vendors request. Other systems can judge them and only
//! a Mac can start them, so a suitable file is refused there for its system.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A file that `check-macos` linked.
fn linked(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target folder").to_owned();
    let path = target.join("macos").join(name);
    assert!(path.is_file(), "{} is missing: run ./x check-macos", path.display());
    path
}

/// Output of `host-agent run` with the tap for macOS, which must fail.
fn refusal(vmm: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_host-agent"))
        .args(["run", "--link", "/nowhere", "--tap"])
        .arg(linked("libtap.dylib"))
        .arg("--")
        .arg(vmm)
        .output()
        .expect("runs");
    assert!(!output.status.success(), "{} was started", vmm.display());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A copy of the linked host-agent, in the role of a VMM, with additional flags in its code directory.
fn with_signature_flags(folder: &TempDir, flags: u32) -> PathBuf {
    let path = folder.path().join("vmm");
    std::fs::copy(linked("host-agent"), &path).expect("copied");
    let mut bytes = std::fs::read(&path).expect("read");
    // The code directory begins with magic, length, version and flags, big-endian.
    let at = bytes.windows(4).rposition(|word| word == [0xFA, 0xDE, 0x0C, 0x02]).expect("signed") + 12;
    let old = u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    bytes[at..at + 4].copy_from_slice(&(old | flags).to_be_bytes());
    std::fs::write(&path, bytes).expect("written");
    path
}

#[test]
#[ignore = "needs the files of check-macos; run via ./x test macos"]
fn ad_hoc_signed_vmm_is_refused_for_its_system_only() {
    let folder = tempfile::tempdir().expect("temporary folder");
    if std::env::consts::OS == "macos" {
        eprintln!("not applicable: this system would start the VMM");
        return;
    }
    let error = refusal(&with_signature_flags(&folder, 0));
    assert!(error.contains("is for macOS on arm64, and this is Linux; run it there"), "{error}");
}

#[test]
#[ignore = "needs the files of check-macos; run via ./x test macos"]
fn protected_vmm_is_refused_with_its_protection() {
    const CS_RUNTIME: u32 = 0x1_0000;
    const CS_REQUIRE_LV: u32 = 0x2000;
    let folder = tempfile::tempdir().expect("temporary folder");
    let error = refusal(&with_signature_flags(&folder, CS_RUNTIME));
    assert!(error.contains("hardened runtime") && error.contains("codesign --force --sign -"), "{error}");
    let error = refusal(&with_signature_flags(&folder, CS_REQUIRE_LV));
    assert!(error.contains("only libraries of its own signer"), "{error}");
}

#[test]
#[ignore = "needs the files of check-macos; run via ./x test macos"]
fn library_and_foreign_program_are_refused() {
    let error = refusal(&linked("libvirglrenderer.1.dylib"));
    assert!(error.contains("not found") || error.contains("a library"), "{error}");
    if std::env::consts::OS != "macos" {
        let error = refusal(&std::env::current_exe().expect("path known"));
        assert!(error.contains("the tap for macOS on arm64"), "{error}");
    }
}

/// Output of `host-agent tap install` on a bundle with the library `original`, which must fail.
fn install_refusal(original: &str, drop_in: &str) -> String {
    let folder = tempfile::tempdir().expect("temporary folder");
    let frameworks = folder.path().join("VM.app/Contents/Frameworks");
    std::fs::create_dir_all(&frameworks).expect("folder created");
    std::fs::write(folder.path().join("VM.app/Contents/Info.plist"), "<plist/>").expect("file written");
    std::fs::copy(linked(original), frameworks.join("libvirglrenderer.1.dylib")).expect("copied");
    let output = Command::new(env!("CARGO_BIN_EXE_host-agent"))
        .args(["tap", "install", "--dry-run", "--app"])
        .arg(folder.path().join("VM.app"))
        .arg("--drop-in")
        .arg(linked(drop_in))
        .output()
        .expect("runs");
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The linked drop-in is accepted; the library that it would replace is not a virglrenderer.
#[test]
#[ignore = "needs the files of check-macos; run via ./x test macos"]
fn linked_drop_in_is_accepted_and_other_libraries_are_refused() {
    let error = install_refusal("libtap.dylib", "libvirglrenderer.1.dylib");
    assert!(error.contains("virglrenderer with an unsupported ABI"), "{error}");
    let error = install_refusal("libvirglrenderer.1.dylib", "libvirglrenderer.1.dylib");
    assert!(
        error.contains("it lacks virgl_renderer_force_ctx_0, virgl_renderer_transfer_read_iov"),
        "{error}"
    );
    let error = install_refusal("libvirglrenderer.1.dylib", "libtap.dylib");
    assert!(error.contains("does not re-export libvirglrenderer.original.dylib"), "{error}");
}
