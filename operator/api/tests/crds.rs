//! The files in `crds/` and in the chart are generated from the types. UPDATE_CRDS=1 writes them.

use std::path::PathBuf;

use operator_api::crds;

#[test]
fn crd_files_are_current() {
    for folder in ["../../crds", "../../charts/desktopstream/crds"] {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder);
        let files = crds::files().expect("generates");
        for (name, text) in &files {
            let file = folder.join(name);
            if std::env::var_os("UPDATE_CRDS").is_some() {
                std::fs::create_dir_all(&folder).expect("a folder");
                std::fs::write(&file, text).expect("writes");
            }
            let found = std::fs::read_to_string(&file).unwrap_or_default();
            assert!(
                found == *text,
                "{} is stale: UPDATE_CRDS=1 cargo test --release -p operator-api --test crds",
                file.display()
            );
        }
        let there = std::fs::read_dir(&folder).expect("a folder").count();
        assert_eq!(there, files.len(), "{} has files of other kinds", folder.display());
    }
}
