//! The report as it is sent: what was tried, and on what. It has no names of people, machines or folders but those in
//! a failure's own words.

use std::path::Path;

use anyhow::{Context as _, Result};
use doctor::Report;
use serde::Serialize;

use crate::sys::{self, System};

/// See the module.
#[derive(Debug, Serialize)]
pub struct Sent<'a> {
    /// Ours.
    program: &'static str,
    version: &'static str,
    system: System,
    cpus: usize,
    #[serde(flatten)]
    report: &'a Report,
}

impl<'a> Sent<'a> {
    /// Of this machine.
    pub fn new(report: &'a Report) -> Self {
        Self {
            program: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            system: sys::describe(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            report,
        }
    }

    /// As a file, JSON.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path, text)
            .with_context(|| format!("can't write {}; name another file with --report", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use doctor::Leg;

    use super::*;

    #[test]
    fn it_says_what_was_tried_and_where() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("report.json");
        let report = Report::new(vec![Leg::failed("encoder x", "does not decode", "send this")]);
        Sent::new(&report).write(&path).expect("written");
        let text = std::fs::read_to_string(&path).expect("there");
        let sent: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((sent["program"].as_str(), sent["ok"].as_bool()), (Some("host-agent"), Some(false)));
        assert_eq!(sent["legs"][0]["leg"], "encoder x");
        for known in ["os", "processor"] {
            assert!(sent["system"][known].as_str().is_some_and(|text| !text.is_empty()), "{known}: {text}");
        }
        let refused =
            Sent::new(&report).write(&folder.path().join("gone/report.json")).expect_err("no folder");
        assert!(refused.to_string().contains("--report"), "{refused}");
    }
}
