//! `snapshot`: the picture of now, as a file.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use super::cli::Stream;
use super::find;
use super::kubectl::Kubectl;
use super::reach::Way;
use operator_sidecar_client::{Limits, fetch};

/// A keyframe has to be waited for, decoded, and packed.
const LIMITS: Limits = Limits { patience: Duration::from_secs(30), longest: 256 << 20 };
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Writes it.
pub fn run(kubectl: &Kubectl, stream: &Stream, output: Option<PathBuf>) -> Result<()> {
    let target = find::target(kubectl, stream)?;
    let token = target.token(kubectl)?;
    let way = Way::to(kubectl, &target, 0)?;
    let runtime = tokio::runtime::Runtime::new().context("can't start the runtime")?;
    let url = format!("{}/snapshot.png", way.url());
    let answer = runtime.block_on(fetch(&url, token.as_deref(), LIMITS));
    let picture = answer.map_err(|error| anyhow!("{}", remedy(&error, &stream.name)))?;
    anyhow::ensure!(picture.starts_with(PNG), "what came is no PNG: is the pod's port 8080 the sidecar's?");
    let file = output.unwrap_or_else(|| PathBuf::from(format!("{}.png", stream.name)));
    if file == Path::new("-") {
        std::io::stdout().write_all(&picture)?;
        return Ok(());
    }
    std::fs::write(&file, &picture).with_context(|| format!("can't write {}", file.display()))?;
    println!("{}", file.display());
    Ok(())
}

fn remedy(error: &str, name: &str) -> String {
    let is = |code: &str| error.strip_prefix("HTTP ").is_some_and(|rest| rest.starts_with(code));
    if is("401") {
        return format!(
            "the sidecar refuses the token: delete the pod of {name}, the next one reads the Secret anew"
        );
    }
    if is("503") {
        return format!("there is no picture yet ({error}); kubectl desktopstream doctor {name} says why");
    }
    format!("no picture ({error}); kubectl desktopstream logs {name} may say why")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_remedy() {
        assert!(remedy("HTTP 503: none yet", "desk").contains("doctor desk"));
        assert!(remedy("HTTP 401", "desk").contains("token"));
        assert!(remedy("HTTP 501: no decoder", "desk").contains("no decoder"));
        assert!(remedy("no answer in 30 s", "desk").contains("no answer"));
    }
}
