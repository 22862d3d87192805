//! Commands that install, configure and inspect: `install`, `uninstall`, `status`, `config` and `tap`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use host_agent_setup::application::{self, Application, Tools};
use host_agent_setup::install_plan::{self, Action};
use host_agent_setup::launch::library_beside;
use host_agent_setup::service::{Service, default_config};

use super::overview::Overview;
use crate::config::Options;
use crate::{config_file, tls_key};

/// File name of the drop-in form of the tap.
const DROP_IN_FILE: &str = "libvirglrenderer.1.dylib";

/// Executes a plan, or prints it.
fn execute(plan: &[Action], dry_run: bool) -> Result<()> {
    if !dry_run {
        return Ok(install_plan::execute(plan)?);
    }
    for action in plan {
        println!("would {action}");
    }
    Ok(())
}

pub(super) fn install(program: Option<PathBuf>, config: Option<PathBuf>, dry_run: bool) -> Result<ExitCode> {
    let service = Service::of_current_user(program, config)?;
    if !dry_run {
        service.check()?;
        config_file::check(&service.config).with_context(|| {
            format!(
                "{} is not usable; create it with `host-agent config init`, or correct it",
                service.config.display()
            )
        })?;
    }
    execute(&service.install(), dry_run)?;
    if !dry_run {
        println!("installed {}; run `host-agent status` to see its state", service.definition().display());
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn uninstall(dry_run: bool) -> Result<ExitCode> {
    execute(&Service::of_current_user(None, None)?.uninstall(), dry_run)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn status(json: bool, config: Option<PathBuf>) -> Result<ExitCode> {
    let service = Service::of_current_user(None, config)?;
    // A missing file is reported, not an error.
    let options = if service.config.exists() { Options::read(&service.config)? } else { Options::default() };
    let overview = Overview::new(&service, &options);
    if json {
        println!("{}", serde_json::to_string_pretty(&overview)?);
    } else {
        println!("{overview}");
    }
    Ok(if overview.daemon.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) fn fingerprint(config: Option<PathBuf>, tls_key: Option<PathBuf>) -> Result<ExitCode> {
    let file = match config {
        Some(path) => Options::read(&path)?,
        None => match default_config().ok().filter(|path| path.exists()) {
            Some(path) => Options::read(&path)?,
            None => Options::default(),
        },
    };
    let options = Options { tls_key, ..Options::default() }.or(file);
    println!("{}", tls_key::load_or_create(&options.tls_key_path())?.fingerprint());
    Ok(ExitCode::SUCCESS)
}

fn config_path(config: Option<PathBuf>) -> Result<PathBuf> {
    config.map_or_else(|| Ok(default_config()?), Ok)
}

pub(super) fn init_config(config: Option<PathBuf>, keys: &[PathBuf]) -> Result<ExitCode> {
    let path = config_path(config)?;
    config_file::init(&path, keys)?;
    println!("{}", path.display());
    Ok(ExitCode::SUCCESS)
}

pub(super) fn check_config(config: Option<PathBuf>) -> Result<ExitCode> {
    let path = config_path(config)?;
    let settings = config_file::check(&path)?;
    println!("{} is valid", path.display());
    for endpoint in settings.listen.iter().chain(&settings.hxfr) {
        println!("sidecars connect to {endpoint}");
    }
    println!("taps connect to {}", settings.link.display());
    println!("HTTP is served at {}", settings.admin);
    Ok(ExitCode::SUCCESS)
}

fn find_application(name: &str) -> Result<Application> {
    let backups = default_config()?.with_file_name("backup");
    Ok(Application::find(name, &application::folders(), &backups, Tools::default())?)
}

pub(super) fn install_tap(name: &str, drop_in: Option<PathBuf>, dry_run: bool) -> Result<ExitCode> {
    let drop_in =
        drop_in.unwrap_or_else(|| library_beside(std::env::current_exe().ok().as_deref(), DROP_IN_FILE));
    let application = find_application(name)?;
    let plan = application.install(&drop_in)?;
    let outcome = execute(&plan, dry_run);
    if outcome.is_err() && application.has_backup() {
        install_plan::execute(&application.restore()).context("restoring the backup failed, too")?;
        return outcome.context("the application was restored from its backup").map(|()| ExitCode::FAILURE);
    }
    outcome.map(|()| ExitCode::SUCCESS)
}

pub(super) fn uninstall_tap(name: &str, dry_run: bool) -> Result<ExitCode> {
    execute(&find_application(name)?.uninstall()?, dry_run)?;
    Ok(ExitCode::SUCCESS)
}
