//! A port here that leads to a stream's sidecar, for as long as kubectl forwards it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::find::Target;
use super::kubectl::{Kubectl, missing};
use operator_api::names;

/// kubectl, forwarding.
pub struct Way {
    child: Child,
    port: u16,
}

impl Way {
    /// To the sidecar, from this port; from any if it is 0.
    pub fn to(kubectl: &Kubectl, target: &Target, port: u16) -> Result<Self> {
        let from = if port == 0 { String::new() } else { port.to_string() };
        let ports = format!("{from}:{}", names::VIEWER_PORT);
        let pod = format!("pod/{}", target.pod());
        let mut command = kubectl.command(&["port-forward", "--address=127.0.0.1", &pod, &ports]);
        // What goes wrong, kubectl says on stderr, which is ours.
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = child.with_context(missing)?;
        let Some(stdout) = child.stdout.take() else { bail!("kubectl has no stdout") };
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let mut way = Self { child, port: 0 };
        let Some(port) = lines.find_map(|line| forwarded(&line)) else {
            bail!("kubectl port-forward ended with {}", way.child.wait()?);
        };
        way.port = port;
        // It writes a line for each connection.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(way)
    }

    /// Where it begins, here.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The port here.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self) {
        while matches!(self.child.try_wait(), Ok(None)) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        // It may have ended already.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// `Forwarding from 127.0.0.1:43567 -> 8080`
fn forwarded(line: &str) -> Option<u16> {
    line.strip_prefix("Forwarding from 127.0.0.1:")?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectls_words_are_understood() {
        assert_eq!(forwarded("Forwarding from 127.0.0.1:43567 -> 8080"), Some(43567));
        assert_eq!(forwarded("Handling connection for 8080"), None);
    }
}
