//! Expected conditions of docs/samples without a registry and without a host-agent, in a cluster and on Docker.

/// Expectation for a sample.
pub struct Sample {
    /// Name of the stream.
    pub stream: &'static str,
    /// Condition and reason in a cluster.
    pub cluster: Option<(&'static str, &'static str)>,
    /// Result on Docker.
    pub docker: Docker,
}

/// Result of a sample on Docker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Docker {
    /// The condition and reason of the cluster.
    Same,
    /// Another condition and reason, where the test cluster lacks something.
    Instead(&'static str, &'static str),
    /// `InvalidSpec` with a message that names this field.
    Refuses(&'static str),
}

impl Sample {
    /// On Docker: a condition, its reason, and a part of its message.
    pub fn on_docker(&self) -> (&'static str, &'static str, &'static str) {
        match (self.docker, self.cluster) {
            (Docker::Instead(condition, reason), _) | (Docker::Same, Some((condition, reason))) => {
                (condition, reason, "")
            }
            (Docker::Refuses(field), _) => ("Ready", "InvalidSpec", field),
            (Docker::Same, None) => unreachable!("{}: `Same` needs an expectation in a cluster", self.stream),
        }
    }
}

const NO_IMAGE: (&str, &str) = ("DevicesReady", "ImageCannotBePulled");

/// All samples.
pub const ALL: [Sample; 5] = [
    Sample { stream: "pattern", cluster: Some(NO_IMAGE), docker: Docker::Same },
    // The test cluster has no storage class, so the home's claim stays pending.
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
    fn table_has_one_row_per_sample() {
        let folder = lab::repository().join("docs/samples");
        let mut streams = 0;
        for entry in std::fs::read_dir(folder).expect("docs/samples exists") {
            let text =
                std::fs::read_to_string(entry.expect("folder is readable").path()).expect("file is readable");
            let value: serde_json::Value = serde_yaml_ng::from_str(&text).expect("file is YAML");
            if value["kind"] == "DesktopStream" {
                let name = value["metadata"]["name"].as_str().expect("stream has a name");
                assert!(ALL.iter().any(|sample| sample.stream == name), "{name}");
                streams += 1;
            }
        }
        assert_eq!(streams, ALL.len());
    }
}
