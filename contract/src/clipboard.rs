//! The clipboard that viewers share with the desktop: its formats, its limits and the policy over its directions.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Maximum size of the content of a clipboard in bytes, all formats together.
pub const MAX_CONTENT: usize = 8 << 20;

/// Format of a part of the content. Each format occurs at most once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Format {
    /// Text in UTF-8.
    #[serde(rename = "text/plain")]
    Text,
    /// HTML in UTF-8.
    #[serde(rename = "text/html")]
    Html,
    /// Image, encoded as a PNG file.
    #[serde(rename = "image/png")]
    Png,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 3] = [Self::Text, Self::Html, Self::Png];

    /// Number in binary messages.
    pub const fn number(self) -> u8 {
        match self {
            Self::Text => 1,
            Self::Html => 2,
            Self::Png => 3,
        }
    }

    /// Format with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.number() == number)
    }

    /// True if `bytes` can have this format: UTF-8, or the signature of a PNG (PNG specification, section 5.2).
    pub fn fits(self, bytes: &[u8]) -> bool {
        match self {
            Self::Text | Self::Html => std::str::from_utf8(bytes).is_ok(),
            Self::Png => bytes.starts_with(b"\x89PNG\r\n\x1a\n"),
        }
    }
}

/// Size of a part, as the sender of a content announces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Format of the part.
    pub format: Format,
    /// Size in bytes.
    pub bytes: u32,
}

/// Reason why a content is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// There is nothing to transfer.
    #[error("the clipboard is empty")]
    Empty,
    /// The parts are larger than [`MAX_CONTENT`].
    #[error("the content of the clipboard has more than {} MiB", MAX_CONTENT >> 20)]
    TooLarge,
    /// A format occurs twice.
    #[error("a format occurs twice")]
    Duplicate,
    /// A part has not the format that it should have.
    #[error("a part is not in the format that it should have")]
    Format,
}

/// Checks the sizes and formats of a content before it is transferred.
///
/// # Errors
/// [`ContentError`] if a content of these parts is not accepted.
pub fn check_parts(parts: impl IntoIterator<Item = (Format, usize)>) -> Result<(), ContentError> {
    let mut seen = Vec::with_capacity(Format::ALL.len());
    let mut total = 0_usize;
    for (format, bytes) in parts {
        if bytes == 0 {
            return Err(ContentError::Empty);
        }
        if seen.contains(&format) {
            return Err(ContentError::Duplicate);
        }
        seen.push(format);
        total = total.saturating_add(bytes);
        if total > MAX_CONTENT {
            return Err(ContentError::TooLarge);
        }
    }
    if seen.is_empty() { Err(ContentError::Empty) } else { Ok(()) }
}

/// Directions in which viewers in control share their clipboard with the desktop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClipboardPolicy {
    /// No direction.
    Off,
    /// Viewers send to the desktop.
    ToDesktop,
    /// The desktop sends to viewers.
    FromDesktop,
    /// Both directions.
    #[default]
    Both,
}

impl ClipboardPolicy {
    /// All policies.
    pub const ALL: [Self; 4] = [Self::Off, Self::ToDesktop, Self::FromDesktop, Self::Both];

    /// Name on command lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::ToDesktop => "to-desktop",
            Self::FromDesktop => "from-desktop",
            Self::Both => "both",
        }
    }

    /// True if viewers may send to the desktop.
    pub const fn to_desktop(self) -> bool {
        matches!(self, Self::ToDesktop | Self::Both)
    }

    /// True if the desktop sends to viewers.
    pub const fn from_desktop(self) -> bool {
        matches!(self, Self::FromDesktop | Self::Both)
    }
}

impl fmt::Display for ClipboardPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ClipboardPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|policy| policy.name() == text);
        found.ok_or_else(|| {
            format!("invalid clipboard policy {text:?}: write off, to-desktop, from-desktop or both")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_that_is_empty_too_large_or_repeats_a_format_is_refused() {
        let check = |parts: &[(Format, usize)]| check_parts(parts.iter().copied());
        assert_eq!(check(&[(Format::Text, MAX_CONTENT)]), Ok(()));
        assert_eq!(check(&[(Format::Text, 1), (Format::Html, 1), (Format::Png, 1)]), Ok(()));
        assert_eq!(check(&[]), Err(ContentError::Empty));
        assert_eq!(check(&[(Format::Text, 0)]), Err(ContentError::Empty));
        assert_eq!(check(&[(Format::Text, MAX_CONTENT + 1)]), Err(ContentError::TooLarge));
        assert_eq!(check(&[(Format::Text, MAX_CONTENT), (Format::Png, 1)]), Err(ContentError::TooLarge));
        assert_eq!(check(&[(Format::Text, usize::MAX), (Format::Png, 1)]), Err(ContentError::TooLarge));
        assert_eq!(check(&[(Format::Text, 1), (Format::Text, 1)]), Err(ContentError::Duplicate));
    }

    #[test]
    fn format_is_known_by_number_and_mime_type_and_checks_its_bytes() {
        for format in Format::ALL {
            assert_eq!(Format::from_number(format.number()), Some(format));
        }
        assert_eq!((Format::from_number(0), Format::from_number(4)), (None, None));
        let part: Part = serde_json::from_str(r#"{"format":"image/png","bytes":7}"#).expect("parses");
        assert_eq!(part, Part { format: Format::Png, bytes: 7 });
        for refused in [r#"{"format":"image/svg+xml","bytes":7}"#, r#"{"format":"text/html","bytes":-1}"#] {
            assert!(serde_json::from_str::<Part>(refused).is_err(), "{refused}");
        }
        assert!(Format::Text.fits("ü".as_bytes()) && !Format::Text.fits(&[0xfc]));
        assert!(Format::Png.fits(b"\x89PNG\r\n\x1a\nrest") && !Format::Png.fits(b"GIF89a"));
    }

    #[test]
    fn policy_is_parsed_by_its_name_and_names_its_directions() {
        for policy in ClipboardPolicy::ALL {
            assert_eq!(policy.name().parse(), Ok(policy));
        }
        assert!("all".parse::<ClipboardPolicy>().expect_err("refused").contains("to-desktop"));
        let directions = ClipboardPolicy::ALL.map(|policy| (policy.to_desktop(), policy.from_desktop()));
        assert_eq!(directions, [(false, false), (true, false), (false, true), (true, true)]);
    }
}
