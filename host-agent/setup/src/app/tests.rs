//! On a tree of files: a bundle as UTM's is, Mach-O files as small as they can be, and programs that stand for macOS's
//! codesign and pgrep and write down what they are asked.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use tempfile::TempDir;

use super::*;
use crate::binary::testing::{ARM64, Library, X86_64};
use crate::renderer::FUNCTIONS as RENDERER;
use crate::steps;

struct Mac {
    folder: TempDir,
}

impl Mac {
    fn new() -> Self {
        let mac = Self { folder: tempfile::tempdir().expect("a folder") };
        let frameworks = mac.at("Applications/UTM.app/Contents/Frameworks/virglrenderer.1.framework");
        fs::create_dir_all(frameworks.join("Versions/A")).expect("made");
        symlink("A", frameworks.join("Versions/Current")).expect("linked");
        symlink("Versions/Current/virglrenderer.1", frameworks.join("virglrenderer.1")).expect("linked");
        fs::write(mac.at("Applications/UTM.app/Contents/Info.plist"), "<plist/>").expect("written");
        fs::write(mac.library(), theirs(&RENDERER)).expect("written");
        fs::write(mac.drop_in(), ours(ARM64, 2 << 16)).expect("written");
        mac.tool("fake-codesign", "echo \"$@\" >> \"$(dirname \"$0\")/signed\"");
        mac.tool("fake-pgrep", "exit 1");
        mac
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn library(&self) -> PathBuf {
        self.at(
            "Applications/UTM.app/Contents/Frameworks/virglrenderer.1.framework/Versions/A/virglrenderer.1",
        )
    }

    fn drop_in(&self) -> PathBuf {
        self.at("libvirglrenderer.1.dylib")
    }

    fn tool(&self, name: &str, does: &str) {
        fs::write(self.at(name), format!("#!/bin/sh\n{does}\n")).expect("written");
        fs::set_permissions(self.at(name), fs::Permissions::from_mode(0o755)).expect("set");
    }

    fn app(&self) -> Result<App, AppError> {
        let tools = Tools { codesign: self.at("fake-codesign"), pgrep: self.at("fake-pgrep") };
        App::find("UTM", &[self.at("Applications")], &self.at("backups"), tools)
    }

    fn install(&self) -> Result<(), String> {
        let steps =
            self.app().and_then(|app| app.install(&self.drop_in())).map_err(|error| error.to_string())?;
        steps::carry_out(&steps).map_err(|error| error.to_string())
    }

    fn uninstall(&self) -> Result<(), String> {
        let steps = self.app().and_then(|app| app.uninstall()).map_err(|error| error.to_string())?;
        steps::carry_out(&steps).map_err(|error| error.to_string())
    }
}

fn theirs(exports: &[&str]) -> Vec<u8> {
    Library {
        processor: ARM64,
        name: "@rpath/virglrenderer.1.framework/Versions/A/virglrenderer.1",
        compatibility: 2 << 16,
        reexports: None,
        exports,
    }
    .bytes()
}

fn ours(processor: u32, compatibility: u32) -> Vec<u8> {
    Library {
        processor,
        name: "@rpath/libvirglrenderer.1.dylib",
        compatibility,
        reexports: Some("@loader_path/libvirglrenderer.original.dylib"),
        exports: &["virgl_renderer_transfer_write_iov"],
    }
    .bytes()
}

#[test]
fn in_and_out_again() {
    let mac = Mac::new();
    mac.install().expect("installed");
    let original = mac.library().with_file_name(ORIGINAL);
    assert_eq!(fs::read(mac.library()).expect("there"), ours(ARM64, 2 << 16));
    assert_eq!(fs::read(original).expect("there"), theirs(&RENDERER));
    let signed = fs::read_to_string(mac.at("signed")).expect("signed");
    let app = mac.at("Applications/UTM.app").display().to_string();
    assert!(
        signed.starts_with("--force --deep --sign - --preserve-metadata=identifier,entitlements "),
        "{signed}"
    );
    assert!(signed.contains(&format!("--verify --deep {app}")), "{signed}");

    // A newer drop-in takes the older one's place; the backup is still the untouched application.
    fs::write(mac.drop_in(), ours(ARM64, 3 << 16)).expect("written");
    mac.install().expect("upgraded");
    assert_eq!(fs::read(mac.library()).expect("there"), ours(ARM64, 3 << 16));

    mac.uninstall().expect("restored");
    assert_eq!(fs::read(mac.library()).expect("there"), theirs(&RENDERER));
    assert!(!mac.library().with_file_name(ORIGINAL).exists() && !mac.at("backups/UTM.app").exists());
    assert!(
        mac.at("Applications/UTM.app/Contents/Frameworks/virglrenderer.1.framework/virglrenderer.1")
            .is_symlink()
    );
    assert!(mac.uninstall().expect_err("it is out").contains("the tap is not in"));
}

#[test]
fn a_signature_that_fails_leaves_the_way_back() {
    let mac = Mac::new();
    mac.tool("fake-codesign", "echo no identity >&2; exit 1");
    let failed = mac.install().expect_err("can't sign");
    assert!(failed.contains("no identity"), "{failed}");
    let app = mac.app().expect("there");
    assert!(app.has_backup());
    steps::carry_out(&app.restore()).expect("restored");
    assert_eq!(fs::read(mac.library()).expect("there"), theirs(&RENDERER));
    assert!(!app.has_backup());
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_touched() {
    type Change = fn(&Mac);
    let cases: [(&str, Change); 8] = [
        ("from the App Store", |mac| {
            fs::create_dir(mac.at("Applications/UTM.app/Contents/_MASReceipt")).expect("made");
        }),
        ("is running; quit it", |mac| mac.tool("fake-pgrep", "echo 7")),
        ("it is not for macOS on arm64", |mac| {
            fs::write(mac.drop_in(), ours(X86_64, 2 << 16)).expect("written");
        }),
        ("compatible with version 0x10000", |mac| {
            fs::write(mac.drop_in(), ours(ARM64, 1 << 16)).expect("written");
        }),
        ("does not re-export", |mac| fs::write(mac.drop_in(), theirs(&RENDERER)).expect("written")),
        ("--features drop-in", |mac| fs::remove_file(mac.drop_in()).expect("gone")),
        ("has no virgl_renderer_force_ctx_0", |mac| {
            let rest: Vec<_> = RENDERER.into_iter().filter(|name| !name.contains("force")).collect();
            fs::write(mac.library(), theirs(&rest)).expect("written");
        }),
        ("backup of another version", |mac| fs::create_dir_all(mac.at("backups/UTM.app")).expect("made")),
    ];
    for (says, change) in cases {
        let mac = Mac::new();
        change(&mac);
        let before = fs::read(mac.library()).expect("there");
        let refused = mac.install().expect_err(says);
        assert!(refused.contains(says), "{refused}");
        assert_eq!(fs::read(mac.library()).expect("there"), before);
        assert!(!mac.at("signed").exists() && !mac.library().with_file_name(ORIGINAL).exists());
    }
}

#[test]
fn an_application_is_found_by_name_or_path() {
    let mac = Mac::new();
    let tools = Tools::default;
    let path = mac.at("Applications/UTM.app").display().to_string();
    assert!(App::find(&path, &[], &mac.at("b"), tools()).is_ok());
    assert!(matches!(
        App::find("UTX", &[mac.at("Applications")], &mac.at("b"), tools()),
        Err(AppError::NoApp(_))
    ));
    fs::remove_file(mac.library()).expect("gone");
    assert!(matches!(App::find(&path, &[], &mac.at("b"), tools()), Err(AppError::NoRenderer(_))));
    fs::remove_file(mac.at("Applications/UTM.app/Contents/Info.plist")).expect("gone");
    assert!(matches!(App::find(&path, &[], &mac.at("b"), tools()), Err(AppError::NoBundle(_))));
}
