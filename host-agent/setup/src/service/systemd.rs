//! A systemd unit of the user's: started at login and again when it fails; its log is the journal.

use std::path::PathBuf;

use super::Service;
use crate::steps::Step;

/// What systemd calls it.
pub(super) const UNIT: &str = "desktopstream-host-agent.service";

pub(super) fn definition(service: &Service) -> PathBuf {
    service.home.join(".config/systemd/user").join(UNIT)
}

fn systemctl(words: &[&str]) -> Vec<String> {
    ["systemctl", "--user"].into_iter().chain(words.iter().copied()).map(str::to_owned).collect()
}

/// What tells its state.
pub(super) fn asks() -> Vec<String> {
    systemctl(&["is-active", UNIT])
}

pub(super) fn install(service: &Service) -> Vec<Step> {
    let file = definition(service);
    vec![
        Step::Folder(file.parent().map(PathBuf::from).unwrap_or_default()),
        Step::Write(file, unit(service)),
        Step::Run(systemctl(&["daemon-reload"])),
        Step::Run(systemctl(&["enable", UNIT])),
        // What runs already is another version.
        Step::Run(systemctl(&["restart", UNIT])),
    ]
}

pub(super) fn uninstall(service: &Service) -> Vec<Step> {
    vec![
        Step::Try(systemctl(&["disable", "--now", UNIT])),
        Step::Remove(definition(service)),
        Step::Try(systemctl(&["daemon-reload"])),
    ]
}

/// A word of ExecStart: quoted, and nothing in it stands for something else (systemd.syntax, systemd.unit).
fn word(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{text}\"")
}

fn unit(service: &Service) -> String {
    let (program, config) = (service.program.display().to_string(), service.config.display().to_string());
    format!(
        "[Unit]\nDescription=desktopstream host-agent\n\n\
         [Service]\nExecStart={} serve --config {}\nRestart=on-failure\nRestartSec=2\n\n\
         [Install]\nWantedBy=default.target\n",
        word(&program),
        word(&config)
    )
}

#[cfg(test)]
mod tests {
    use super::super::{Manager, example};
    use super::*;

    #[test]
    fn the_unit_starts_the_daemon_with_its_config() {
        let text = unit(&example(Manager::Systemd));
        let line = "ExecStart=\"/opt/homebrew/bin/host-agent\" serve --config \"/Users/a/.config/desktopstream/host-agent.toml\"\n";
        assert!(text.contains(line), "{text}");
        assert_eq!(word("a \"b\" 100% $HOME \\"), "\"a \\\"b\\\" 100%% $$HOME \\\\\"");
    }

    /// By systemd's own reader, where it is installed.
    #[test]
    fn systemd_takes_the_unit() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(UNIT);
        let service =
            Service { program: std::env::current_exe().expect("known"), ..example(Manager::Systemd) };
        std::fs::write(&file, unit(&service)).expect("written");
        let checked =
            std::process::Command::new("systemd-analyze").args(["--user", "verify"]).arg(&file).output();
        match checked {
            Err(_) => eprintln!("skipped: no systemd-analyze"),
            Ok(out) => {
                let said = String::from_utf8_lossy(&out.stderr);
                let ours: Vec<_> = said.lines().filter(|line| line.contains(UNIT)).collect();
                assert!(ours.is_empty(), "{ours:?}");
            }
        }
    }
}
