//! `host-agent install|uninstall|status`: the daemon as a service of the user's: a launchd agent on a Mac, a systemd unit
//! elsewhere. What is to be done is planned here and carried out by [`steps`](crate::steps).

mod launchd;
mod status;
mod systemd;

use std::path::{Path, PathBuf};

use crate::steps::Step;

pub use status::Overview;

/// Which service manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// macOS.
    Launchd,
    /// Linux.
    Systemd,
}

/// Where everything of the service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    manager: Manager,
    home: PathBuf,
    uid: u32,
    /// What is started.
    pub program: PathBuf,
    /// What it reads.
    pub config: PathBuf,
}

/// Why there can be no service.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Nobody's home.
    #[error("HOME is not set: a service belongs to a user")]
    NoHome,
    /// Nobody to start it.
    #[error(
        "no systemd runs here (there is no /run/systemd/system); have what starts your services run \
         `host-agent serve --config {}`",
        .0.display()
    )]
    NoSystemd(PathBuf),
    /// A service that starts as root is none of these.
    #[error("this is root's account: install it as the user whose VMs it serves")]
    Root,
}

impl Service {
    /// The caller's own, on this system.
    pub fn own(program: Option<PathBuf>, config: Option<PathBuf>) -> Result<Self, ServiceError> {
        let home = std::env::home_dir().filter(|home| home.is_absolute()).ok_or(ServiceError::NoHome)?;
        let uid = rustix::process::getuid().as_raw();
        let program = program.or_else(|| std::env::current_exe().ok()).unwrap_or_else(|| "host-agent".into());
        Ok(Self::of(crate::sys::MANAGER, home, uid, program, config))
    }

    fn of(manager: Manager, home: PathBuf, uid: u32, program: PathBuf, config: Option<PathBuf>) -> Self {
        let config = config.unwrap_or_else(|| config_in(manager, &home));
        Self { manager, home, uid, program, config }
    }

    /// Whether this machine can have one.
    pub fn check(&self) -> Result<(), ServiceError> {
        if self.uid == 0 {
            return Err(ServiceError::Root);
        }
        if self.manager == Manager::Systemd && !Path::new("/run/systemd/system").is_dir() {
            return Err(ServiceError::NoSystemd(self.config.clone()));
        }
        Ok(())
    }

    /// Defines and starts it; what runs already is stopped first, so that a new version takes its place.
    pub fn install(&self) -> Vec<Step> {
        match self.manager {
            Manager::Launchd => launchd::install(self),
            Manager::Systemd => systemd::install(self),
        }
    }

    /// Stops and forgets it. The config file and logs stay.
    pub fn uninstall(&self) -> Vec<Step> {
        match self.manager {
            Manager::Launchd => launchd::uninstall(self),
            Manager::Systemd => systemd::uninstall(self),
        }
    }

    /// The file that defines it.
    pub fn definition(&self) -> PathBuf {
        match self.manager {
            Manager::Launchd => launchd::definition(self),
            Manager::Systemd => systemd::definition(self),
        }
    }

    /// Where its log is, for people.
    pub fn log(&self) -> String {
        match self.manager {
            Manager::Launchd => launchd::log(self).display().to_string(),
            Manager::Systemd => format!("journalctl --user --unit {}", systemd::UNIT),
        }
    }
}

fn config_in(manager: Manager, home: &Path) -> PathBuf {
    home.join(match manager {
        Manager::Launchd => "Library/Application Support/desktopstream/host-agent.toml",
        Manager::Systemd => ".config/desktopstream/host-agent.toml",
    })
}

/// The config file of the caller's, unless another is named.
pub fn default_config() -> Result<PathBuf, ServiceError> {
    let home = std::env::home_dir().filter(|home| home.is_absolute()).ok_or(ServiceError::NoHome)?;
    Ok(config_in(crate::sys::MANAGER, &home))
}

#[cfg(test)]
pub(crate) fn example(manager: Manager) -> Service {
    Service::of(manager, "/Users/a".into(), 501, "/opt/homebrew/bin/host-agent".into(), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_it_and_root_does_not() {
        let root = Service { uid: 0, ..example(Manager::Launchd) };
        assert!(matches!(root.check(), Err(ServiceError::Root)));
        assert!(example(Manager::Launchd).check().is_ok());
        let without = example(Manager::Systemd).check();
        if !Path::new("/run/systemd/system").is_dir() {
            let refused = without.expect_err("no systemd").to_string();
            assert!(refused.contains("host-agent serve --config /Users/a/.config"), "{refused}");
        }
    }

    #[test]
    fn what_was_installed_is_what_is_removed() {
        for manager in [Manager::Launchd, Manager::Systemd] {
            let service = example(manager);
            let defined = service.definition();
            assert!(
                service.install().iter().any(|step| matches!(step, Step::Write(path, _) if *path == defined))
            );
            assert!(service.uninstall().contains(&Step::Remove(defined)));
            let keeps = |steps: &[Step]| !steps.contains(&Step::Remove(service.config.clone()));
            assert!(keeps(&service.uninstall()), "the config is the user's");
        }
    }
}
