use std::os::unix::fs::PermissionsExt;

use operator_plan::testing::stream;
use serde_json::json;

use super::*;

fn folder(root: &Path, project: &str) -> StateFolder {
    StateFolder::open(root, &project.parse().expect("a project")).expect("opens")
}

fn name(text: &str) -> StreamName {
    text.parse().expect("a name")
}

fn record() -> Record {
    Record::next(&stream(&json!({})), None, Timestamp::UNIX_EPOCH).expect("a record")
}

#[test]
fn keys_and_tokens_persist_and_are_private_to_their_owner() {
    let root = tempfile::tempdir().expect("a folder");
    let folder = folder(root.path(), "p");
    let desk = name("desk");
    let public = || folder.signer().expect("a key").public_pem().expect("PEM");
    assert_eq!(public(), public());
    let tokens = || {
        let ViewerTokens { control, view_only } = folder.ensure_viewer_tokens(&desk).expect("tokens");
        [control, view_only]
    };
    let [control, view_only] = tokens();
    assert!(control.len() == 2 * TOKEN_BYTES && view_only.len() == 2 * TOKEN_BYTES && control != view_only);
    assert_eq!(tokens(), [control.clone(), view_only.clone()]);
    assert_eq!((folder.viewer_token(&desk), folder.view_only_token(&desk)), (Some(control), Some(view_only)));
    let view_only_file = root.path().join("p/desk/view-only-token");
    for file in [root.path().join("signing-key.pem"), folder.viewer_token_file(&desk), view_only_file] {
        let mode = fs::metadata(&file).expect("exists").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", file.display());
    }
    let public = fs::metadata(root.path().join("signing-key.pem.pub")).expect("exists");
    assert_eq!(public.permissions().mode() & 0o777, 0o644, "readable by the host-agent's user");
    folder.remove(&desk);
    assert_eq!((folder.viewer_token(&desk), folder.view_only_token(&desk)), (None, None));
    assert!(!root.path().join("p/desk").exists());
}

#[test]
fn stream_of_an_earlier_version_keeps_its_token_and_gets_a_view_only_token() {
    let root = tempfile::tempdir().expect("a folder");
    let folder = folder(root.path(), "p");
    let desk = name("desk");
    folder.write_record(&desk, &record()).expect("writes");
    fs::write(folder.viewer_token_file(&desk), "0123456789abcdef\n").expect("writes");
    assert_eq!(folder.view_only_token(&desk), None);
    let ViewerTokens { control, view_only } = folder.ensure_viewer_tokens(&desk).expect("tokens");
    assert_eq!(control, "0123456789abcdef");
    assert_eq!(folder.view_only_token(&desk), Some(view_only));
}

#[test]
fn lock_admits_one_operator_per_project() {
    let root = tempfile::tempdir().expect("a folder");
    let one = folder(root.path(), "p");
    let held = one.lock().expect("free");
    assert!(one.is_locked());
    let error = one.lock().expect_err("held").to_string();
    assert!(error.contains("--project"), "{error}");
    assert!(folder(root.path(), "q").lock().is_ok());
    drop(held);
    assert!(!one.is_locked());
}

#[test]
fn id_persists_and_differs_between_folders() {
    let (root, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let id = folder(root.path(), "p").id().expect("an ID");
    assert_eq!(folder(root.path(), "p").id().expect("an ID"), id);
    assert_ne!(folder(root.path(), "q").id().expect("an ID"), id);
    assert_ne!(folder(other.path(), "p").id().expect("an ID"), id);
}

#[test]
fn changed_spec_increments_the_generation_and_restarts_an_ended_stream() {
    let root = tempfile::tempdir().expect("a folder");
    let folder = folder(root.path(), "p");
    let desk = name("desk");
    let at = |second| Timestamp::from_second(second).expect("a time");
    let first = Record::next(&stream(&json!({})), None, at(1)).expect("a record");
    folder.write_record(&desk, &first).expect("writes");
    assert_eq!(folder.streams(), [name("desk")]);
    let read = folder.record(&desk);
    assert_eq!(read.as_ref(), Some(&first));
    let same = Record::next(&stream(&json!({})), read.clone(), at(2)).expect("a record");
    assert_eq!(same, first);
    let changed = stream(&json!({"spec": {"gpu": {"count": 0}}}));
    let next = Record::next(&changed, read, at(3)).expect("a record");
    assert_eq!((next.generation, next.created, &next.uid), (2, at(1), &first.uid));
    let ended = Record { ended: true, ..next };
    let restarted = Record::next(&stream(&json!({})), Some(ended), at(4)).expect("a record");
    assert_eq!((restarted.created, restarted.ended), (at(4), false));
}

#[test]
fn stream_may_have_the_name_of_any_file_of_the_project() {
    let root = tempfile::tempdir().expect("a folder");
    let folder = folder(root.path(), "p");
    let _held = folder.lock().expect("free");
    for text in ["lock", "operator", "recreation", "id", "record"] {
        folder.write_record(&name(text), &record()).expect(text);
        assert!(folder.record(&name(text)).is_some(), "{text}");
    }
    assert_eq!(folder.streams().len(), 5);
}

#[test]
fn entries_that_are_no_stream_names_or_links_are_not_listed() {
    let root = tempfile::tempdir().expect("a folder");
    let outside = tempfile::tempdir().expect("a folder");
    let folder = folder(root.path(), "p");
    folder.write_record(&name("desk"), &record()).expect("writes");
    fs::copy(root.path().join("p/desk/record.json"), outside.path().join("record.json")).expect("copies");
    std::os::unix::fs::symlink(outside.path(), root.path().join("p/link")).expect("a link");
    for entry in ["Upper", "a.b", "-x"] {
        fs::create_dir(root.path().join("p").join(entry)).expect("a folder");
        fs::copy(
            root.path().join("p/desk/record.json"),
            root.path().join("p").join(entry).join("record.json"),
        )
        .expect("copies");
    }
    assert_eq!(folder.streams(), [name("desk")]);
}

#[test]
fn folder_behind_a_symbolic_link_is_neither_written_nor_removed() {
    let root = tempfile::tempdir().expect("a folder");
    let outside = tempfile::tempdir().expect("a folder");
    fs::write(outside.path().join("record.json"), "theirs").expect("writes");
    let folder = folder(root.path(), "p");
    std::os::unix::fs::symlink(outside.path(), root.path().join("p/link")).expect("a link");
    let link = name("link");
    let error = format!("{:#}", folder.write_record(&link, &record()).expect_err("a link"));
    assert!(error.contains("symbolic link") && error.contains("p/link"), "{error}");
    assert!(folder.ensure_viewer_tokens(&link).is_err());
    assert_eq!(folder.record(&link), None);
    folder.remove(&link);
    assert_eq!(fs::read_to_string(outside.path().join("record.json")).expect("kept"), "theirs");
    assert_eq!(fs::read_dir(outside.path()).expect("lists").count(), 1);
    std::os::unix::fs::symlink(outside.path(), root.path().join("q")).expect("a link");
    assert!(StateFolder::open(root.path(), &"q".parse().expect("a project")).is_err());
}

#[test]
fn removal_leaves_files_of_others() {
    let root = tempfile::tempdir().expect("a folder");
    let folder = folder(root.path(), "p");
    let desk = name("desk");
    folder.write_record(&desk, &record()).expect("writes");
    let note = root.path().join("p/desk/note");
    fs::write(&note, "mine").expect("writes");
    folder.remove(&desk);
    assert!(note.exists());
    assert_eq!(folder.streams(), []);
}
