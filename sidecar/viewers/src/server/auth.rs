//! Authentication of viewers.
//!
//! A stream has a token for viewers that may control the desktop, and optionally another for viewers that may not. Programs
//! send one of them as `Authorization: Bearer`; browsers exchange it for a [session](session) cookie. A URL never contains a
//! token, because proxies log URLs. Without a token only loopback clients are served, and their `Host` must be a loopback
//! name, so that a web page cannot reach the server under its own name (DNS rebinding). Browsers send cookies with
//! WebSockets opened by any page of the same site, so the `Origin` of a WebSocket must be the server's own or an allowed
//! one.
//!
//! All functions are pure functions of a request's headers and the time; [`middleware`](super::middleware) applies them.

pub mod origin;
pub mod session;
pub mod token;

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, COOKIE};
use input::Role;
use tokio::sync::watch;

use self::origin::Host;
use self::session::{Session, Sessions};
use self::token::{MAX_TOKEN, MIN_TOKEN, ViewerToken};

/// Error of a viewer authentication setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The server would be reachable from the network without a token.
    #[error(
        "refusing to serve viewers on {0} without a token; set one (e.g. `openssl rand -hex 32`), listen on \
         127.0.0.1, or pass --insecure-no-viewer-auth"
    )]
    TokenRequired(SocketAddr),
    /// Viewers without a token could control the desktop, those with the token could not.
    #[error("a view-only token needs a viewer token beside it; set the viewer token too")]
    ViewOnlyTokenAlone,
    /// The token's length or characters are invalid.
    #[error(
        "the viewer token must have between {MIN_TOKEN} and {MAX_TOKEN} characters of A-Z a-z 0-9 - . _ ~ + / =; \
         generate one with `openssl rand -hex 32`"
    )]
    InvalidToken,
    /// The origin is not of the form that browsers send.
    #[error(
        "allowed origin {0:?} must be scheme://host[:port] without a path, e.g. https://desktops.example.com"
    )]
    InvalidOrigin(String),
}

/// The credential that authenticates a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Credential {
    /// `Authorization` header.
    Bearer,
    /// Session cookie; `secure` if it is one of HTTPS.
    Session { session: Session, secure: bool },
}

/// An authenticated request.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    /// `Set-Cookie` with a later end, if the request's session is due for one.
    pub(super) renewal: Option<String>,
    pub(super) role: Role,
    pub(super) revocation: Revocation,
}

/// Tells when the token by which a request was authenticated is replaced or removed.
#[derive(Debug, Clone)]
pub(super) struct Revocation(Option<CurrentToken>);

impl Revocation {
    /// Waits until the token is replaced or removed; forever if it cannot be.
    pub(super) async fn wait(mut self) {
        let changed = match &mut self.0 {
            Some(CurrentToken::Required(token)) => token.changed().await.is_ok(),
            Some(CurrentToken::Optional(token)) => token.changed().await.is_ok(),
            None => false,
        };
        if !changed {
            std::future::pending::<()>().await;
        }
    }
}

/// Decides whether a request may view the stream.
#[derive(Debug)]
pub(super) enum Authenticator {
    /// Requests with a current token, or with a session of one. The weakest role is first: tokens that are equal grant it.
    Token { tokens: Vec<RoleToken>, sessions: Sessions },
    /// Requests to a loopback name; the server listens on loopback only.
    Loopback,
    /// All requests.
    Open,
}

/// A token and the role of its holders.
#[derive(Debug)]
pub(super) struct RoleToken {
    role: Role,
    current: CurrentToken,
}

/// A token as it is now.
#[derive(Debug, Clone)]
enum CurrentToken {
    Required(watch::Receiver<ViewerToken>),
    Optional(watch::Receiver<Option<ViewerToken>>),
}

impl CurrentToken {
    /// The token, seen by [`Revocation::wait`]; `None` if there is none.
    fn borrow_and_update(&mut self) -> Option<ViewerToken> {
        match self {
            Self::Required(token) => Some(token.borrow_and_update().clone()),
            Self::Optional(token) => token.borrow_and_update().clone(),
        }
    }
}

impl Authenticator {
    /// An authenticator for the stream with this name, which is served on `listen`. A view-only token that equals `token` makes
    /// all its holders view-only.
    pub(super) fn new(
        stream: String,
        token: Option<watch::Receiver<ViewerToken>>,
        view_only: Option<watch::Receiver<Option<ViewerToken>>>,
        insecure: bool,
        listen: &[SocketAddr],
    ) -> Result<Self, AuthError> {
        match (token, listen.iter().find(|address| !address.ip().is_loopback())) {
            (Some(token), _) => {
                let view_only = view_only.map(|token| (Role::Viewer, CurrentToken::Optional(token)));
                let all = view_only.into_iter().chain([(Role::Controller, CurrentToken::Required(token))]);
                let tokens = all.map(|(role, current)| RoleToken { role, current }).collect();
                Ok(Self::Token { tokens, sessions: Sessions::new(stream) })
            }
            (None, _) if view_only.is_some() => Err(AuthError::ViewOnlyTokenAlone),
            (None, _) if insecure => Ok(Self::Open),
            (None, None) => Ok(Self::Loopback),
            (None, Some(exposed)) => Err(AuthError::TokenRequired(*exposed)),
        }
    }

    /// Authenticates a request at the time `now`, Unix time in seconds; `None` if it must be rejected.
    pub(super) fn authenticate(&self, headers: &HeaderMap, now: u64) -> Option<Admission> {
        let unrestricted =
            || Admission { renewal: None, role: Role::Controller, revocation: Revocation(None) };
        match self {
            Self::Open => Some(unrestricted()),
            Self::Loopback => Host::of(headers).is_some_and(|host| host.is_loopback()).then(unrestricted),
            Self::Token { tokens, sessions } => tokens.iter().find_map(|RoleToken { role, current }| {
                let mut current = current.clone();
                // The version that is verified is the one whose replacement is a revocation, and the one that a renewal
                // is bound to: the cookie of a former token must not become one of the next.
                let token = current.borrow_and_update()?;
                let renewal = match credential(&token, sessions, headers, now)? {
                    Credential::Bearer => None,
                    Credential::Session { session, secure } => {
                        let cookie = |later| sessions.cookie(&token, later, Host::of(headers), secure, now);
                        session.renewed(now).map(cookie)
                    }
                };
                Some(Admission { renewal, role: *role, revocation: Revocation(Some(current)) })
            }),
        }
    }

    /// `Set-Cookie` for a new session, in exchange for a token; `None` if `presented` is none.
    pub(super) fn exchange(&self, presented: &str, headers: &HeaderMap, now: u64) -> Option<String> {
        let Self::Token { tokens, sessions } = self else { return None };
        let secure = origin::is_secure(headers);
        tokens.iter().find_map(|RoleToken { current, .. }| {
            let token = current.clone().borrow_and_update()?;
            token
                .matches(presented)
                .then(|| sessions.cookie(&token, Session::new(now), Host::of(headers), secure, now))
        })
    }
}

fn credential(token: &ViewerToken, sessions: &Sessions, headers: &HeaderMap, now: u64) -> Option<Credential> {
    if bearer(headers).is_some_and(|presented| token.matches(presented)) {
        return Some(Credential::Bearer);
    }
    let host = Host::of(headers);
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut found = cookies.filter_map(|header| sessions.find(token, header, host, now));
    found.next().map(|(session, secure)| Credential::Session { session, secure })
}

/// Token in the `Authorization` header.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Unix time in seconds.
pub(super) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
