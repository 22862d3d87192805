//! A `kubectl port-forward` to a stream's sidecar.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use operator_api::names;

use crate::kubectl::{Kubectl, not_started};
use crate::target::Target;

/// Interval at which the child process is checked for its end.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// A running `kubectl port-forward`. Dropping it kills the process.
pub(crate) struct PortForward {
    child: Child,
    port: u16,
}

impl PortForward {
    /// Forwards a local port to the sidecar's viewer port. Port 0 picks a free one.
    pub(crate) fn start(kubectl: &Kubectl, target: &Target, port: u16) -> Result<Self> {
        let local = if port == 0 { String::new() } else { port.to_string() };
        let ports = format!("{local}:{}", names::VIEWER_PORT);
        let pod = format!("pod/{}", target.pod());
        let mut command = kubectl.command(&["port-forward", "--address=127.0.0.1", &pod, &ports]);
        // kubectl reports its errors on the inherited stderr.
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = child.with_context(not_started)?;
        let Some(stdout) = child.stdout.take() else { bail!("kubectl has no stdout") };
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let mut forward = Self { child, port: 0 };
        let Some(port) = lines.find_map(|line| forwarded_port(&line)) else {
            bail!("kubectl port-forward ended with {}", forward.child.wait()?);
        };
        forward.port = port;
        // kubectl writes a line per connection; a full pipe would block it.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(forward)
    }

    /// Local base URL, without a trailing slash.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Local port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Waits until kubectl exits.
    pub(crate) async fn ended(&mut self) {
        while matches!(self.child.try_wait(), Ok(None)) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

impl Drop for PortForward {
    fn drop(&mut self) {
        // Both fail only if the process has exited and was reaped.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The local port in kubectl's line `Forwarding from 127.0.0.1:43567 -> 8080`. kubectl has no other output for it.
fn forwarded_port(line: &str) -> Option<u16> {
    line.strip_prefix("Forwarding from 127.0.0.1:")?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_port_is_read_from_the_forwarding_line_only() {
        assert_eq!(forwarded_port("Forwarding from 127.0.0.1:43567 -> 8080"), Some(43567));
        assert_eq!(forwarded_port("Handling connection for 8080"), None);
    }
}
