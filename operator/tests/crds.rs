//! `crds/` in the repository is what the types say. With UPDATE_CRDS=1 the files are written.

use std::path::PathBuf;

use operator::api::crds;

#[test]
fn the_files_are_current() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../crds");
    for (name, text) in crds::files().expect("prints") {
        let file = folder.join(name);
        if std::env::var_os("UPDATE_CRDS").is_some() {
            std::fs::create_dir_all(&folder).expect("a folder");
            std::fs::write(&file, &text).expect("writes");
        }
        let found = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            found == text,
            "{} is stale: UPDATE_CRDS=1 cargo test --release -p operator --test crds",
            file.display()
        );
    }
}
