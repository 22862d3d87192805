//! The files with streams and host-agents. A file that can't be read keeps what it said last, and says so.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use operator_api::{DesktopStream, GROUP, HostAgent, VERSION};

/// Longest file; a stream has a kilobyte.
const LONGEST: u64 = 1 << 20;

/// Where to look, and what was found last.
#[derive(Debug, Default)]
pub struct Files {
    sources: Vec<PathBuf>,
    good: BTreeMap<PathBuf, Content>,
}

/// What a file says.
#[derive(Debug, Clone, Default, PartialEq)]
struct Content {
    streams: Vec<DesktopStream>,
    host_agents: Vec<HostAgent>,
}

/// What all files say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// Streams, by name.
    pub streams: BTreeMap<String, DesktopStream>,
    /// Host-agents, by name.
    pub host_agents: BTreeMap<String, HostAgent>,
    /// What is wrong, by file.
    pub problems: BTreeMap<PathBuf, String>,
}

impl Files {
    /// In these files and folders.
    pub fn new(sources: Vec<PathBuf>) -> Self {
        Self { sources, good: BTreeMap::new() }
    }

    /// Folders to watch.
    pub fn folders(&self) -> Vec<PathBuf> {
        let folder = |path: &PathBuf| {
            if path.is_dir() {
                return path.clone();
            }
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            parent.map_or_else(|| PathBuf::from("."), Path::to_owned)
        };
        let mut folders: Vec<PathBuf> = self.sources.iter().map(folder).collect();
        folders.sort();
        folders.dedup();
        folders
    }

    /// Reads all of them.
    pub fn read(&mut self) -> Found {
        let mut found = Found::default();
        let mut paths = Vec::new();
        let mut unknown = Vec::new();
        for source in &self.sources {
            match list(source) {
                Ok(list) => paths.extend(list),
                Err(error) => {
                    found.problems.insert(source.clone(), format!("can't be read: {error}"));
                    unknown.push(source.clone());
                }
            }
        }
        // What lies in a folder that can't be listed has not been removed.
        self.good.retain(|path, _| {
            paths.contains(path) || unknown.iter().any(|source| path == source || path.starts_with(source))
        });
        for path in paths {
            match parse(&path) {
                Ok(content) => {
                    self.good.insert(path, content);
                }
                Err(why) => {
                    let kept = self.good.get(&path).map_or(0, |content| content.streams.len());
                    let text =
                        if kept > 0 { format!("{why}; its {kept} streams stay as they were") } else { why };
                    found.problems.insert(path, text);
                }
            }
        }
        for (path, content) in &self.good {
            gather(&mut found, path, content);
        }
        found
    }
}

fn gather(found: &mut Found, path: &Path, content: &Content) {
    let mut twice = Vec::new();
    for stream in &content.streams {
        let name = stream.metadata.name.clone().unwrap_or_default();
        match found.streams.entry(name) {
            Entry::Occupied(taken) => twice.push(taken.key().clone()),
            Entry::Vacant(free) => {
                free.insert(stream.clone());
            }
        }
    }
    for agent in &content.host_agents {
        found.host_agents.insert(agent.metadata.name.clone().unwrap_or_default(), agent.clone());
    }
    if !twice.is_empty() {
        let text =
            format!("another file has a stream of that name already: {}; rename one", twice.join(", "));
        found.problems.insert(path.to_owned(), text);
    }
}

fn list(source: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !source.is_dir() {
        // A file that was named is missed when it isn't there; in a folder, it has been removed.
        return std::fs::metadata(source).map(|_| vec![source.to_owned()]);
    }
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(source)? {
        let path = entry?.path();
        let yaml = path.extension().is_some_and(|it| it == "yaml" || it == "yml");
        let hidden = path.file_name().is_some_and(|it| it.as_encoded_bytes().starts_with(b"."));
        if yaml && !hidden && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn parse(path: &Path) -> Result<Content, String> {
    let size = std::fs::metadata(path).map_err(|error| format!("can't be read: {error}"))?.len();
    if size > LONGEST {
        return Err(format!("has {size} bytes; streams have a kilobyte: split it"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("can't be read: {error}"))?;
    let mut content = Content::default();
    for document in serde_yaml_ng::Deserializer::from_str(&text) {
        let value = Value::deserialize(document).map_err(|error| format!("is no YAML: {error}"))?;
        if !value.is_null() {
            take(&mut content, &value)?;
        }
    }
    Ok(content)
}

fn take(content: &mut Content, value: &Value) -> Result<(), String> {
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    let of = format!("{GROUP}/{VERSION}");
    if text("apiVersion") != of {
        return Err(format!("apiVersion is {:?}: streams and host-agents have {of}", text("apiVersion")));
    }
    let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    match text("kind") {
        "DesktopStream" => content.streams.push(typed(value, &name)?),
        "HostAgent" => content.host_agents.push(typed(value, &name)?),
        other => return Err(format!("kind {other:?}: here are DesktopStream and HostAgent")),
    }
    Ok(())
}

/// With nothing lost: a field that our types don't have is a typo, and nobody else would say so.
fn typed<T: serde::Serialize + serde::de::DeserializeOwned>(value: &Value, name: &str) -> Result<T, String> {
    let object: T = serde_json::from_value(value.clone()).map_err(|error| format!("{name}: {error}"))?;
    let kept = serde_json::to_value(&object).unwrap_or_default();
    match lost("spec", &value["spec"], &kept["spec"]) {
        Some(field) => Err(format!("{name}: there is no {field}; see docs/samples for what there is")),
        None => Ok(object),
    }
}

fn lost(path: &str, written: &Value, kept: &Value) -> Option<String> {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    match (written, kept) {
        (Value::Object(written), Value::Object(kept)) => written.iter().find_map(|(key, value)| {
            let path = format!("{path}.{key}");
            match kept.get(key) {
                Some(kept) => lost(&path, value, kept),
                None => (!empty(value)).then_some(path),
            }
        }),
        (Value::Array(written), Value::Array(kept)) => {
            written.iter().zip(kept).find_map(|(written, kept)| lost(path, written, kept))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: desktopstream.dev/v1alpha1\nkind: DesktopStream\nmetadata: {name: NAME}\nspec: {desktop: {image: i, volumes: []}}\n";

    fn write(folder: &Path, file: &str, text: &str) {
        std::fs::write(folder.join(file), text).expect("writes");
    }

    fn names(found: &Found) -> Vec<&str> {
        found.streams.keys().map(String::as_str).collect()
    }

    #[test]
    fn a_broken_file_keeps_what_it_said_and_a_removed_one_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut files = Files::new(vec![folder.path().to_owned()]);
        write(
            folder.path(),
            "a.yaml",
            &format!("{}---\n{}", GOOD.replace("NAME", "a1"), GOOD.replace("NAME", "a2")),
        );
        write(folder.path(), "b.yml", &GOOD.replace("NAME", "b"));
        write(folder.path(), "c.txt", "no");
        write(folder.path(), ".d.yaml", "no");
        let first = files.read();
        assert_eq!((names(&first), first.problems.len()), (vec!["a1", "a2", "b"], 0));
        for broken in [
            "{",
            "kind: Pod",
            &GOOD.replace("image", "imgae"),
            &GOOD.replace("NAME", "a1").replace("v1alpha1", "v2"),
        ] {
            write(folder.path(), "a.yaml", broken);
            let found = files.read();
            assert_eq!(names(&found), ["a1", "a2", "b"], "{broken}");
            let said = found.problems.values().next().expect("a problem");
            assert!(said.contains("2 streams stay"), "{said}");
        }
        assert!(files.read().problems.len() == 1);
        std::fs::remove_file(folder.path().join("a.yaml")).expect("removes");
        let found = files.read();
        assert_eq!((names(&found), found.problems.len()), (vec!["b"], 0));
    }

    #[test]
    fn a_folder_that_vanishes_takes_nothing_with_it() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("streams");
        std::fs::create_dir(&folder).expect("a folder");
        write(&folder, "a.yaml", &GOOD.replace("NAME", "a"));
        let mut files = Files::new(vec![folder.clone()]);
        assert_eq!(names(&files.read()), ["a"]);
        std::fs::remove_dir_all(&folder).expect("removes");
        let found = files.read();
        assert_eq!((names(&found), found.problems.len()), (vec!["a"], 1));
    }

    #[test]
    fn one_name_is_one_stream() {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), "a.yaml", &GOOD.replace("NAME", "a"));
        write(folder.path(), "b.yaml", &GOOD.replace("NAME", "a"));
        let found = Files::new(vec![folder.path().to_owned()]).read();
        assert_eq!(names(&found), ["a"]);
        assert!(found.problems.values().any(|said| said.contains("rename one")));
    }
}
