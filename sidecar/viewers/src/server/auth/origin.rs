//! `Host` and `Origin` of requests.

use std::net::IpAddr;

use axum::http::HeaderMap;
use axum::http::header::{HOST, ORIGIN};

use super::AuthError;

/// Value of a `Host` header (RFC 9110 section 7.2), split into name and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host<'h> {
    /// Name or IP address; an IPv6 address keeps its brackets.
    pub name: &'h str,
    /// Port; `None` if the client uses its scheme's default.
    pub port: Option<u16>,
}

impl<'h> Host<'h> {
    /// Parses the value. A text after the last colon that is no port belongs to the name.
    pub fn parse(value: &'h str) -> Self {
        let split = value.rsplit_once(':').filter(|(_, port)| port.bytes().all(|c| c.is_ascii_digit()));
        match split.map(|(name, port)| (name, port.parse())) {
            Some((name, Ok(port))) => Self { name, port: Some(port) },
            _ => Self { name: value, port: None },
        }
    }

    /// The request's `Host`; `None` without exactly one readable header.
    pub(super) fn of(headers: &'h HeaderMap) -> Option<Self> {
        only(headers, &HOST).map(Self::parse)
    }

    /// True for `localhost`, its subdomains and loopback addresses.
    pub fn is_loopback(&self) -> bool {
        let bare = self.name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(self.name);
        self.name.eq_ignore_ascii_case("localhost")
            || self.name.to_ascii_lowercase().ends_with(".localhost")
            || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

/// The value of a header that occurs once and is ASCII text.
fn only<'h>(headers: &'h HeaderMap, name: &axum::http::HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// True if the page that sent the request was loaded by HTTPS, also from a proxy that terminates TLS. Browsers send
/// `Origin` with each POST, and a page cannot set it. A client that forges it changes its own cookie only.
pub(super) fn is_secure(headers: &HeaderMap) -> bool {
    only(headers, &ORIGIN)
        .is_some_and(|origin| origin.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://")))
}

/// Origins whose pages may open the WebSocket, create sessions and embed the page, besides the server's own.
#[derive(Debug, Clone)]
pub struct AllowedOrigins(Vec<String>);

impl AllowedOrigins {
    /// Origins of the form `scheme://host[:port]`.
    ///
    /// # Errors
    /// [`AuthError::InvalidOrigin`] for a text of another form.
    pub fn new(allowed: Vec<String>) -> Result<Self, AuthError> {
        let mut origins = Vec::with_capacity(allowed.len());
        for origin in allowed {
            let origin = origin.to_ascii_lowercase();
            let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            let valid = |c: char| c.is_ascii_alphanumeric() || "-.:[]_".contains(c);
            if !authority.is_some_and(|host| !host.is_empty() && host.chars().all(valid)) {
                return Err(AuthError::InvalidOrigin(origin));
            }
            origins.push(origin);
        }
        Ok(Self(origins))
    }

    /// True for a request without `Origin` (its client is not a browser), with the server's own or an allowed one.
    pub fn allows(&self, headers: &HeaderMap) -> bool {
        if !headers.contains_key(ORIGIN) {
            return true;
        }
        let Some(origin) = only(headers, &ORIGIN) else { return false };
        let origin = origin.to_ascii_lowercase();
        if self.0.contains(&origin) {
            return true;
        }
        let Some((_, authority)) = origin.split_once("://") else { return false };
        only(headers, &HOST).is_some_and(|host| host.eq_ignore_ascii_case(authority))
    }

    /// The allowed origins as a Content-Security-Policy source list.
    pub(in crate::server) fn source_list(&self) -> String {
        self.0.join(" ")
    }
}
