//! `doctor`: of the Engine and its machine, or of a stream's sidecar.

use anyhow::{Context as _, Result, bail};
use bollard::exec::{CreateExecOptions, StartExecResults};
use contract::doctor::{Check, Report};

use super::{Commands, print_output};
use crate::container::State;
use crate::machine::Machine;
use crate::names::Role;

impl Commands {
    /// `doctor NAME`: runs the sidecar's doctor in its container, with the sidecar's own options. Returns its exit code.
    pub async fn sidecar_doctor(&self, name: &str, json: bool) -> Result<u8> {
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
        let engine = match self.engine.version().await {
            Ok(version) => Check::ok("engine", version),
            Err(error) => Check::failed("engine", error.to_string(), ""),
        };
        let report =
            Report::new(vec![engine, gpu(machine), self.sidecar_image(image).await, self.operator()]);
        if json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            println!("{report}");
        }
        Ok(u8::from(!report.ok))
    }

    async fn sidecar_image(&self, image: &str) -> Check {
        let name = "sidecar image";
        match self.engine.has_image(image).await {
            Ok(true) => Check::ok(name, image),
            Ok(false) => Check::skipped(name, format!("{image} is not present and will be pulled"))
                .with_remedy("build or pull it, or set --sidecar-image"),
            Err(error) => Check::skipped(name, error.to_string()),
        }
    }

    fn operator(&self) -> Check {
        let project = &self.project;
        if self.folder.is_locked() {
            Check::ok("operator", format!("runs for project {project}"))
        } else {
            Check::skipped("operator", format!("none runs for project {project}"))
                .with_remedy("start one with `operator docker --dir FOLDER`")
        }
    }
}

fn gpu(machine: &Machine) -> Check {
    let gpus = machine.gpus();
    if gpus.is_empty() {
        return Check::skipped("gpu", "no GPU with a known driver in /sys/class/drm")
            .with_remedy("set --gpu, or set spec.gpu.count to 0");
    }
    let list = gpus.iter().map(|gpu| format!("{} ({}, group {})", gpu.render, gpu.driver, gpu.render_gid));
    Check::ok("gpu", list.collect::<Vec<_>>().join(", "))
}
