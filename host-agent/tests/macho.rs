//! The program's judgement of real Mach-O files: those that `./x check-macos` links and LLD signs, as they are and with
//! the protections that a VMM's makers may have asked for. They can be looked at anywhere and started on a Mac only, so
//! one that is found good is told to go there.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Where `check-macos` leaves what it links.
fn linked(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target").to_owned();
    let path = target.join("macos").join(name);
    assert!(path.is_file(), "{} is missing: ./x check-macos makes it", path.display());
    path
}

/// What `host-agent run` says, with the tap for a Mac.
fn refusal(vmm: &Path) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_host-agent"))
        .args(["run", "--link", "/nowhere", "--tap"])
        .arg(linked("libtap.dylib"))
        .arg("--")
        .arg(vmm)
        .output()
        .expect("runs");
    assert!(!out.status.success(), "{} was started", vmm.display());
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// A copy of the linked host-agent whose code directory has these flags, too; it plays the VMM.
fn flagged(folder: &TempDir, flags: u32) -> PathBuf {
    let path = folder.path().join("vmm");
    std::fs::copy(linked("host-agent"), &path).expect("copied");
    let mut bytes = std::fs::read(&path).expect("read");
    // The code directory's magic, length, version; then its flags, big-endian.
    let at = bytes.windows(4).rposition(|word| word == [0xFA, 0xDE, 0x0C, 0x02]).expect("signed") + 12;
    let old = u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    bytes[at..at + 4].copy_from_slice(&(old | flags).to_be_bytes());
    std::fs::write(&path, bytes).expect("written");
    path
}

#[test]
#[ignore = "needs what check-macos links; run via ./x test macos"]
fn a_vmm_signed_ad_hoc_is_good() {
    let folder = tempfile::tempdir().expect("a folder");
    if !cfg!(target_os = "macos") {
        let said = refusal(&flagged(&folder, 0));
        assert!(said.contains("is for macOS on arm64, and this is Linux; run it there"), "{said}");
    }
}

#[test]
#[ignore = "needs what check-macos links; run via ./x test macos"]
fn protections_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let said = refusal(&flagged(&folder, 0x1_0000));
    assert!(said.contains("hardened runtime") && said.contains("codesign --force --sign -"), "{said}");
    let said = refusal(&flagged(&folder, 0x2000));
    assert!(said.contains("libraries of its own signer only"), "{said}");
}

#[test]
#[ignore = "needs what check-macos links; run via ./x test macos"]
fn what_is_no_vmm_for_a_mac_is_refused() {
    let said = refusal(&linked("libvirglrenderer.1.dylib"));
    assert!(said.contains("no program") || said.contains("a library"), "{said}");
    if !cfg!(target_os = "macos") {
        let said = refusal(&std::env::current_exe().expect("known"));
        assert!(said.contains("the tap for macOS on arm64"), "{said}");
    }
}

/// The drop-in is found good; what it would re-export here is no virglrenderer.
#[test]
#[ignore = "needs what check-macos links; run via ./x test macos"]
fn the_linked_drop_in_is_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let frameworks = folder.path().join("VM.app/Contents/Frameworks");
    std::fs::create_dir_all(&frameworks).expect("made");
    std::fs::write(folder.path().join("VM.app/Contents/Info.plist"), "<plist/>").expect("written");
    let install = |theirs: &str, drop_in: &str| {
        std::fs::copy(linked(theirs), frameworks.join("libvirglrenderer.1.dylib")).expect("copied");
        let out = Command::new(env!("CARGO_BIN_EXE_host-agent"))
            .args(["tap", "install", "--dry-run", "--app"])
            .arg(folder.path().join("VM.app"))
            .arg("--drop-in")
            .arg(linked(drop_in))
            .output()
            .expect("runs");
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    let said = install("libtap.dylib", "libvirglrenderer.1.dylib");
    assert!(said.contains("virglrenderer of an ABI that the tap does not know"), "{said}");
    let said = install("libvirglrenderer.1.dylib", "libvirglrenderer.1.dylib");
    assert!(
        said.contains("it has no virgl_renderer_force_ctx_0, virgl_renderer_transfer_read_iov"),
        "{said}"
    );
    let said = install("libvirglrenderer.1.dylib", "libtap.dylib");
    assert!(said.contains("does not re-export libvirglrenderer.original.dylib"), "{said}");
}
