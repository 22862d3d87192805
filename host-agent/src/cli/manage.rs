//! The commands that install, remove and look: service, config file, applications.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use host_agent_setup::app::{self, App, Tools};
use crate::config::Options;
use crate::config_file;
use host_agent_setup::run::beside;
use host_agent_setup::service::{Overview, Service, default_config};
use host_agent_setup::steps::{self, Step};

/// Shows what would be done, or does it.
fn carry_out(steps: &[Step], dry_run: bool) -> Result<()> {
    if !dry_run {
        return Ok(steps::carry_out(steps)?);
    }
    for step in steps {
        println!("would {step}");
    }
    Ok(())
}

pub(super) fn install(program: Option<PathBuf>, config: Option<PathBuf>, dry_run: bool) -> Result<ExitCode> {
    let service = Service::own(program, config)?;
    if !dry_run {
        service.check()?;
        config_file::check(&service.config).with_context(|| {
            format!("{} is not ready; `host-agent config init` makes one", service.config.display())
        })?;
    }
    carry_out(&service.install(), dry_run)?;
    if !dry_run {
        println!("installed: {}; `host-agent status` says how it does", service.definition().display());
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn uninstall(dry_run: bool) -> Result<ExitCode> {
    let service = Service::own(None, None)?;
    carry_out(&service.uninstall(), dry_run)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn status(json: bool, config: Option<PathBuf>) -> Result<ExitCode> {
    let service = Service::own(None, config)?;
    // A file that is not there is part of what is told.
    let options = if service.config.exists() { Options::read(&service.config)? } else { Options::default() };
    let overview = Overview::of(&service, &options);
    if json {
        println!("{}", serde_json::to_string_pretty(&overview)?);
    } else {
        println!("{overview}");
    }
    Ok(if overview.daemon.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn chosen(config: Option<PathBuf>) -> Result<PathBuf> {
    config.map_or_else(|| Ok(default_config()?), Ok)
}

pub(super) fn init(config: Option<PathBuf>, keys: &[PathBuf]) -> Result<ExitCode> {
    let path = chosen(config)?;
    config_file::init(&path, keys)?;
    println!("{}", path.display());
    Ok(ExitCode::SUCCESS)
}

pub(super) fn check(config: Option<PathBuf>) -> Result<ExitCode> {
    let path = chosen(config)?;
    let settings = config_file::check(&path)?;
    println!("{} is good", path.display());
    for endpoint in settings.listen.iter().chain(&settings.hxfr) {
        println!("sidecars at {endpoint}");
    }
    println!("taps at {}", settings.link.display());
    println!("HTTP at {}", settings.admin);
    Ok(ExitCode::SUCCESS)
}

fn application(name: &str) -> Result<App> {
    let backups = default_config()?.with_file_name("backup");
    Ok(App::find(name, &app::folders(), &backups, Tools::default())?)
}

pub(super) fn tap_in(name: &str, drop_in: Option<PathBuf>, dry_run: bool) -> Result<ExitCode> {
    let drop_in = drop_in
        .unwrap_or_else(|| beside(std::env::current_exe().ok().as_deref(), "libvirglrenderer.1.dylib"));
    let app = application(name)?;
    let steps = app.install(Path::new(&drop_in))?;
    let carried = carry_out(&steps, dry_run);
    if carried.is_err() && app.has_backup() {
        steps::carry_out(&app.restore()).context("and the way back failed, too")?;
        return carried.context("the application is again what it was").map(|()| ExitCode::FAILURE);
    }
    carried?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn tap_out(name: &str, dry_run: bool) -> Result<ExitCode> {
    carry_out(&application(name)?.uninstall()?, dry_run)?;
    Ok(ExitCode::SUCCESS)
}
