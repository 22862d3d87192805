//! Names and labels of the objects that we create on a Docker Engine.
//!
//! The parts of a name are joined by `_`, which neither project nor stream names contain. Stream `c` of project `a-b` and
//! stream `b-c` of project `a` therefore have different object names.

use std::collections::HashMap;

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
/// Label on a user's container: attach the sidecar of this stream to it.
pub const ATTACH: &str = "desktopstream.dev/attach";
/// Label on a user's container: `true` allows us to recreate it with the device, group or folder that it lacks.
pub const RECREATE: &str = "desktopstream.dev/recreate";
/// Annotation of a stream: host address and port of its viewers, `[IP:]PORT`.
pub const PUBLISH: &str = "desktopstream.dev/publish";

/// Longest project name.
const MAX_PROJECT_LENGTH: usize = 60;

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
}

impl Role {
    const ALL: [Self; 6] =
        [Self::Desktop, Self::Sidecar, Self::Network, Self::Runtime, Self::Secrets, Self::Home];

    /// Value of the [`ROLE`] label, and suffix of object names.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Desktop => "desktop",
            Self::Sidecar => "sidecar",
            Self::Network => "network",
            Self::Runtime => "runtime",
            Self::Secrets => "secrets",
            Self::Home => "home",
        }
    }

    /// Parses the value of a [`ROLE`] label.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

/// A stream's identity: its project and its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey {
    /// Project name.
    pub project: String,
    /// Stream name.
    pub stream: String,
}

impl StreamKey {
    /// Key of `stream` in `project`.
    pub fn new(project: &str, stream: &str) -> Self {
        Self { project: project.to_owned(), stream: stream.to_owned() }
    }

    /// Name of the stream's object with this role. The network is the project's: an Engine's default address pools suffice
    /// for some thirty networks.
    pub fn object(&self, role: Role) -> String {
        match role {
            Role::Network => network(&self.project),
            role => format!("{}_{}_{}", self.project, self.stream, role.as_str()),
        }
    }

    /// Labels of the stream's object with this role.
    pub fn labels(&self, role: Role) -> HashMap<String, String> {
        [
            (operator_api::names::MANAGED_BY, operator_api::names::MANAGER),
            (PROJECT, &self.project),
            (NAME, &self.stream),
            (ROLE, role.as_str()),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    /// The stream and role that an object's labels state; `None` if it is not ours.
    pub fn from_labels(labels: &HashMap<String, String>) -> Option<(Self, Role)> {
        let role = Role::parse(labels.get(ROLE)?)?;
        Some((Self::new(labels.get(PROJECT)?, labels.get(NAME)?), role))
    }
}

/// Name of a project's network.
pub fn network(project: &str) -> String {
    format!("{project}_{}", Role::Network.as_str())
}

/// The project name that a folder's name becomes: lower case, `-` for every character other than a-z and 0-9.
pub fn project(folder: &str) -> String {
    let plain: String = folder
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .collect();
    let plain = plain.trim_matches('-');
    if plain.is_empty() { "default".to_owned() } else { plain.chars().take(MAX_PROJECT_LENGTH).collect() }
}

/// Parses a project name.
///
/// # Errors
///
/// If the text is not a valid project name.
pub fn parse_project(text: &str) -> Result<String, String> {
    if !text.is_empty() && project(text) == text {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} is not a project name: use a-z, 0-9 and '-', at most {MAX_PROJECT_LENGTH} characters, such as {:?}",
        project(text)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_round_trip_to_the_stream_and_role() {
        let key = StreamKey::new("p", "desk");
        for role in Role::ALL {
            assert_eq!(StreamKey::from_labels(&key.labels(role)), Some((key.clone(), role)));
        }
        assert_eq!(StreamKey::from_labels(&HashMap::new()), None);
    }

    #[test]
    fn object_names_of_different_streams_differ() {
        assert_ne!(
            StreamKey::new("a-b", "c").object(Role::Desktop),
            StreamKey::new("a", "b-c").object(Role::Desktop)
        );
    }

    #[test]
    fn folder_name_becomes_a_valid_project_name() {
        for (folder, name) in [("My Streams", "my-streams"), ("a_b", "a-b"), ("ä", "default"), ("x1", "x1")]
        {
            assert_eq!(project(folder), name);
            assert_eq!(parse_project(name), Ok(name.to_owned()));
        }
        assert!(parse_project("a_b").is_err_and(|error| error.contains("a-b")));
        assert!(parse_project("").is_err());
    }
}
