//! Every label and name that we leave in a Docker Engine.
//!
//! Names have `_` between their parts, which neither projects nor streams have: `a-b` with `c` and `a` with
//! `b-c` are two streams.

use std::collections::HashMap;

/// Label: the project, as Compose means it: streams of one don't touch those of another.
pub const PROJECT: &str = "desktopstream.dev/project";
/// Label: the stream.
pub const NAME: &str = "desktopstream.dev/name";
/// Label: what it is for; see [`Role`].
pub const ROLE: &str = "desktopstream.dev/role";
/// Label: a digest of what a container was made from.
pub const SPEC_HASH: &str = "desktopstream.dev/spec-hash";
/// Label of a home volume that outlives its stream.
pub const KEEP: &str = "desktopstream.dev/keep";
/// Label on containers of others: give it the sidecar of this stream.
pub const ATTACH: &str = "desktopstream.dev/attach";
/// Label on such a container: `true` lets us make it anew where it lacks the device or the folder.
pub const RECREATE: &str = "desktopstream.dev/recreate";
/// Annotation of a stream: where its viewers' port is published, `[IP:]PORT`.
pub const PUBLISH: &str = "desktopstream.dev/publish";

/// What a thing of ours is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The container with the compositor.
    Desktop,
    /// The container that streams it.
    Sidecar,
    /// The network of all containers of a project, which don't see each other in it.
    Network,
    /// The volume behind `XDG_RUNTIME_DIR`.
    Runtime,
    /// The volume with tokens.
    Secrets,
    /// The home folder's volume.
    Home,
}

impl Role {
    /// As in labels and names.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Desktop => "desktop",
            Self::Sidecar => "sidecar",
            Self::Network => "network",
            Self::Runtime => "runtime",
            Self::Secrets => "secrets",
            Self::Home => "home",
        }
    }

    /// From a label.
    pub fn read(text: &str) -> Option<Self> {
        let all = [Self::Desktop, Self::Sidecar, Self::Network, Self::Runtime, Self::Secrets, Self::Home];
        all.into_iter().find(|role| role.text() == text)
    }
}

/// A stream in a project.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The project.
    pub project: String,
    /// The stream.
    pub stream: String,
}

impl Place {
    /// Of this stream.
    pub fn new(project: &str, stream: &str) -> Self {
        Self { project: project.to_owned(), stream: stream.to_owned() }
    }

    /// The name of one of its things. The network is its project's: an Engine has room for some thirty.
    pub fn object(&self, role: Role) -> String {
        match role {
            Role::Network => network(&self.project),
            role => format!("{}_{}_{}", self.project, self.stream, role.text()),
        }
    }

    /// Labels of one of its things.
    pub fn labels(&self, role: Role) -> HashMap<String, String> {
        [
            (operator_api::names::MANAGED_BY, operator_api::names::MANAGER),
            (PROJECT, &self.project),
            (NAME, &self.stream),
            (ROLE, role.text()),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    /// Whose a thing is, by its labels.
    pub fn read(labels: &HashMap<String, String>) -> Option<(Self, Role)> {
        let role = Role::read(labels.get(ROLE)?)?;
        Some((Self::new(labels.get(PROJECT)?, labels.get(NAME)?), role))
    }
}

/// The network of a project.
pub fn network(project: &str) -> String {
    format!("{project}_{}", Role::Network.text())
}

/// A project's name from a folder's: what Docker takes in names, without the `_` that parts them.
pub fn project(folder: &str) -> String {
    let plain: String = folder
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .collect();
    let plain = plain.trim_matches('-');
    if plain.is_empty() { "default".to_owned() } else { plain.chars().take(60).collect() }
}

/// Why this is no project's name.
pub fn check_project(text: &str) -> Result<String, String> {
    if !text.is_empty() && project(text) == text {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is no project: write a-z, 0-9 and '-', at most 60, such as {:?}", project(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_back_and_names_do_not_meet() {
        let place = Place::new("p", "desk");
        for role in [Role::Desktop, Role::Home] {
            assert_eq!(Place::read(&place.labels(role)), Some((place.clone(), role)));
        }
        assert_ne!(
            Place::new("a-b", "c").object(Role::Desktop),
            Place::new("a", "b-c").object(Role::Desktop)
        );
        assert_eq!(Place::read(&HashMap::new()), None);
    }

    #[test]
    fn folders_become_projects() {
        for (folder, name) in [("My Streams", "my-streams"), ("a_b", "a-b"), ("ä", "default"), ("x1", "x1")]
        {
            assert_eq!(project(folder), name);
            assert_eq!(check_project(name), Ok(name.to_owned()));
        }
        assert!(check_project("a_b").is_err_and(|says| says.contains("a-b")));
        assert!(check_project("").is_err());
    }
}
