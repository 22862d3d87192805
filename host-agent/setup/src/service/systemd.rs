//! A systemd user unit: started at login, restarted after a failure, logged to the journal.

use std::path::PathBuf;

use super::Service;
use crate::install_plan::Action;

/// Name of the unit.
pub(super) const UNIT: &str = "desktopstream-host-agent.service";

pub(super) fn definition(service: &Service) -> PathBuf {
    service.home.join(".config/systemd/user").join(UNIT)
}

fn systemctl(arguments: &[&str]) -> Vec<String> {
    ["systemctl", "--user"].into_iter().chain(arguments.iter().copied()).map(str::to_owned).collect()
}

/// The command that prints the unit's state.
pub(super) fn query() -> Vec<String> {
    systemctl(&["is-active", UNIT])
}

/// The unit's state in the output of [`query`]; `None` if systemd did not answer.
pub(super) fn state(stdout: &str) -> Option<&str> {
    Some(stdout.trim()).filter(|state| !state.is_empty())
}

pub(super) fn install(service: &Service) -> Vec<Action> {
    let file = definition(service);
    vec![
        Action::CreateFolder(file.parent().map(PathBuf::from).unwrap_or_default()),
        Action::WriteFile { path: file, contents: unit(service).into_bytes() },
        Action::Run(systemctl(&["daemon-reload"])),
        Action::Run(systemctl(&["enable", UNIT])),
        // `restart` rather than `start`: an older version may be running.
        Action::Run(systemctl(&["restart", UNIT])),
    ]
}

pub(super) fn uninstall(service: &Service) -> Vec<Action> {
    vec![
        Action::RunIgnoringFailure(systemctl(&["disable", "--now", UNIT])),
        Action::Remove(definition(service)),
        Action::RunIgnoringFailure(systemctl(&["daemon-reload"])),
    ]
}

/// Quotes a word of ExecStart and escapes specifiers and variables (systemd.syntax(7), systemd.service(5)).
fn quote(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{text}\"")
}

fn unit(service: &Service) -> String {
    let (program, config) = (service.program.display().to_string(), service.config.display().to_string());
    format!(
        "[Unit]\nDescription=desktopstream host-agent\n\n\
         [Service]\nExecStart={} serve --config {}\nRestart=on-failure\nRestartSec=2\n\n\
         [Install]\nWantedBy=default.target\n",
        quote(&program),
        quote(&config)
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::{Manager, example};
    use super::*;
    use crate::sys;

    #[test]
    fn unit_starts_the_daemon_with_its_config_file() {
        let text = unit(&example(Manager::Systemd));
        let line = "ExecStart=\"/opt/homebrew/bin/host-agent\" serve --config \"/Users/a/.config/desktopstream/host-agent.toml\"\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn special_characters_of_a_path_are_escaped() {
        assert_eq!(quote("a \"b\" 100% $HOME \\"), "\"a \\\"b\\\" 100%% $$HOME \\\\\"");
    }

    /// Complaints of `systemd-analyze verify` that name the unit.
    fn verify(text: &str) -> Vec<String> {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join(UNIT);
        std::fs::write(&file, text).expect("file written");
        let output = Command::new("systemd-analyze")
            .args(["--user", "verify"])
            .arg(&file)
            // Outside a login session the user manager's folders are unknown, and nothing would be checked.
            .env("XDG_RUNTIME_DIR", folder.path())
            .output()
            .expect("systemd-analyze is installed: it is in Debian's package systemd");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        stderr.lines().filter(|line| line.contains(UNIT)).map(str::to_owned).collect()
    }

    #[test]
    fn systemd_accepts_the_unit_and_reports_a_broken_one() {
        if sys::MANAGER != Manager::Systemd {
            eprintln!("not applicable: this system has no systemd");
            return;
        }
        let service =
            Service { program: std::env::current_exe().expect("path known"), ..example(Manager::Systemd) };
        assert_eq!(verify(&unit(&service)), [""; 0]);
        let broken = unit(&service).replace("Restart=on-failure", "Restart=perhaps");
        assert!(!verify(&broken).is_empty(), "systemd-analyze checked nothing");
    }

    #[test]
    fn empty_answer_of_systemctl_has_no_state() {
        assert_eq!(state("active\n"), Some("active"));
        assert_eq!(state("\n"), None);
    }
}
