//! Why a reconciliation failed, and when it is worth trying again.

use std::time::Duration;

/// Why.
#[derive(Debug, thiserror::Error)]
#[expect(clippy::error_impl_error, reason = "the module's one error, named by its path")]
pub enum Error {
    /// The apiserver says no, or doesn't answer.
    #[error("can't {what}: {}", brief(source))]
    Api {
        /// What was tried.
        what: String,
        /// Its words.
        source: kube::Error,
    },
    /// A key or a token can't be made.
    #[error(transparent)]
    Key(#[from] super::keys::KeyError),
    /// A watch that everything depends on has ended.
    #[error("a watch ended; the operator stops, to be started anew")]
    Watch,
}

/// One line of an API error; its Debug form goes over pages.
fn brief(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({} {})", status.message, status.code, status.reason),
        other => other.to_string(),
    }
}

impl Error {
    /// Wraps an API error.
    pub fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Api { what, source }
    }

    /// For metrics: few values.
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
            Self::Key(_) => "key",
            Self::Watch => "watch",
        }
    }

    /// How long to wait after the `attempt`th failure in a row: what passes by itself soon, what somebody has
    /// to change later.
    pub fn back_off(&self, attempt: u32) -> Duration {
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
    fn what_passes_is_tried_soon_and_what_does_not_later() {
        let api = |code: u16| {
            let status = kube::core::Status::failure("m", "r").with_code(code).boxed();
            Error::Api { what: "x".to_owned(), source: kube::Error::Api(status) }
        };
        assert!(api(409).back_off(0) < api(503).back_off(0));
        assert!(api(503).back_off(0) < api(422).back_off(0));
        assert_eq!(api(500).back_off(40), Duration::from_secs(30), "grows, to a limit");
        assert_eq!(api(403).category(), "refused");
    }
}
