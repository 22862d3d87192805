//! Questions to our programs' HTTP endpoints on loopback.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(10))).build().into()
}

/// JSON at `url`.
pub fn json(url: &str, token: Option<&str>) -> Result<Value> {
    let mut request = agent().get(url);
    if let Some(token) = token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    let mut response = request.call().with_context(|| format!("GET {url}"))?;
    response.body_mut().read_json().with_context(|| format!("GET {url}: not JSON"))
}

/// The HTTP status and body at `url`, whatever it is.
pub fn status(url: &str, token: Option<&str>) -> Result<(u16, Vec<u8>)> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(40)))
        .http_status_as_error(false)
        .build()
        .into();
    let mut request = agent.get(url);
    if let Some(token) = token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    let mut response = request.call().with_context(|| format!("GET {url}"))?;
    let body = response.body_mut().with_config().limit(64 << 20).read_to_vec()?;
    Ok((response.status().as_u16(), body))
}

/// A value deep in JSON by its pointer, e.g. `/frames/encoded`.
pub fn number(json: &Value, pointer: &str) -> Result<f64> {
    json.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("no number {pointer} in {json}"))
}
