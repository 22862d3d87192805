//! A launchd agent: runs in the user's session, started at login, restarted after a failure
//! (launchd.plist(5)).

use std::path::{Path, PathBuf};

use plist::{Dictionary, Value};

use super::Service;
use crate::install_plan::Action;

/// Label of the agent.
const LABEL: &str = "dev.desktopstream.host-agent";
/// Least interval between two starts, seconds.
const THROTTLE_INTERVAL: i64 = 5;

pub(super) fn definition(service: &Service) -> PathBuf {
    service.home.join("Library/LaunchAgents").join(format!("{LABEL}.plist"))
}

/// The daemon's log, in the folder that Console.app shows.
pub(super) fn log(service: &Service) -> PathBuf {
    service.home.join("Library/Logs/desktopstream/host-agent.log")
}

/// Output that does not pass through the log: errors before it is open, and crashes. launchd writes this
/// file.
fn stderr(service: &Service) -> PathBuf {
    log(service).with_extension("stderr.log")
}

/// launchd's domain of the user's graphical session.
fn domain(service: &Service) -> String {
    format!("gui/{}", service.uid)
}

fn target(service: &Service) -> String {
    format!("{}/{LABEL}", domain(service))
}

fn launchctl(arguments: &[&str]) -> Vec<String> {
    std::iter::once("/bin/launchctl").chain(arguments.iter().copied()).map(str::to_owned).collect()
}

/// The command that prints the agent's state.
pub(super) fn query(service: &Service) -> Vec<String> {
    launchctl(&["print", &target(service)])
}

/// The agent's state in the output of [`query`]; `None` if it is not loaded.
pub(super) fn state(stdout: &str) -> Option<&str> {
    stdout.lines().find_map(|line| line.trim().strip_prefix("state = "))
}

pub(super) fn install(service: &Service) -> Vec<Action> {
    let (file, log) = (definition(service), log(service));
    let parent = |path: &Path| path.parent().map(PathBuf::from).unwrap_or_default();
    vec![
        Action::CreateFolder(parent(&file)),
        Action::CreateFolder(parent(&log)),
        // Fails if the agent is not loaded. launchd keeps the definition of a loaded agent.
        Action::RunIgnoringFailure(launchctl(&["bootout", &target(service)])),
        Action::WriteFile { path: file.clone(), contents: xml(&property_list(service)) },
        Action::Run(launchctl(&["bootstrap", &domain(service), &file.display().to_string()])),
    ]
}

pub(super) fn uninstall(service: &Service) -> Vec<Action> {
    vec![
        Action::RunIgnoringFailure(launchctl(&["bootout", &target(service)])),
        Action::Remove(definition(service)),
    ]
}

fn property_list(service: &Service) -> Value {
    let path = |path: &Path| path.display().to_string();
    let arguments = [
        path(&service.program),
        "serve".to_owned(),
        "--config".to_owned(),
        path(&service.config),
        // The daemon rotates its log; launchd does not rotate StandardErrorPath.
        "--log-file".to_owned(),
        path(&log(service)),
    ];
    let keep_alive = Dictionary::from_iter([("SuccessfulExit", false)]);
    let mut agent = Dictionary::new();
    agent.insert("Label".to_owned(), LABEL.into());
    agent.insert("ProgramArguments".to_owned(), Value::Array(arguments.map(Value::from).into()));
    agent.insert("RunAtLoad".to_owned(), true.into());
    agent.insert("KeepAlive".to_owned(), keep_alive.into());
    agent.insert("ThrottleInterval".to_owned(), THROTTLE_INTERVAL.into());
    // launchd coalesces the timers of other agents, which delays frames.
    agent.insert("ProcessType".to_owned(), "Interactive".into());
    agent.insert("StandardOutPath".to_owned(), path(&stderr(service)).into());
    agent.insert("StandardErrorPath".to_owned(), path(&stderr(service)).into());
    agent.into()
}

fn xml(list: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Fails only if the writer does, and a Vec does not.
    let _infallible = list.to_writer_xml(&mut bytes);
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::{Manager, example};
    use super::*;

    /// The agent's definition as launchd reads it.
    fn parsed(service: &Service) -> Dictionary {
        let Some(Action::WriteFile { contents, .. }) =
            install(service).into_iter().find(|action| matches!(action, Action::WriteFile { .. }))
        else {
            panic!("the plan writes no file")
        };
        let list = Value::from_reader_xml(&contents[..]).expect("a property list");
        list.into_dictionary().expect("a dictionary")
    }

    fn strings(value: &Value) -> Vec<&str> {
        let array = value.as_array().expect("an array");
        array.iter().map(|value| value.as_string().expect("a string")).collect()
    }

    #[test]
    fn agent_starts_the_daemon_with_its_config_and_log_files() {
        let agent = parsed(&example(Manager::Launchd));
        assert_eq!(agent["Label"].as_string(), Some("dev.desktopstream.host-agent"));
        assert_eq!(
            strings(&agent["ProgramArguments"]),
            [
                "/opt/homebrew/bin/host-agent",
                "serve",
                "--config",
                "/Users/a/Library/Application Support/desktopstream/host-agent.toml",
                "--log-file",
                "/Users/a/Library/Logs/desktopstream/host-agent.log",
            ]
        );
        for key in ["StandardOutPath", "StandardErrorPath"] {
            let path = "/Users/a/Library/Logs/desktopstream/host-agent.stderr.log";
            assert_eq!(agent[key].as_string(), Some(path));
        }
    }

    #[test]
    fn agent_is_started_at_login_and_after_a_failure() {
        let agent = parsed(&example(Manager::Launchd));
        assert_eq!(agent["RunAtLoad"].as_boolean(), Some(true));
        let keep_alive = agent["KeepAlive"].as_dictionary().expect("a dictionary");
        assert_eq!(keep_alive["SuccessfulExit"].as_boolean(), Some(false));
        assert_eq!(agent["ThrottleInterval"].as_signed_integer(), Some(THROTTLE_INTERVAL));
        assert_eq!(agent["ProcessType"].as_string(), Some("Interactive"));
    }

    #[test]
    fn special_characters_of_a_path_survive() {
        let program = "/Users/a/R&D <x> \"y\"/host-agent";
        let agent = parsed(&Service { program: program.into(), ..example(Manager::Launchd) });
        assert_eq!(strings(&agent["ProgramArguments"])[0], program);
    }

    #[test]
    fn upgrade_unloads_the_running_agent_before_it_loads_the_new_one() {
        let plan = install(&example(Manager::Launchd));
        let position =
            |part: &str| plan.iter().position(|action| action.to_string().contains(part)).expect(part);
        let definition = "/Users/a/Library/LaunchAgents/dev.desktopstream.host-agent.plist";
        let unload = position("bootout gui/501/dev.desktopstream.host-agent");
        let write = position(&format!("write {definition}"));
        let load = position(&format!("bootstrap gui/501 {definition}"));
        assert!(unload < write && write < load);
    }

    #[test]
    fn state_is_parsed_from_the_output_of_launchctl() {
        let stdout =
            "gui/501/dev.desktopstream.host-agent = {\n\tactive count = 1\n\tstate = running\n\n\tpid = 7\n}";
        assert_eq!(state(stdout), Some("running"));
        assert_eq!(state("Could not find service"), None);
    }
}
