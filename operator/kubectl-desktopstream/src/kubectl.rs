//! Runs `kubectl` with the options that were given to the plugin.

use std::process::{Command, ExitCode, Output, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use operator_api::GROUP;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// kubectl's own options, which the plugin passes on.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Kubectl {
    /// Namespace [default: the context's]
    #[arg(short, long, global = true)]
    pub(crate) namespace: Option<String>,
    /// Context of the kubeconfig
    #[arg(long, global = true)]
    pub(crate) context: Option<String>,
    /// Path of the kubeconfig
    #[arg(long, global = true)]
    pub(crate) kubeconfig: Option<String>,
}

/// The part of the `APIGroupList` at `/apis` that we read.
#[derive(Deserialize)]
struct GroupList {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    name: String,
}

impl Kubectl {
    /// `kubectl` with the passed-on options, then `args`.
    pub(crate) fn command<S: AsRef<str>>(&self, args: &[S]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(self.options()).args(args.iter().map(AsRef::as_ref));
        command
    }

    fn options(&self) -> Vec<String> {
        let Self { namespace, context, kubeconfig } = self;
        let all = [("namespace", namespace), ("context", context), ("kubeconfig", kubeconfig)];
        all.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value.as_ref()?))).collect()
    }

    /// Runs kubectl with `-o json` and parses its output.
    pub(crate) fn get<T: DeserializeOwned>(&self, args: &[&str]) -> Result<T> {
        let output = self.output(&[args, &["-o", "json"]].concat())?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            if !self.may_have_streams() {
                bail!(
                    "{message}: desktopstream is not installed in this cluster; run `helm install` for its chart"
                );
            }
            bail!("{message}");
        }
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "`kubectl {}` printed an object of another version; use the plugin of the operator's version",
                args.join(" ")
            )
        })
    }

    /// False if the API server answers and does not serve our API group.
    fn may_have_streams(&self) -> bool {
        let output = self.output(&["get", "--raw=/apis"]).ok().filter(|it| it.status.success());
        let list = output.and_then(|it| serde_json::from_slice::<GroupList>(&it.stdout).ok());
        list.is_none_or(|list| list.groups.iter().any(|group| group.name == GROUP))
    }

    fn output(&self, args: &[&str]) -> Result<Output> {
        self.command(args).stdin(Stdio::null()).output().with_context(not_started)
    }

    /// Runs kubectl on our terminal and returns its exit code.
    pub(crate) fn run_attached(&self, args: &[String]) -> Result<ExitCode> {
        let status = self.command(args).status().with_context(not_started)?;
        Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
    }
}

/// Error text for a kubectl that cannot be started.
pub(crate) fn not_started() -> String {
    "cannot start kubectl; install it in a folder of PATH".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_on_options_precede_the_arguments() {
        let kubectl = Kubectl { namespace: Some("team".to_owned()), ..Kubectl::default() };
        let command = kubectl.command(&["get", "pods"]);
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        assert_eq!(words, ["--namespace=team", "get", "pods"]);
    }
}
