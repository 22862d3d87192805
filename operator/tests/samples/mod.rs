//! The samples, and what is expected of them.

use std::path::PathBuf;

use operator::api::DesktopStream;

/// Every stream of `docs/samples` becomes the file of its name in `folder` of `tests/golden`. With UPDATE_GOLDEN=1 the files
/// are written. `test` is what to run for that.
pub fn become_golden(folder: &str, test: &str, rendered: impl Fn(DesktopStream) -> String) {
    let crate_folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut stale = Vec::new();
    for entry in std::fs::read_dir(crate_folder.join("../docs/samples")).expect("docs/samples") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("reads");
        if !text.contains("kind: DesktopStream") {
            continue;
        }
        let stream: DesktopStream = serde_yaml_ng::from_str(&text).expect("a stream");
        let golden = crate_folder.join("tests/golden").join(folder).join(path.file_name().expect("a name"));
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
