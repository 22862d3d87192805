//! The token of a stream's viewers.

use std::fmt;
use std::str::FromStr;

use subtle::ConstantTimeEq;

use super::AuthError;

/// Minimum length of a token: 64 bits in hexadecimal.
pub(super) const MIN_TOKEN: usize = 16;
/// Maximum length of a token.
pub(super) const MAX_TOKEN: usize = 512;

/// Token that viewers present: 16 to 512 characters of `A-Z a-z 0-9 - . _ ~ + / =`.
#[derive(Clone, PartialEq, Eq)]
pub struct ViewerToken(String);

impl ViewerToken {
    /// True if `presented` is the token. Takes the same time for each text of the token's length.
    pub(super) fn matches(&self, presented: &str) -> bool {
        presented.as_bytes().ct_eq(self.as_bytes()).into()
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl FromStr for ViewerToken {
    type Err = AuthError;

    fn from_str(text: &str) -> Result<Self, AuthError> {
        let safe = |c: u8| c.is_ascii_alphanumeric() || b"-._~+/=".contains(&c);
        let valid = (MIN_TOKEN..=MAX_TOKEN).contains(&text.len()) && text.bytes().all(safe);
        if valid { Ok(Self(text.to_owned())) } else { Err(AuthError::InvalidToken) }
    }
}

impl fmt::Debug for ViewerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ViewerToken(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_outside_its_grammar_is_refused_and_never_logged() {
        for bad in [
            "short",
            "with a space in it",
            &"x".repeat(513),
            "quote\"and;semicolon",
            "line\nbreak-in-it-0123",
        ] {
            assert_eq!(ViewerToken::from_str(bad).err(), Some(AuthError::InvalidToken), "{bad}");
        }
        let token = ViewerToken::from_str("0123456789abcdef").expect("a token");
        assert!(
            token.matches("0123456789abcdef") && !token.matches("0123456789abcdeX") && !token.matches("")
        );
        assert!(!format!("{token:?}").contains("0123"));
    }
}
