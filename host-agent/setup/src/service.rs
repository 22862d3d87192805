//! host-agent as a service of the user: a launchd agent on macOS, a systemd user unit on Linux.
//!
//! Installation and removal are planned as [actions](crate::install_plan).

mod launchd;
mod systemd;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::install_plan::Action;
use crate::sys;

/// Folder that exists exactly if systemd is the running init system (sd_booted(3)).
const SYSTEMD_RUNTIME: &str = "/run/systemd/system";

/// A service manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// launchd(8) of macOS.
    Launchd,
    /// systemd(1) of Linux.
    Systemd,
}

/// The service of one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    manager: Manager,
    home: PathBuf,
    uid: u32,
    /// Path of host-agent.
    pub program: PathBuf,
    /// Path of its configuration file.
    pub config: PathBuf,
}

/// Reason why the service cannot be installed.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The user's home folder is unknown.
    #[error("HOME is not set; run as the user that the service belongs to")]
    NoHome,
    /// systemd does not run.
    #[error(
        "systemd does not run here ({SYSTEMD_RUNTIME} is missing); let your own supervisor run \
         `host-agent serve --config {}`",
        .0.display()
    )]
    NoSystemd(PathBuf),
    /// The user is root.
    #[error("root cannot have the service; install it as the user that runs the VMs")]
    Root,
}

/// State of the service as its manager reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceState {
    /// Its definition does not exist.
    NotInstalled,
    /// Its definition exists, and the manager has not loaded it.
    NotLoaded,
    /// State in the manager's terms, such as `running` or `active`.
    Reported(String),
    /// The manager did not answer.
    Unknown(String),
}

impl fmt::Display for ServiceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInstalled => f.write_str("not installed"),
            Self::NotLoaded => f.write_str("installed, not loaded"),
            Self::Reported(state) => f.write_str(state),
            Self::Unknown(reason) => write!(f, "unknown: {reason}"),
        }
    }
}

impl Service {
    /// The service of the current user on this system. `program` defaults to the running executable,
    /// `config` to [`default_config`].
    ///
    /// # Errors
    /// The home folder is unknown.
    pub fn of_current_user(program: Option<PathBuf>, config: Option<PathBuf>) -> Result<Self, ServiceError> {
        let home = std::env::home_dir().filter(|home| home.is_absolute()).ok_or(ServiceError::NoHome)?;
        let uid = rustix::process::getuid().as_raw();
        let program = program.or_else(|| std::env::current_exe().ok()).unwrap_or_else(|| "host-agent".into());
        Ok(Self::new(sys::MANAGER, home, uid, program, config))
    }

    fn new(manager: Manager, home: PathBuf, uid: u32, program: PathBuf, config: Option<PathBuf>) -> Self {
        let config = config.unwrap_or_else(|| config_in(manager, &home));
        Self { manager, home, uid, program, config }
    }

    /// Checks that this user and this machine can have the service.
    ///
    /// # Errors
    /// The user is root, or systemd does not run on a system that needs it.
    pub fn check(&self) -> Result<(), ServiceError> {
        self.check_with(Path::new(SYSTEMD_RUNTIME))
    }

    fn check_with(&self, systemd_runtime: &Path) -> Result<(), ServiceError> {
        if self.uid == 0 {
            return Err(ServiceError::Root);
        }
        if self.manager == Manager::Systemd && !systemd_runtime.is_dir() {
            return Err(ServiceError::NoSystemd(self.config.clone()));
        }
        Ok(())
    }

    /// Plans the installation and start. A running instance is stopped first, so that an upgrade takes
    /// effect.
    pub fn install(&self) -> Vec<Action> {
        match self.manager {
            Manager::Launchd => launchd::install(self),
            Manager::Systemd => systemd::install(self),
        }
    }

    /// Plans the stop and removal. Configuration and logs are kept.
    pub fn uninstall(&self) -> Vec<Action> {
        match self.manager {
            Manager::Launchd => launchd::uninstall(self),
            Manager::Systemd => systemd::uninstall(self),
        }
    }

    /// Path of the service's definition: a property list or a unit.
    pub fn definition(&self) -> PathBuf {
        match self.manager {
            Manager::Launchd => launchd::definition(self),
            Manager::Systemd => systemd::definition(self),
        }
    }

    /// Location of the log: a path, or the command that prints it.
    pub fn log(&self) -> String {
        match self.manager {
            Manager::Launchd => launchd::log(self).display().to_string(),
            Manager::Systemd => format!("journalctl --user --unit {}", systemd::UNIT),
        }
    }

    /// Queries the service manager for the service's state.
    pub fn state(&self) -> ServiceState {
        if !self.definition().exists() {
            return ServiceState::NotInstalled;
        }
        let query = match self.manager {
            Manager::Launchd => launchd::query(self),
            Manager::Systemd => systemd::query(),
        };
        let Some((program, arguments)) = query.split_first() else {
            return ServiceState::Unknown("no query".to_owned());
        };
        let output = match Command::new(program).args(arguments).stdin(Stdio::null()).output() {
            Ok(output) => output,
            Err(error) => return ServiceState::Unknown(format!("{program}: {error}")),
        };
        let stdout = String::from_utf8_lossy(&output.stdout);
        let (state, absent) = match self.manager {
            Manager::Launchd => (launchd::state(&stdout), ServiceState::NotLoaded),
            Manager::Systemd => {
                (systemd::state(&stdout), ServiceState::Unknown("systemd does not answer".to_owned()))
            }
        };
        state.map_or(absent, |state| ServiceState::Reported(state.to_owned()))
    }
}

fn config_in(manager: Manager, home: &Path) -> PathBuf {
    home.join(match manager {
        Manager::Launchd => "Library/Application Support/desktopstream/host-agent.toml",
        Manager::Systemd => ".config/desktopstream/host-agent.toml",
    })
}

/// Default path of the current user's configuration file.
///
/// # Errors
/// The home folder is unknown.
pub fn default_config() -> Result<PathBuf, ServiceError> {
    let home = std::env::home_dir().filter(|home| home.is_absolute()).ok_or(ServiceError::NoHome)?;
    Ok(config_in(sys::MANAGER, &home))
}

#[cfg(test)]
pub(crate) fn example(manager: Manager) -> Service {
    Service::new(manager, "/Users/a".into(), 501, "/opt/homebrew/bin/host-agent".into(), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_refused() {
        for manager in [Manager::Launchd, Manager::Systemd] {
            let root = Service { uid: 0, ..example(manager) };
            assert!(matches!(root.check(), Err(ServiceError::Root)));
        }
    }

    #[test]
    fn systemd_service_needs_a_running_systemd() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let missing = folder.path().join("missing");
        assert!(example(Manager::Systemd).check_with(folder.path()).is_ok());
        let error = example(Manager::Systemd).check_with(&missing).expect_err("systemd does not run");
        assert!(error.to_string().contains("host-agent serve --config /Users/a/.config"), "{error}");
    }

    #[test]
    fn launchd_service_does_not_need_systemd() {
        assert!(example(Manager::Launchd).check_with(Path::new("/missing")).is_ok());
    }

    #[test]
    fn uninstall_removes_the_installed_definition_and_keeps_the_config() {
        for manager in [Manager::Launchd, Manager::Systemd] {
            let service = example(manager);
            let definition = service.definition();
            let writes =
                |action: &Action| matches!(action, Action::WriteFile { path, .. } if *path == definition);
            assert!(service.install().iter().any(writes));
            assert!(service.uninstall().contains(&Action::Remove(definition)));
            assert!(!service.uninstall().contains(&Action::Remove(service.config.clone())));
        }
    }

    #[test]
    fn service_without_a_definition_is_not_installed() {
        assert_eq!(example(Manager::Systemd).state(), ServiceState::NotInstalled);
        assert_eq!(example(Manager::Launchd).state().to_string(), "not installed");
    }
}
