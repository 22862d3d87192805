//! Errors of a reconciliation, and the delay before the next attempt.

use std::time::Duration;

use super::keys::KeyError;

/// Error of a reconciliation.
#[derive(Debug, thiserror::Error)]
#[expect(clippy::error_impl_error, reason = "the module's one error, named by its path")]
pub enum Error {
    /// The apiserver refused a request or did not answer.
    #[error("cannot {action}: {}", brief(source))]
    Api {
        /// Operation that failed, as a verb phrase.
        action: String,
        /// Error of the client.
        source: kube::Error,
    },
    /// An object was deleted between two requests.
    #[error("{kind} {name} was deleted while it was being changed")]
    Vanished {
        /// Kind of the object.
        kind: String,
        /// Name of the object.
        name: String,
    },
    /// A key or a token cannot be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A watch ended.
    #[error("a watch ended; restart the operator")]
    Watch,
}

/// One line of an API error. Its `Display` includes the whole status.
fn brief(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({} {})", status.message, status.code, status.reason),
        other => other.to_string(),
    }
}

impl Error {
    /// Wraps an API error.
    pub fn api(action: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let action = action.into();
        move |source| Self::Api { action, source }
    }

    /// Category for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Api { source: kube::Error::Api(status), .. } => match status.code {
                404 => "gone",
                409 => "conflict",
                400 | 403 | 405 | 413 | 422 => "refused",
                429 => "throttled",
                _ => "server",
            },
            Self::Api { .. } => "unreachable",
            Self::Vanished { .. } => "conflict",
            Self::Key(_) => "key",
            Self::Watch => "watch",
        }
    }

    /// Delay after the `attempt`th failure in a row, counted from 0: short for errors that pass by themselves, long for
    /// those that need user action.
    pub fn retry_after(&self, attempt: u32) -> Duration {
        let (first, last) = match self.category() {
            "conflict" | "gone" => (200, 10_000),
            "refused" | "key" => (5_000, 300_000),
            _ => (500, 30_000),
        };
        Duration::from_millis((first << attempt.min(10)).min(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_delay_follows_the_category_and_is_bounded() {
        let api = |code: u16| {
            let status = kube::core::Status::failure("m", "r").with_code(code).boxed();
            Error::Api { action: "x".to_owned(), source: kube::Error::Api(status) }
        };
        assert!(api(409).retry_after(0) < api(503).retry_after(0));
        assert!(api(503).retry_after(0) < api(422).retry_after(0));
        assert_eq!(api(500).retry_after(40), Duration::from_secs(30));
        assert_eq!(api(403).category(), "refused");
    }
}
