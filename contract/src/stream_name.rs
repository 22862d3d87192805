//! Name of a stream: a DNS label (RFC 1123) that begins with a letter.
//!
//! On Kubernetes it is part of object names, on Docker of object names and of paths in the state folder. A text from a
//! label, an argument, a file or a folder's listing becomes a name here, before any use.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// A valid stream name. As a path it is a single component, other than `.` and `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamName(String);

/// A text that is not a stream name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a stream name: it {rule}", rule = StreamName::RULE)]
pub struct StreamNameError(String);

impl StreamName {
    /// Maximum length, bytes. A label has at most 63; the rest is for the suffixes of Kubernetes objects.
    pub const MAX_LENGTH: usize = 50;

    /// The grammar, as a predicate for messages.
    pub const RULE: &str =
        "must have at most 50 of a-z, 0-9 and '-', begin with a letter and not end with '-'";

    /// The name as a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StreamName {
    type Err = StreamNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_valid = text.len() <= Self::MAX_LENGTH
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && !text.ends_with('-')
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if is_valid { Ok(Self(text.to_owned())) } else { Err(StreamNameError(shortened(text))) }
    }
}

/// At most as much of the text as shows the fault. A label may have megabytes.
fn shortened(text: &str) -> String {
    let end = text.floor_char_boundary(2 * StreamName::MAX_LENGTH);
    if end == text.len() { text.to_owned() } else { format!("{}…", &text[..end]) }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for StreamName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl AsRef<Path> for StreamName {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use super::*;

    #[test]
    fn label_that_begins_with_a_letter_is_a_name() {
        let longest = "a".repeat(StreamName::MAX_LENGTH);
        for text in ["a", "desk", "desk-2", "d--k", &longest] {
            let name: StreamName = text.parse().expect(text);
            assert_eq!((name.as_str(), name.to_string().as_str()), (text, text));
            let path = Path::new("/state").join(&name);
            assert_eq!(path.components().next_back(), Some(Component::Normal(text.as_ref())));
            assert_eq!(path.parent(), Some(Path::new("/state")));
        }
    }

    #[test]
    fn path_and_malformed_label_are_refused_with_the_rule() {
        let too_long = "a".repeat(StreamName::MAX_LENGTH + 1);
        for text in [
            "",
            ".",
            "..",
            "/",
            "/some/folder",
            "../x",
            "a/..",
            "a/b",
            "a.b",
            ".lock",
            "-a",
            "a-",
            "1a",
            "A",
            "ä",
            "a b",
            "a\0",
            "a\n",
            &too_long,
        ] {
            let error = text.parse::<StreamName>().expect_err(text).to_string();
            assert!(error.contains("not a stream name") && error.contains("a-z"), "{error}");
        }
    }

    #[test]
    fn refusal_of_a_long_text_is_short() {
        let error = "ä/".repeat(1 << 20).parse::<StreamName>().expect_err("no name").to_string();
        assert!(error.len() < 300, "{} bytes", error.len());
    }
}
