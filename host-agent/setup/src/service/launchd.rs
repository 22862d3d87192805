//! A launchd agent: in the user's session, started at login and again when it fails.

use std::path::PathBuf;

use super::Service;
use crate::steps::Step;

/// What launchd calls it.
const LABEL: &str = "dev.desktopstream.host-agent";

pub(super) fn definition(service: &Service) -> PathBuf {
    service.home.join("Library/LaunchAgents").join(format!("{LABEL}.plist"))
}

/// Where a Mac's user looks, and Console.app shows.
pub(super) fn log(service: &Service) -> PathBuf {
    service.home.join("Library/Logs/desktopstream/host-agent.log")
}

/// What is said before there is a log, and by what ends the program: launchd writes it.
fn stderr(service: &Service) -> PathBuf {
    log(service).with_extension("stderr.log")
}

fn domain(service: &Service) -> String {
    format!("gui/{}", service.uid)
}

fn launchctl(words: &[&str]) -> Vec<String> {
    std::iter::once("/bin/launchctl").chain(words.iter().copied()).map(str::to_owned).collect()
}

/// What tells its state.
pub(super) fn asks(service: &Service) -> Vec<String> {
    launchctl(&["print", &format!("{}/{LABEL}", domain(service))])
}

/// Out of what `launchctl print` says.
pub(super) fn state(said: &str) -> Option<&str> {
    said.lines().find_map(|line| line.trim().strip_prefix("state = "))
}

pub(super) fn install(service: &Service) -> Vec<Step> {
    let (file, log) = (definition(service), log(service));
    let parent = |path: &PathBuf| path.parent().map(PathBuf::from).unwrap_or_default();
    vec![
        Step::Folder(parent(&file)),
        Step::Folder(parent(&log)),
        // Fails when none is loaded. Without it launchd would keep the old definition.
        Step::Try(launchctl(&["bootout", &format!("{}/{LABEL}", domain(service))])),
        Step::Write(file.clone(), plist(service)),
        Step::Run(launchctl(&["bootstrap", &domain(service), &file.display().to_string()])),
    ]
}

pub(super) fn uninstall(service: &Service) -> Vec<Step> {
    vec![
        Step::Try(launchctl(&["bootout", &format!("{}/{LABEL}", domain(service))])),
        Step::Remove(definition(service)),
    ]
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn plist(service: &Service) -> String {
    let string = |text: &str| format!("<string>{}</string>", escaped(text));
    let words = [
        &service.program.display().to_string(),
        "serve",
        "--config",
        &service.config.display().to_string(),
        // Not launchd's own, which grows for ever.
        "--log-file",
        &log(service).display().to_string(),
    ];
    let arguments = words.iter().map(|word| string(word)).collect::<Vec<_>>().join("\n\t\t");
    let stderr = string(&stderr(service).display().to_string());
    // Interactive: launchd slows other agents' timers down, and a stream is looked at by somebody.
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
         <plist version=\"1.0\">\n<dict>\n\
         \t<key>Label</key>\n\t{}\n\
         \t<key>ProgramArguments</key>\n\t<array>\n\t\t{arguments}\n\t</array>\n\
         \t<key>RunAtLoad</key>\n\t<true/>\n\
         \t<key>KeepAlive</key>\n\t<dict>\n\t\t<key>SuccessfulExit</key>\n\t\t<false/>\n\t</dict>\n\
         \t<key>ThrottleInterval</key>\n\t<integer>5</integer>\n\
         \t<key>ProcessType</key>\n\t<string>Interactive</string>\n\
         \t<key>StandardOutPath</key>\n\t{stderr}\n\
         \t<key>StandardErrorPath</key>\n\t{stderr}\n\
         </dict>\n</plist>\n",
        string(LABEL)
    )
}

#[cfg(test)]
mod tests {
    use super::super::{Manager, example};
    use super::*;

    #[test]
    fn the_plist_starts_the_daemon_with_its_config_and_log() {
        let text = plist(&example(Manager::Launchd));
        for part in [
            "<string>dev.desktopstream.host-agent</string>",
            "<string>/opt/homebrew/bin/host-agent</string>\n\t\t<string>serve</string>\n\t\t<string>--config</string>\n",
            "<string>/Users/a/Library/Application Support/desktopstream/host-agent.toml</string>",
            "<string>--log-file</string>\n\t\t<string>/Users/a/Library/Logs/desktopstream/host-agent.log</string>",
            "<key>StandardErrorPath</key>\n\t<string>/Users/a/Library/Logs/desktopstream/host-agent.stderr.log</string>",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let odd = Service { program: "/Users/a/R&D <x>/host-agent".into(), ..example(Manager::Launchd) };
        assert!(plist(&odd).contains("<string>/Users/a/R&amp;D &lt;x&gt;/host-agent</string>"));
        // Each element is closed, and in its order.
        let mut open = Vec::new();
        for tag in text.split('<').skip(1).filter_map(|rest| rest.split_once('>')).map(|(tag, _)| tag) {
            if let Some(closed) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(closed));
            } else if !tag.starts_with(['?', '!']) && !tag.ends_with('/') {
                open.push(tag.split(' ').next().unwrap_or(tag));
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn an_upgrade_stops_what_runs_before_it_starts_the_new() {
        let steps = install(&example(Manager::Launchd));
        let at =
            |wanted: &str| steps.iter().position(|step| step.to_string().contains(wanted)).expect(wanted);
        assert!(at("bootout gui/501/dev.desktopstream.host-agent") < at("LaunchAgents/dev.desktopstream"));
        assert!(
            at("write")
                < at("bootstrap gui/501 /Users/a/Library/LaunchAgents/dev.desktopstream.host-agent.plist")
        );
    }

    #[test]
    fn the_state_is_read_out_of_what_launchctl_prints() {
        let said =
            "gui/501/dev.desktopstream.host-agent = {\n\tactive count = 1\n\tstate = running\n\n\tpid = 7\n}";
        assert_eq!(state(said), Some("running"));
        assert_eq!(state("Could not find service"), None);
    }
}
