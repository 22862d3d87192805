//! The samples, and what is expected of them.

#![allow(dead_code, clippy::allow_attributes, reason = "each test takes a part of it")]

use std::path::PathBuf;

use operator_api::DesktopStream;

/// Every stream of `docs/samples`, by its file's name.
pub fn all() -> Vec<(String, DesktopStream)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(crate_folder().join("../docs/samples")).expect("docs/samples") {
        let entry = entry.expect("an entry");
        let text = std::fs::read_to_string(entry.path()).expect("reads");
        if text.contains("kind: DesktopStream") {
            let stream: DesktopStream = serde_yaml_ng::from_str(&text).expect("a stream");
            found.push((entry.file_name().to_string_lossy().into_owned(), stream));
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    found
}

fn crate_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every one becomes the file of its name in `folder` of `tests/golden`. With UPDATE_GOLDEN=1 the files are written. `test`
/// is what to run for that.
pub fn become_golden(folder: &str, test: &str, rendered: impl Fn(DesktopStream) -> String) {
    let mut stale = Vec::new();
    for (file, stream) in all() {
        let golden = crate_folder().join("tests/golden").join(folder).join(file);
        let text = rendered(stream);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &text).expect("writes");
        }
        if std::fs::read_to_string(&golden).unwrap_or_default() != text {
            stale.push(golden);
        }
    }
    assert!(
        stale.is_empty(),
        "UPDATE_GOLDEN=1 cargo test --release -p operator --test {test}; read the diff: {stale:?}"
    );
}
