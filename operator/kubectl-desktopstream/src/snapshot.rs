//! `snapshot`: saves the current frame as PNG.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use operator_sidecar_client::{Limits, RequestError, get};

use crate::cli::Stream;
use crate::kubectl::Kubectl;
use crate::port_forward::PortForward;
use crate::target;

/// The sidecar waits for a keyframe, decodes it and encodes the PNG.
const LIMITS: Limits = Limits { timeout: Duration::from_secs(30), max_bytes: 256 << 20 };
const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Fetches the snapshot and writes it to `output`, to standard output for `-`, else to `NAME.png`.
pub(crate) fn run(kubectl: &Kubectl, stream: &Stream, output: Option<PathBuf>) -> Result<()> {
    let target = target::find(kubectl, stream)?;
    let token = target.viewer_token(kubectl)?;
    let forward = PortForward::start(kubectl, &target, 0)?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    let url = format!("{}/snapshot.png", forward.url());
    let response = runtime.block_on(get(&url, token.as_deref(), LIMITS));
    let png = response.map_err(|error| anyhow!("{}", with_remedy(&error, &stream.name)))?;
    anyhow::ensure!(
        png.starts_with(PNG_SIGNATURE),
        "the response is not a PNG; check that port 8080 of the pod belongs to the sidecar"
    );
    let file = output.unwrap_or_else(|| PathBuf::from(format!("{}.png", stream.name)));
    if file == Path::new("-") {
        std::io::stdout().write_all(&png)?;
        return Ok(());
    }
    std::fs::write(&file, &png).with_context(|| format!("cannot write {}", file.display()))?;
    println!("{}", file.display());
    Ok(())
}

fn with_remedy(error: &RequestError, name: &str) -> String {
    let status = match error {
        RequestError::Status { status, .. } => status.as_u16(),
        _ => 0,
    };
    match status {
        401 => format!(
            "the sidecar of {name} refuses the viewer token; after a change of the Secret the kubelet takes up to two \
             minutes to pass it on, try again then"
        ),
        503 => {
            format!("no frame available ({error}); run `kubectl desktopstream doctor {name}`")
        }
        _ => format!("cannot fetch a snapshot ({error}); see `kubectl desktopstream logs {name}`"),
    }
}

#[cfg(test)]
mod tests {
    use operator_sidecar_client::StatusCode;

    use super::*;

    #[test]
    fn fetch_error_is_reported_with_its_remedy() {
        let status = |status, reason: &str| RequestError::Status { status, reason: reason.to_owned() };
        let unavailable = status(StatusCode::SERVICE_UNAVAILABLE, "no frame");
        assert!(with_remedy(&unavailable, "desk").contains("doctor desk"));
        assert!(with_remedy(&status(StatusCode::UNAUTHORIZED, ""), "desk").contains("token"));
        let missing = status(StatusCode::NOT_IMPLEMENTED, "no decoder");
        assert!(with_remedy(&missing, "desk").contains("no decoder"));
        let timeout = RequestError::Timeout(LIMITS.timeout);
        assert!(with_remedy(&timeout, "desk").contains("30 s"));
    }
}
