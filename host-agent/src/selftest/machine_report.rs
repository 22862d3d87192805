//! A selftest report with a description of the machine, to be sent to the developers. Apart from error
//! messages it has no names of people, hosts or folders.

use std::path::Path;

use anyhow::{Context as _, Result};
use contract::doctor::Report;
use serde::Serialize;

use crate::sys::{self, System};

/// A report and the machine that it is about. Serialized as one JSON object.
#[derive(Debug, Serialize)]
pub struct MachineReport<'a> {
    program: &'static str,
    version: &'static str,
    system: System,
    cpus: usize,
    #[serde(flatten)]
    report: &'a Report,
}

impl<'a> MachineReport<'a> {
    /// Adds a description of this machine to a report.
    pub fn new(report: &'a Report) -> Self {
        Self {
            program: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            system: sys::describe(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            report,
        }
    }

    /// Writes the report to a file as JSON.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path, text)
            .with_context(|| format!("cannot write {}; choose another file with --report", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use contract::doctor::Check;

    use super::*;

    #[test]
    fn file_has_checks_and_machine() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("report.json");
        let report = Report::new(vec![Check::failed("encoder x", "does not decode", "send this")]);
        MachineReport::new(&report).write(&path).expect("written");
        let text = std::fs::read_to_string(&path).expect("file read");
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((json["program"].as_str(), json["ok"].as_bool()), (Some("host-agent"), Some(false)));
        assert_eq!(json["checks"][0]["name"], "encoder x");
        for field in ["os", "processor"] {
            assert!(json["system"][field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {text}");
        }
    }

    #[test]
    fn file_in_a_missing_folder_is_refused_with_a_remedy() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let report = Report::new(vec![]);
        let path = folder.path().join("missing/report.json");
        let error = MachineReport::new(&report).write(&path).expect_err("the folder is missing");
        assert!(error.to_string().contains("--report"), "{error}");
    }
}
