//! Injection of viewers' input.

use contract::clipboard::ClipboardPolicy;
use contract::doctor::{Check, checks};
use contract::input::ControlPolicy;
use input::{InputOptions, InputState};

use crate::cli::{Desktop, SourceArg};

/// Looks for a protocol of the desktop by which events can be injected. Not required to pass, as a desktop can be streamed
/// for viewing only.
pub async fn protocol(desktop: &Desktop) -> Check {
    if desktop.source == SourceArg::TestPattern {
        return Check::skipped(checks::INPUT, "the test pattern accepts no input");
    }
    let options = InputOptions {
        runtime_dir: desktop.runtime_dir.clone(),
        wayland_display: desktop.wayland_display.clone(),
        control: ControlPolicy::default(),
        clipboard: ClipboardPolicy::Off,
    };
    match input::probe(&options).await {
        InputState { backend: Some(kind), .. } => Check::ok(checks::INPUT, kind.name()),
        InputState { backend: None, error } => {
            Check::skipped(checks::INPUT, error).with_remedy(checks::remedy(checks::INPUT))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use contract::doctor::Outcome;

    use super::*;
    use crate::cli::{Cli, Command};

    async fn check(arguments: &[&str]) -> Check {
        let cli = Cli::try_parse_from([&["sidecar", "doctor"], arguments].concat()).expect("parses");
        let Command::Doctor(doctor) = cli.command else { unreachable!("doctor was given") };
        protocol(&doctor.desktop).await
    }

    #[tokio::test]
    async fn desktop_without_input_is_reported_with_a_remedy_and_does_not_fail() {
        let folder = tempfile::tempdir().expect("a folder");
        // No bus answers here; without the file, that of the environment would be used.
        std::fs::write(folder.path().join("bus"), "").expect("written");
        let path = folder.path().display().to_string();
        let missing = check(&["--runtime-dir", &path, "--wayland-display", "wayland-7"]).await;
        assert_eq!((missing.outcome, missing.name.as_str()), (Outcome::Skipped, "input"));
        assert!(missing.detail.contains("wayland-7"), "{missing:?}");
        assert!(missing.remedy.contains("GNOME Shell"), "{missing:?}");
        let pattern = check(&["--runtime-dir", &path, "--source", "test-pattern"]).await;
        assert_eq!((pattern.outcome, pattern.remedy.as_str()), (Outcome::Skipped, ""));
    }
}
