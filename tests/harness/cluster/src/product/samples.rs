//! What becomes of docs/samples where no registry answers and no host-agent is reached: one table for both engines.

/// A stream of the samples.
pub struct Sample {
    /// Its name.
    pub stream: &'static str,
    /// What is so in a cluster: a condition, its reason.
    pub cluster: Option<(&'static str, &'static str)>,
    /// The same on Docker.
    pub docker: Docker,
}

/// What Docker makes of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Docker {
    /// The same.
    Same,
    /// This, for that a cluster lacks something of its own.
    Instead(&'static str, &'static str),
    /// It refuses this field.
    Refuses(&'static str),
}

impl Sample {
    /// On Docker: a condition, its reason, and what the message names.
    pub fn on_docker(&self) -> (&'static str, &'static str, &'static str) {
        match (self.docker, self.cluster) {
            (Docker::Instead(condition, reason), _) | (Docker::Same, Some((condition, reason))) => {
                (condition, reason, "")
            }
            (Docker::Refuses(field), _) => ("Ready", "InvalidSpec", field),
            (Docker::Same, None) => unreachable!("{}: the same as what?", self.stream),
        }
    }
}

const NO_IMAGE: (&str, &str) = ("DevicesReady", "ImageCannotBePulled");

/// All of them.
pub const ALL: [Sample; 5] = [
    Sample { stream: "pattern", cluster: Some(NO_IMAGE), docker: Docker::Same },
    // The test cluster has no storage class for its home, so nothing is said of it there.
    Sample { stream: "sway", cluster: None, docker: Docker::Instead(NO_IMAGE.0, NO_IMAGE.1) },
    Sample {
        stream: "gnome",
        cluster: Some(("Paired", "HostAgentUnreachable")),
        docker: Docker::Refuses("spec.viewers.ingress"),
    },
    Sample {
        stream: "kiosk",
        cluster: Some(("DevicesReady", "NotInjected")),
        docker: Docker::Refuses("spec.attach.kind"),
    },
    Sample {
        stream: "templated",
        cluster: Some(NO_IMAGE),
        docker: Docker::Refuses("spec.desktop.podTemplate"),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_all_samples() {
        let folder = lab::repository().join("docs/samples");
        let mut streams = 0;
        for entry in std::fs::read_dir(folder).expect("it is there") {
            let text = std::fs::read_to_string(entry.expect("an entry").path()).expect("reads");
            let value: serde_json::Value = serde_yaml_ng::from_str(&text).expect("YAML");
            if value["kind"] == "DesktopStream" {
                let name = value["metadata"]["name"].as_str().expect("a name");
                assert!(ALL.iter().any(|sample| sample.stream == name), "{name}");
                streams += 1;
            }
        }
        assert_eq!(streams, ALL.len());
    }
}
