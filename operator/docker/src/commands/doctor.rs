//! `doctor`: of the Engine and its machine, or of a stream's sidecar.

use anyhow::{Context as _, Result, bail};
use bollard::exec::{CreateExecOptions, StartExecResults};
use contract::StreamName;
use contract::doctor::checks::{ENGINE, GPU, IMAGE, OPERATOR};
use contract::doctor::{Check, Report, checks};

use super::{Commands, print_output};
use crate::container::State;
use crate::machine::Machine;
use crate::names::Role;

impl Commands {
    /// `doctor NAME`: runs the sidecar's doctor in its container, with the sidecar's own options. Returns its exit code.
    pub async fn sidecar_doctor(&self, name: &StreamName, json: bool) -> Result<u8> {
        let sidecar = self.container(name, Role::Sidecar).await?;
        if sidecar.state != State::Running {
            bail!("{name}'s sidecar does not run; see `operator docker logs {name}`");
        }
        let args = self.engine.inspect(&sidecar.id).await?.config.and_then(|config| config.cmd);
        let mut command: Vec<String> = ["sidecar", "doctor"].map(str::to_owned).into();
        command.extend(operator_sidecar_client::doctor_options(args.unwrap_or_default()));
        command.extend(json.then(|| "--json".to_owned()));
        let docker = self.engine.client().await?;
        let options = CreateExecOptions {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(command),
            ..CreateExecOptions::default()
        };
        let failed = "cannot run the sidecar's doctor";
        let exec = docker.create_exec(&sidecar.id, options).await.context(failed)?;
        match docker.start_exec(&exec.id, None).await.context(failed)? {
            StartExecResults::Attached { output, .. } => print_output(output).await?,
            StartExecResults::Detached => bail!("{failed}: the Engine returned no output"),
        }
        let ended = docker.inspect_exec(&exec.id).await?;
        Ok(u8::try_from(ended.exit_code.unwrap_or(1)).unwrap_or(1))
    }

    /// `doctor`: checks the Engine and its machine. Returns the exit code: 1 if the Engine is unreachable, else 0.
    pub async fn engine_doctor(&self, machine: &Machine, image: &str, json: bool) -> Result<u8> {
        let report = self.report(machine, image).await;
        if json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            println!("{report}");
        }
        Ok(u8::from(!report.ok))
    }

    async fn report(&self, machine: &Machine, image: &str) -> Report {
        let engine = match self.engine.version().await {
            Ok(version) => Check::ok(ENGINE, version),
            Err(error) => Check::failed(ENGINE, error.to_string(), checks::remedy(ENGINE)),
        };
        Report::new(vec![engine, gpu(machine), self.sidecar_image(image).await, self.operator()])
    }

    async fn sidecar_image(&self, image: &str) -> Check {
        match self.engine.image(image).await {
            Ok(Some(_)) => Check::ok(IMAGE, image),
            Ok(None) => skipped(IMAGE, format!("{image} is not present and will be pulled")),
            Err(error) => Check::skipped(IMAGE, error.to_string()),
        }
    }

    fn operator(&self) -> Check {
        let project = &self.project;
        if self.folder.is_locked() {
            Check::ok(OPERATOR, format!("runs for project {project}"))
        } else {
            skipped(OPERATOR, format!("none runs for project {project} with this state folder"))
        }
    }
}

/// A check that is not required to pass, with its default remedy.
fn skipped(name: &'static str, detail: impl Into<String>) -> Check {
    Check::skipped(name, detail).with_remedy(checks::remedy(name))
}

fn gpu(machine: &Machine) -> Check {
    let gpus = machine.gpus();
    if gpus.is_empty() {
        return skipped(GPU, "no GPU with a known driver in /sys/class/drm");
    }
    let list = gpus.iter().map(|gpu| format!("{} ({}, group {})", gpu.render, gpu.driver, gpu.render_gid));
    Check::ok(GPU, list.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use operator_discovery::gpus::Roots;

    use super::*;

    #[tokio::test]
    async fn checks_have_the_documented_names_and_remedies() {
        let state = tempfile::tempdir().expect("a folder");
        let engine = Some("unix:///nowhere/docker.sock".to_owned());
        let commands = Commands::new("p".parse().expect("a project"), state.path(), engine).expect("opens");
        let roots = Roots { dev: "/nowhere".into(), sys: "/nowhere".into(), more_drivers: Vec::new() };
        let machine = Machine { name: "m".to_owned(), roots, configured: Vec::new() };
        let report = commands.report(&machine, "i").await;
        let documented = checks::ALL.iter().filter(|check| check.run_by == "operator docker doctor");
        let found: Vec<&str> = report.checks.iter().map(|check| check.name.as_str()).collect();
        assert_eq!(found, [ENGINE, GPU, IMAGE, OPERATOR]);
        assert_eq!(documented.count(), found.len());
        for check in report.checks.iter().filter(|check| check.name != IMAGE) {
            assert_eq!(check.remedy, checks::remedy(&check.name), "{check:?}");
        }
    }
}
