//! Client of the QEMU Machine Protocol (QMP), one command per connection.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Time limit of one response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) fn execute(socket: &Path, command: &str, arguments: &Value) -> Result<Value> {
    let stream =
        UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
    stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    let mut ask = |request: &Value| -> Result<Value> {
        writer.write_all(format!("{request}\n").as_bytes())?;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).context("waiting for QEMU")? == 0 {
                bail!("QEMU closed the connection");
            }
            let mut message: Value = serde_json::from_str(&line)?;
            if let Some(error) = message.get("error") {
                bail!("QEMU rejected {command}: {error}");
            }
            // The greeting and events are skipped.
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
        }
    };
    ask(&json!({"execute": "qmp_capabilities"}))?;
    ask(&json!({"execute": command, "arguments": arguments}))
}
