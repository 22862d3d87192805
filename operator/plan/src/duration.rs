//! Durations on command lines, such as `90s`, `30m` or `1h30m`.

use std::time::Duration;

use k8s_openapi::jiff::SignedDuration;

/// A command-line duration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a positive duration: write one such as 90s, 30m or 1h30m")]
pub struct InvalidDuration {
    text: String,
}

/// Parses a duration that must be longer than 0.
///
/// # Errors
/// If `text` is not in jiff's friendly or ISO 8601 format, or is not positive.
pub fn positive(text: &str) -> Result<Duration, InvalidDuration> {
    text.parse::<SignedDuration>()
        .ok()
        .and_then(|parsed| Duration::try_from(parsed).ok())
        .filter(|parsed| !parsed.is_zero())
        .ok_or_else(|| InvalidDuration { text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positive_friendly_durations_are_parsed() {
        for (text, milliseconds) in [("90s", 90_000), ("1h30m", 5_400_000), ("250ms", 250), ("1m1s", 61_000)]
        {
            assert_eq!(positive(text).map(|it| it.as_millis()), Ok(milliseconds), "{text}");
        }
    }

    #[test]
    fn positive_other_text_is_refused() {
        for text in ["", "0s", "5", "s", "-1s", "often", "99999999999999999999s"] {
            let error = positive(text).expect_err(text);
            assert!(error.to_string().contains("such as 90s"), "{error}");
        }
    }
}
