//! Installations on a file tree: a bundle with UTM's layout, minimal Mach-O files, and scripts in place of
//! codesign and pgrep that record their arguments.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use tempfile::TempDir;

use super::*;
use crate::binary::testing::{ARM64, Library, X86_64};
use crate::install_plan;
use crate::renderer::FUNCTIONS;

const LIBRARY: &str =
    "Applications/UTM.app/Contents/Frameworks/virglrenderer.1.framework/Versions/A/virglrenderer.1";

struct Mac {
    folder: TempDir,
}

impl Mac {
    fn new() -> Self {
        let mac = Self { folder: tempfile::tempdir().expect("temporary folder") };
        let frameworks = mac.at("Applications/UTM.app/Contents/Frameworks/virglrenderer.1.framework");
        fs::create_dir_all(frameworks.join("Versions/A")).expect("folder created");
        symlink("A", frameworks.join("Versions/Current")).expect("link created");
        symlink("Versions/Current/virglrenderer.1", frameworks.join("virglrenderer.1"))
            .expect("link created");
        fs::write(mac.at("Applications/UTM.app/Contents/Info.plist"), "<plist/>").expect("file written");
        fs::write(mac.library(), original(&FUNCTIONS)).expect("file written");
        fs::write(mac.drop_in(), drop_in(ARM64, 2 << 16)).expect("file written");
        mac.script("fake-codesign", "echo \"$@\" >> \"$(dirname \"$0\")/signed\"");
        mac.script("fake-pgrep", "exit 1");
        mac
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn library(&self) -> PathBuf {
        self.at(LIBRARY)
    }

    fn drop_in(&self) -> PathBuf {
        self.at("libvirglrenderer.1.dylib")
    }

    fn script(&self, name: &str, body: &str) {
        fs::write(self.at(name), format!("#!/bin/sh\n{body}\n")).expect("file written");
        fs::set_permissions(self.at(name), fs::Permissions::from_mode(0o755)).expect("mode set");
    }

    fn application(&self) -> Result<Application, ApplicationError> {
        let tools = Tools { codesign: self.at("fake-codesign"), pgrep: self.at("fake-pgrep") };
        Application::find("UTM", &[self.at("Applications")], &self.at("backups"), tools)
    }

    fn install(&self) -> Result<(), String> {
        let plan = self.application().and_then(|application| application.install(&self.drop_in()));
        install_plan::execute(&plan.map_err(|error| error.to_string())?).map_err(|error| error.to_string())
    }

    fn uninstall(&self) -> Result<(), String> {
        let plan = self.application().and_then(|application| application.uninstall());
        install_plan::execute(&plan.map_err(|error| error.to_string())?).map_err(|error| error.to_string())
    }
}

fn original(exports: &[&str]) -> Vec<u8> {
    Library {
        processor: ARM64,
        name: "@rpath/virglrenderer.1.framework/Versions/A/virglrenderer.1",
        compatibility: 2 << 16,
        reexports: None,
        exports,
    }
    .bytes()
}

fn drop_in(processor: u32, compatibility: u32) -> Vec<u8> {
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
fn install_replaces_the_library_and_signs_the_bundle() {
    let mac = Mac::new();
    mac.install().expect("installed");
    assert_eq!(fs::read(mac.library()).expect("file read"), drop_in(ARM64, 2 << 16));
    assert_eq!(fs::read(mac.library().with_file_name(ORIGINAL)).expect("file read"), original(&FUNCTIONS));
    let signed = fs::read_to_string(mac.at("signed")).expect("codesign ran");
    let expected = "--force --deep --sign - --preserve-metadata=identifier,entitlements ";
    assert!(signed.starts_with(expected), "{signed}");
    let root = mac.at("Applications/UTM.app").display().to_string();
    assert!(signed.contains(&format!("--verify --deep {root}")), "{signed}");
}

#[test]
fn upgrade_keeps_the_backup_of_the_original_bundle() {
    let mac = Mac::new();
    mac.install().expect("installed");
    fs::write(mac.drop_in(), drop_in(ARM64, 3 << 16)).expect("file written");
    mac.install().expect("upgraded");
    assert_eq!(fs::read(mac.library()).expect("file read"), drop_in(ARM64, 3 << 16));
    mac.uninstall().expect("restored");
    assert_eq!(fs::read(mac.library()).expect("file read"), original(&FUNCTIONS));
}

#[test]
fn uninstall_restores_the_bundle_and_removes_the_backup() {
    let mac = Mac::new();
    mac.install().expect("installed");
    mac.uninstall().expect("restored");
    assert_eq!(fs::read(mac.library()).expect("file read"), original(&FUNCTIONS));
    assert!(!mac.library().with_file_name(ORIGINAL).exists() && !mac.at("backups/UTM.app").exists());
    assert!(
        mac.at("Applications/UTM.app/Contents/Frameworks/virglrenderer.1.framework/virglrenderer.1")
            .is_symlink()
    );
    assert!(mac.uninstall().expect_err("not installed").contains("the tap is not installed in"));
}

#[test]
fn failed_signature_leaves_a_restorable_backup() {
    let mac = Mac::new();
    mac.script("fake-codesign", "echo no identity >&2; exit 1");
    let error = mac.install().expect_err("codesign fails");
    assert!(error.contains("no identity"), "{error}");
    let application = mac.application().expect("application found");
    assert!(application.has_backup());
    install_plan::execute(&application.restore()).expect("restored");
    assert_eq!(fs::read(mac.library()).expect("file read"), original(&FUNCTIONS));
    assert!(!application.has_backup());
}

#[test]
fn unsuitable_application_or_drop_in_is_refused_before_any_change() {
    type Change = fn(&Mac);
    let cases: [(&str, Change); 8] = [
        ("from the App Store", |mac| {
            fs::create_dir(mac.at("Applications/UTM.app/Contents/_MASReceipt")).expect("folder created");
        }),
        ("is running; quit it", |mac| mac.script("fake-pgrep", "echo 7")),
        ("it is not for macOS on arm64", |mac| {
            fs::write(mac.drop_in(), drop_in(X86_64, 2 << 16)).expect("file written");
        }),
        ("its compatibility version is 0x10000", |mac| {
            fs::write(mac.drop_in(), drop_in(ARM64, 1 << 16)).expect("file written");
        }),
        ("does not re-export", |mac| fs::write(mac.drop_in(), original(&FUNCTIONS)).expect("file written")),
        ("--features drop-in", |mac| fs::remove_file(mac.drop_in()).expect("file removed")),
        ("lacks virgl_renderer_force_ctx_0", |mac| {
            let rest: Vec<_> = FUNCTIONS.into_iter().filter(|name| !name.contains("force")).collect();
            fs::write(mac.library(), original(&rest)).expect("file written");
        }),
        ("backup of another version", |mac| {
            fs::create_dir_all(mac.at("backups/UTM.app")).expect("folder created");
        }),
    ];
    for (expected, change) in cases {
        let mac = Mac::new();
        change(&mac);
        let before = fs::read(mac.library()).expect("file read");
        let error = mac.install().expect_err(expected);
        assert!(error.contains(expected), "{error}");
        assert_eq!(fs::read(mac.library()).expect("file read"), before);
        assert!(!mac.at("signed").exists() && !mac.library().with_file_name(ORIGINAL).exists());
    }
}

#[test]
fn application_is_found_by_name_or_path() {
    let mac = Mac::new();
    let tools = Tools::default;
    let path = mac.at("Applications/UTM.app").display().to_string();
    assert!(Application::find(&path, &[], &mac.at("b"), tools()).is_ok());
    assert!(Application::find("UTM.app", &[mac.at("Applications")], &mac.at("b"), tools()).is_ok());
    let unknown = Application::find("UTX", &[mac.at("Applications")], &mac.at("b"), tools());
    assert!(matches!(unknown, Err(ApplicationError::NotFound(_))));
}

#[test]
fn folder_without_renderer_or_plist_is_refused() {
    let mac = Mac::new();
    let find = || {
        let path = mac.at("Applications/UTM.app").display().to_string();
        Application::find(&path, &[], &mac.at("b"), Tools::default())
    };
    fs::remove_file(mac.library()).expect("file removed");
    assert!(matches!(find(), Err(ApplicationError::NoRenderer(_))));
    fs::remove_file(mac.at("Applications/UTM.app/Contents/Info.plist")).expect("file removed");
    assert!(matches!(find(), Err(ApplicationError::NotABundle(_))));
}
