//! HTTP requests to our programs on loopback.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Time limit of a request for JSON.
const JSON_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit of other requests: `/snapshot.png` loads a decoder in an emulated guest.
const BODY_TIMEOUT: Duration = Duration::from_mins(2);
/// Maximum size of a response body, bytes.
const MAX_BODY: u64 = 64 << 20;

fn get(
    url: &str,
    token: Option<&str>,
    timeout: Duration,
    fail_on_status: bool,
) -> Result<ureq::http::Response<ureq::Body>> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(fail_on_status)
        .build()
        .into();
    let mut request = agent.get(url);
    if let Some(token) = token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    request.call().with_context(|| format!("GET {url}"))
}

/// Reads JSON from `url`.
///
/// # Errors
/// Fails on any HTTP status but success, and on a body that does not deserialize to `T`.
pub fn json<T: DeserializeOwned>(url: &str, token: Option<&str>) -> Result<T> {
    let mut response = get(url, token, JSON_TIMEOUT, true)?;
    response.body_mut().read_json().with_context(|| format!("GET {url}: unexpected JSON"))
}

/// HTTP status and body of `url`, whatever the status.
///
/// # Errors
/// Fails without a response.
pub fn status(url: &str, token: Option<&str>) -> Result<(u16, Vec<u8>)> {
    let mut response = get(url, token, BODY_TIMEOUT, false)?;
    let body = response.body_mut().with_config().limit(MAX_BODY).read_to_vec()?;
    Ok((response.status().as_u16(), body))
}

/// Number at a JSON pointer, e.g. `/frames/encoded`.
///
/// # Errors
/// Fails if there is no number.
pub fn number(json: &Value, pointer: &str) -> Result<f64> {
    json.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("no number at {pointer} in {json}"))
}
