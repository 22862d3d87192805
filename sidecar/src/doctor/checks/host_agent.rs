//! Session with the host-agent, and its binding.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use contract::doctor::{Check, checks};
use frame_path::upstream::{Event, Session as Hello, Upstream, UpstreamError, UpstreamOptions};
use protocol::mailbox::{Operation, Status};
use protocol::stream::{DOCTOR, ErrorCode, ServerMessage};
use virtgpu::Mailbox;

use super::gpu::{TAP_TIMEOUT, refusal};
use crate::cli::HostAgent;
use crate::run::upstream_options;

/// Timeout of an answer of the host-agent.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Session with the host-agent.
pub struct Session {
    pub upstream: Upstream,
    events: Receiver<Event>,
    hello: Hello,
}

/// Failed wait for a message.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// The host-agent sent an error.
    #[error("{0}")]
    HostAgent(String),
    /// The session ended.
    #[error(transparent)]
    Disconnected(UpstreamError),
    /// The session was replaced by a new one.
    #[error("the connection was lost and re-established")]
    Reconnected,
    /// No such message arrived.
    #[error("no answer within {ANSWER_TIMEOUT:?}")]
    Timeout,
}

impl Session {
    /// Waits for the first message that `pick` accepts.
    pub fn wait<T>(&self, mut pick: impl FnMut(ServerMessage) -> Option<T>) -> Result<T, WaitError> {
        let end = Instant::now() + ANSWER_TIMEOUT;
        loop {
            match self.events.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(Event::Message(ServerMessage::Error { message, .. })) => {
                    return Err(WaitError::HostAgent(message));
                }
                Ok(Event::Message(message)) => {
                    if let Some(picked) = pick(message) {
                        return Ok(picked);
                    }
                }
                Ok(Event::Disconnected(error)) => return Err(WaitError::Disconnected(error)),
                Ok(Event::Connected(_)) => return Err(WaitError::Reconnected),
                Err(_) => return Err(WaitError::Timeout),
            }
        }
    }

    /// Maximum number of pixels per picture.
    pub fn max_pixels(&self) -> u32 {
        self.hello.max_pixels
    }
}

/// Establishes a session.
pub async fn connect(host_agent: &HostAgent, report: &mut Vec<Check>) -> Option<Session> {
    if let Err(refused) = host_agent.check() {
        report.push(Check::failed(
            checks::HOST_AGENT,
            refused.to_string(),
            "use a tls:// endpoint with a fingerprint",
        ));
        return None;
    }
    let Some(options) = upstream_options(host_agent) else {
        let reason = "no host-agent is configured (--upstream); the sidecar uses frame path Local";
        report.push(Check::skipped(checks::HOST_AGENT, reason));
        return None;
    };
    let options = UpstreamOptions { client: DOCTOR, ..options };
    let (sender, events) = channel();
    let endpoint =
        options.endpoint.read().map_or_else(|_| "unknown endpoint".to_owned(), |it| it.to_string());
    let upstream = Upstream::start(options, move |event| sender.send(event).is_ok());
    let first = tokio::task::spawn_blocking(move || (events.recv_timeout(2 * ANSWER_TIMEOUT), events)).await;
    match first {
        Ok((Ok(Event::Connected(hello)), events)) => {
            let detail = format!("{endpoint}: {}, connected taps: {}", hello.server, hello.taps);
            report.push(Check::ok(checks::HOST_AGENT, detail));
            Some(Session { upstream, events, hello })
        }
        Ok((Ok(Event::Disconnected(error)), _)) => {
            report.push(Check::failed(checks::HOST_AGENT, error.to_string(), remedy(&error)));
            None
        }
        _ => {
            let remedy = "check for a firewall between this container and the host-agent";
            report.push(Check::failed(checks::HOST_AGENT, format!("{endpoint}: no answer"), remedy));
            None
        }
    }
}

fn remedy(error: &UpstreamError) -> &'static str {
    match error {
        UpstreamError::Refused { code: ErrorCode::ExpiredToken, .. } => {
            "mint a new token (host-agent token, or the operator)"
        }
        UpstreamError::Refused { code: ErrorCode::BadToken, .. } | UpstreamError::Token { .. } => {
            "give the sidecar a token signed by the key whose public half the host-agent has"
        }
        UpstreamError::OtherKey { .. } => {
            "correct spec.fingerprint of the HostAgent, or the endpoint, to the output of `host-agent fingerprint`"
        }
        UpstreamError::TlsKey { .. } => "mount the key that the operator created, or correct --tls-key-file",
        UpstreamError::NotPaired { .. } | UpstreamError::EndpointFile { .. } => {
            "pair the stream with a host-agent; the operator then writes its endpoint to that file"
        }
        UpstreamError::Refused { code: ErrorCode::Capacity, .. } => {
            "raise host-agent serve --max-sessions, or use another host-agent"
        }
        UpstreamError::Refused { code: ErrorCode::Version, .. } | UpstreamError::Socket(_) => {
            "install host-agent and sidecar of the same version"
        }
        _ => "start host-agent serve, with a --listen address that this container can reach",
    }
}

/// Binds the session to this process's virgl context.
pub fn bind(mailbox: Option<&mut Mailbox>, session: Option<&Session>, report: &mut Vec<Check>) -> bool {
    let (Some(mailbox), Some(session)) = (mailbox, session) else {
        report.push(Check::skipped(checks::BIND, "needs the tap and the host-agent"));
        return false;
    };
    match mailbox.call(Operation::Bind(session.hello.nonce), TAP_TIMEOUT) {
        Ok(answer) if answer.status == Status::Ok => {}
        Ok(answer) => {
            report.push(refusal(checks::BIND, answer.status));
            return false;
        }
        Err(error) => {
            report.push(Check::failed(checks::BIND, error.to_string(), "see the VMM's log"));
            return false;
        }
    }
    let bound = session.wait(|message| match message {
        ServerMessage::Bound { context, vm, .. } => Some((context, vm)),
        _ => None,
    });
    match bound {
        Ok((context, vm)) => {
            report.push(Check::ok(checks::BIND, format!("context {context} of VM {vm}")));
            true
        }
        Err(error) => {
            let remedy = "connect this VM's tap to that host-agent: give both the same --link socket";
            report.push(Check::failed(checks::BIND, error.to_string(), remedy));
            false
        }
    }
}
