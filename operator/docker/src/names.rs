//! Names and labels of the objects that we create on a Docker Engine.
//!
//! The parts of a name are joined by `_`, which neither project nor stream names contain. Stream `c` of project `a-b` and
//! stream `b-c` of project `a` therefore have different object names.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use contract::StreamName;

/// Label: the project, as in Compose.
pub const PROJECT: &str = "desktopstream.dev/project";
/// Label: the stream's name.
pub const NAME: &str = "desktopstream.dev/name";
/// Label: the object's [`Role`].
pub const ROLE: &str = "desktopstream.dev/role";
/// Label: digest of the configuration that a container was created from.
pub const SPEC_HASH: &str = "desktopstream.dev/spec-hash";
/// Label of a home volume that outlives its stream.
pub const KEEP: &str = "desktopstream.dev/keep";
/// Label on a user's container: attach the sidecar of this stream to it. It counts only if the image does not have it.
pub const ATTACH: &str = contract::names::labels::ATTACH;
/// Label on the replacement of a user's container: ID of the container that it replaces.
pub const REPLACES: &str = "desktopstream.dev/replaces";
/// Label of the volume that marks a project's operator: ID of the operator's state folder.
pub const STATE: &str = "desktopstream.dev/state";
/// Label of the same volume: host name and state folder of the operator, for people.
pub const HOLDER: &str = "desktopstream.dev/holder";
/// Label of the same volume: host name of the operator's machine.
pub const HOST: &str = "desktopstream.dev/host";
/// Label of the same volume: boot ID of the operator's machine.
pub const BOOT: &str = "desktopstream.dev/boot";
/// Annotation of a stream: host address and port of its viewers, `[IP:]PORT`.
pub const PUBLISH: &str = "desktopstream.dev/publish";

/// Purpose of an object of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Container of the compositor.
    Desktop,
    /// Container that captures and serves the desktop.
    Sidecar,
    /// Network of the project's containers, without connections between them.
    Network,
    /// Volume at `XDG_RUNTIME_DIR`, shared by desktop and sidecar.
    Runtime,
    /// Volume with the sidecar's tokens.
    Secrets,
    /// Volume of the home folder.
    Home,
    /// Empty volume that marks the project's operator.
    Operator,
}

impl Role {
    const ALL: [Self; 7] = [
        Self::Desktop,
        Self::Sidecar,
        Self::Network,
        Self::Runtime,
        Self::Secrets,
        Self::Home,
        Self::Operator,
    ];

    /// Value of the [`ROLE`] label, and suffix of object names.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Desktop => "desktop",
            Self::Sidecar => "sidecar",
            Self::Network => "network",
            Self::Runtime => "runtime",
            Self::Secrets => "secrets",
            Self::Home => "home",
            Self::Operator => "operator",
        }
    }

    /// Parses the value of a [`ROLE`] label.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

/// A project's name: a-z, 0-9 and `-`. As a path it is a single component.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Project(String);

impl Project {
    /// Maximum length, bytes.
    const MAX_LENGTH: usize = 60;

    /// The project name that a folder's name becomes: lower case, `-` for every character other than a-z and 0-9.
    pub fn of_folder(folder: &str) -> Self {
        let plain: String = folder
            .to_lowercase()
            .chars()
            .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
            .collect();
        let plain: String = plain.trim_matches('-').chars().take(Self::MAX_LENGTH).collect();
        let plain = plain.trim_end_matches('-');
        Self(if plain.is_empty() { "default" } else { plain }.to_owned())
    }

    /// The name as a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Name of the project's object with this role.
    pub fn object(&self, role: Role) -> String {
        format!("{self}_{}", role.as_str())
    }

    /// Labels of the project's object with this role.
    pub fn labels(&self, role: Role) -> HashMap<String, String> {
        [
            (operator_api::names::MANAGED_BY, operator_api::names::MANAGER),
            (PROJECT, self.as_str()),
            (ROLE, role.as_str()),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    /// Filter for the Engine's lists.
    pub fn filter(&self) -> String {
        format!("{PROJECT}={self}")
    }
}

impl FromStr for Project {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let folder = Self::of_folder(text);
        if !text.is_empty() && folder.0 == text {
            return Ok(folder);
        }
        Err(format!(
            "{text:?} is not a project name: use a-z, 0-9 and '-', at most {} characters, such as {:?}",
            Self::MAX_LENGTH,
            folder.0
        ))
    }
}

impl fmt::Display for Project {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<Path> for Project {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

/// A stream's identity: its project and its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey {
    /// Project name.
    pub project: Project,
    /// Stream name.
    pub stream: StreamName,
}

impl StreamKey {
    /// Key of `stream` in `project`.
    pub fn new(project: &Project, stream: &StreamName) -> Self {
        Self { project: project.clone(), stream: stream.clone() }
    }

    /// Name of the stream's object with this role. Network and operator are the project's: an Engine's default address pools
    /// suffice for some thirty networks.
    pub fn object(&self, role: Role) -> String {
        match role {
            Role::Network | Role::Operator => self.project.object(role),
            Role::Desktop | Role::Sidecar | Role::Runtime | Role::Secrets | Role::Home => {
                format!("{}_{}_{}", self.project, self.stream, role.as_str())
            }
        }
    }

    /// Labels of the stream's object with this role.
    pub fn labels(&self, role: Role) -> HashMap<String, String> {
        let mut labels = self.project.labels(role);
        labels.insert(NAME.to_owned(), self.stream.to_string());
        labels
    }

    /// The stream and role that the labels of an object of this name state; `None` if it is not ours.
    ///
    /// An image can bring any label along, but no container name: labels that do not fit the name are not ours.
    pub fn of_object(name: &str, labels: &HashMap<String, String>) -> Option<(Self, Role)> {
        let role = Role::parse(labels.get(ROLE)?)?;
        let key =
            Self { project: labels.get(PROJECT)?.parse().ok()?, stream: labels.get(NAME)?.parse().ok()? };
        (key.object(role) == name).then_some((key, role))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(project: &str, stream: &str) -> StreamKey {
        StreamKey { project: project.parse().expect("a project"), stream: stream.parse().expect("a name") }
    }

    #[test]
    fn labels_and_name_of_an_object_tell_its_stream_and_role() {
        let key = key("p", "desk");
        for role in Role::ALL {
            let found = StreamKey::of_object(&key.object(role), &key.labels(role));
            assert_eq!(found, Some((key.clone(), role)));
        }
        assert_eq!(StreamKey::of_object("p_desk_desktop", &HashMap::new()), None);
    }

    #[test]
    fn labels_that_do_not_fit_the_name_are_not_ours() {
        let labels = key("p", "desk").labels(Role::Desktop);
        for name in ["", "shell", "p_desk_sidecar", "p_other_desktop", "q_desk_desktop"] {
            assert_eq!(StreamKey::of_object(name, &labels), None, "{name:?}");
        }
    }

    #[test]
    fn labels_that_are_paths_are_not_ours() {
        for (label, value) in [(NAME, "/some/folder"), (NAME, ".."), (PROJECT, "../p"), (PROJECT, "/p")] {
            let mut labels = key("p", "desk").labels(Role::Desktop);
            labels.insert(label.to_owned(), value.to_owned());
            let name = format!("{}_{}_desktop", labels[PROJECT], labels[NAME]);
            assert_eq!(StreamKey::of_object(&name, &labels), None, "{label}={value}");
        }
    }

    #[test]
    fn object_names_of_different_streams_differ() {
        assert_ne!(key("a-b", "c").object(Role::Desktop), key("a", "b-c").object(Role::Desktop));
    }

    #[test]
    fn folder_name_becomes_a_valid_project_name() {
        for (folder, name) in [("My Streams", "my-streams"), ("a_b", "a-b"), ("ä", "default"), ("x1", "x1")]
        {
            assert_eq!(Project::of_folder(folder).as_str(), name);
            assert_eq!(name.parse::<Project>().map(|it| it.0), Ok(name.to_owned()));
        }
        assert!("a_b".parse::<Project>().is_err_and(|error| error.contains("a-b")));
        for text in ["", "..", "/x", "a/b"] {
            assert!(text.parse::<Project>().is_err(), "{text:?}");
        }
        let cut = Project::of_folder(&format!("{}-b", "a".repeat(Project::MAX_LENGTH - 1)));
        assert_eq!(cut.as_str().parse(), Ok(cut));
    }
}
