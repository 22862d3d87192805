//! kubectl, with the options that it was given.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::de::DeserializeOwned;

/// Options that are kubectl's own.
#[derive(Debug, Clone, Default, Args)]
pub struct Kubectl {
    /// The namespace; the context's if left out
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// The context of the kubeconfig
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// The kubeconfig
    #[arg(long, global = true)]
    pub kubeconfig: Option<String>,
}

impl Kubectl {
    /// The command, with these words behind our options.
    pub fn command<S: AsRef<str>>(&self, words: &[S]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(self.options()).args(words.iter().map(AsRef::as_ref));
        command
    }

    fn options(&self) -> Vec<String> {
        let Self { namespace, context, kubeconfig } = self;
        let all = [("namespace", namespace), ("context", context), ("kubeconfig", kubeconfig)];
        all.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value.as_ref()?))).collect()
    }

    /// What it says, as JSON.
    pub fn ask<T: DeserializeOwned>(&self, words: &[&str]) -> Result<T> {
        let output = self.command(words).args(["-o", "json"]).stdin(Stdio::null()).output();
        let output = output.with_context(missing)?;
        if !output.status.success() {
            let says = String::from_utf8_lossy(&output.stderr);
            let says = says.trim();
            if says.contains("the server doesn't have a resource type") {
                bail!("{says}: desktopstream is not installed in this cluster; helm install brings it");
            }
            bail!("{says}");
        }
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!("kubectl {}: not what this version of the plugin knows", words.join(" "))
        })
    }

    /// Runs it with our terminal; its exit status is ours.
    pub fn hand_over(&self, words: &[String]) -> Result<ExitCode> {
        let status = self.command(words).status().with_context(missing)?;
        Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
    }
}

/// What to say when it can't be started.
pub fn missing() -> String {
    "can't start kubectl: have it in PATH".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_first() {
        let kubectl = Kubectl { namespace: Some("team".to_owned()), ..Kubectl::default() };
        let command = kubectl.command(&["get", "pods"]);
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        assert_eq!(words, ["--namespace=team", "get", "pods"]);
    }
}
