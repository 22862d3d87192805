//! Reads DesktopStreams and HostAgents from YAML files. A file that becomes unreadable or invalid keeps its last good
//! content, and the problem is reported.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use contract::StreamName;
use operator_api::{DesktopStream, GROUP, HostAgent, VERSION};
use operator_plan::host_agent;
use serde::Deserialize;
use serde_json::Value;

/// Largest accepted file, bytes. A stream takes about one kilobyte.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Files and folders to read, with the last good content of each file.
#[derive(Debug, Default)]
pub struct StreamFiles {
    sources: Vec<PathBuf>,
    last_good: BTreeMap<PathBuf, Content>,
}

/// Content of one file.
#[derive(Debug, Clone, Default, PartialEq)]
struct Content {
    streams: Vec<(StreamName, DesktopStream)>,
    host_agents: Vec<HostAgent>,
}

/// Content of all files.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Desired {
    /// Streams by name.
    pub streams: BTreeMap<StreamName, DesktopStream>,
    /// Host-agents by name.
    pub host_agents: BTreeMap<String, HostAgent>,
    /// Problems by file.
    pub problems: BTreeMap<PathBuf, String>,
}

impl StreamFiles {
    /// Reads from these files and folders. Nothing is read before [`Self::read`].
    pub fn new(sources: Vec<PathBuf>) -> Self {
        Self { sources, last_good: BTreeMap::new() }
    }

    /// Folders in which a change may concern us.
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

    /// Reads all files.
    pub fn read(&mut self) -> Desired {
        let mut desired = Desired::default();
        let mut paths = Vec::new();
        let mut unlisted = Vec::new();
        for source in &self.sources {
            match list(source) {
                Ok(list) => paths.extend(list),
                Err(error) => {
                    desired.problems.insert(source.clone(), format!("cannot be read: {error}"));
                    unlisted.push(source.clone());
                }
            }
        }
        // Files in a folder that cannot be listed have not been removed.
        self.last_good.retain(|path, _| {
            paths.contains(path) || unlisted.iter().any(|source| path == source || path.starts_with(source))
        });
        for path in paths {
            match parse(&path) {
                Ok(content) => {
                    self.last_good.insert(path, content);
                }
                Err(error) => {
                    let kept = self.last_good.get(&path).map_or(0, |content| content.streams.len());
                    let text = if kept > 0 {
                        format!("{error}; its {kept} streams stay as they were")
                    } else {
                        error
                    };
                    desired.problems.insert(path, text);
                }
            }
        }
        for (path, content) in &self.last_good {
            add(&mut desired, path, content);
        }
        desired
    }
}

/// Adds a file's content. Of several streams with one name, the first file's counts.
fn add(desired: &mut Desired, path: &Path, content: &Content) {
    let mut duplicates = Vec::new();
    for (name, stream) in &content.streams {
        match desired.streams.entry(name.clone()) {
            Entry::Occupied(taken) => duplicates.push(taken.key().to_string()),
            Entry::Vacant(free) => {
                free.insert(stream.clone());
            }
        }
    }
    for agent in &content.host_agents {
        desired.host_agents.insert(agent.metadata.name.clone().unwrap_or_default(), agent.clone());
    }
    if !duplicates.is_empty() {
        let text = format!("stream names already in use: {}; rename these streams", duplicates.join(", "));
        desired.problems.insert(path.to_owned(), text);
    }
}

/// The files of a source. A named file must exist; a folder may be empty.
fn list(source: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !source.is_dir() {
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
    let size = std::fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?.len();
    if size > MAX_FILE_BYTES {
        return Err(format!("has {size} bytes, at most {MAX_FILE_BYTES} are accepted; split it"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
    let mut content = Content::default();
    for document in serde_yaml_ng::Deserializer::from_str(&text) {
        let value = Value::deserialize(document).map_err(|error| format!("is not valid YAML: {error}"))?;
        if !value.is_null() {
            push(&mut content, &value)?;
        }
    }
    Ok(content)
}

fn push(content: &mut Content, value: &Value) -> Result<(), String> {
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    let version = format!("{GROUP}/{VERSION}");
    if text("apiVersion") != version {
        return Err(format!("apiVersion is {:?}; set it to {version}", text("apiVersion")));
    }
    let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    match text("kind") {
        "DesktopStream" => {
            let parsed = name.parse().map_err(|error| format!("metadata.name: {error}"))?;
            content.streams.push((parsed, typed(value, &name)?));
        }
        "HostAgent" => {
            let agent: HostAgent = typed(value, &name)?;
            host_agent::validate(&agent.spec).map_err(|problem| format!("{name}: {problem}"))?;
            content.host_agents.push(agent);
        }
        other => return Err(format!("kind is {other:?}; set it to DesktopStream or HostAgent")),
    }
    Ok(())
}

/// Deserializes an object strictly: an unknown field of `spec` is an error, as there is no API server to report it.
fn typed<T: serde::Serialize + serde::de::DeserializeOwned>(value: &Value, name: &str) -> Result<T, String> {
    let object: T = serde_json::from_value(value.clone()).map_err(|error| format!("{name}: {error}"))?;
    let kept = serde_json::to_value(&object).unwrap_or_default();
    match unknown_field("spec", &value["spec"], &kept["spec"]) {
        Some(field) => {
            Err(format!("{name}: unknown field {field}; see docs/samples for the fields that exist"))
        }
        None => Ok(object),
    }
}

/// The first field of `written` that deserialization dropped. Empty values may be dropped.
fn unknown_field(path: &str, written: &Value, kept: &Value) -> Option<String> {
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
                Some(kept) => unknown_field(&path, value, kept),
                None => (!empty(value)).then_some(path),
            }
        }),
        (Value::Array(written), Value::Array(kept)) => {
            written.iter().zip(kept).find_map(|(written, kept)| unknown_field(path, written, kept))
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

    fn names(desired: &Desired) -> Vec<&str> {
        desired.streams.keys().map(StreamName::as_str).collect()
    }

    #[test]
    fn broken_file_keeps_its_streams_and_removed_file_drops_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut files = StreamFiles::new(vec![folder.path().to_owned()]);
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
            let desired = files.read();
            assert_eq!(names(&desired), ["a1", "a2", "b"], "{broken}");
            let problem = desired.problems.values().next().expect("a problem");
            assert!(problem.contains("2 streams stay"), "{problem}");
        }
        assert!(files.read().problems.len() == 1);
        std::fs::remove_file(folder.path().join("a.yaml")).expect("removes");
        let desired = files.read();
        assert_eq!((names(&desired), desired.problems.len()), (vec!["b"], 0));
    }

    #[test]
    fn name_that_is_a_path_is_a_problem_of_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut files = StreamFiles::new(vec![folder.path().to_owned()]);
        for name in ["/some/folder", "'..'", "a/b", "Desk", "''"] {
            write(folder.path(), "a.yaml", &GOOD.replace("NAME", name));
            let desired = files.read();
            assert!(desired.streams.is_empty(), "{name}");
            let problem = desired.problems.values().next().expect("a problem");
            assert!(problem.contains("metadata.name") && problem.contains("a-z"), "{problem}");
        }
    }

    #[test]
    fn host_agent_with_a_plaintext_endpoint_is_a_problem_of_the_file() {
        const AGENT: &str = "apiVersion: desktopstream.dev/v1alpha1\nkind: HostAgent\nmetadata: {name: mac}\nspec: {endpoints: ['tcp://gateway:1']PLAINTEXT}\n";
        let folder = tempfile::tempdir().expect("a folder");
        let mut files = StreamFiles::new(vec![folder.path().to_owned()]);
        write(folder.path(), "a.yaml", &AGENT.replace("PLAINTEXT", ""));
        let desired = files.read();
        assert!(desired.host_agents.is_empty());
        let problem = desired.problems.values().next().expect("a problem");
        assert!(
            problem.contains("mac: spec.endpoints") && problem.contains("plaintext to true"),
            "{problem}"
        );
        write(folder.path(), "a.yaml", &AGENT.replace("PLAINTEXT", ", plaintext: true"));
        let desired = files.read();
        assert_eq!((desired.host_agents.len(), desired.problems.len()), (1, 0));
    }

    #[test]
    fn missing_folder_keeps_its_streams() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("streams");
        std::fs::create_dir(&folder).expect("a folder");
        write(&folder, "a.yaml", &GOOD.replace("NAME", "a"));
        let mut files = StreamFiles::new(vec![folder.clone()]);
        assert_eq!(names(&files.read()), ["a"]);
        std::fs::remove_dir_all(&folder).expect("removes");
        let desired = files.read();
        assert_eq!((names(&desired), desired.problems.len()), (vec!["a"], 1));
    }

    #[test]
    fn duplicate_stream_name_is_a_problem_of_the_second_file() {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), "a.yaml", &GOOD.replace("NAME", "a"));
        write(folder.path(), "b.yaml", &GOOD.replace("NAME", "a"));
        let desired = StreamFiles::new(vec![folder.path().to_owned()]).read();
        assert_eq!(names(&desired), ["a"]);
        let problem = &desired.problems[&folder.path().join("b.yaml")];
        assert!(problem.contains("rename"), "{problem}");
    }
}
