//! Contents of the clipboard, and the MIME types by which programs offer them.

use bytes::Bytes;
use contract::clipboard::{ContentError, Format, check_parts};

/// MIME types of text in UTF-8, the preferred one first. `UTF8_STRING` is that of X11 programs.
const TEXT: [&str; 4] = ["text/plain;charset=utf-8", "text/plain;charset=UTF-8", "UTF8_STRING", "text/plain"];
const HTML: &str = "text/html";
const PNG: &str = "image/png";
/// MIME type by which password managers mark secrets: <https://phabricator.kde.org/D12539>.
pub const SECRET_HINT: &str = "x-kde-passwordManagerHint";
/// Marks contents of viewers, so that they are not sent back.
pub const OWN: &str = "application/x-desktopstream-viewer";

/// Content of a clipboard: the same in at least one format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    parts: Vec<(Format, Bytes)>,
}

impl Content {
    /// A content of these parts.
    ///
    /// # Errors
    /// [`ContentError`] if it is empty or too large, a format occurs twice, or a part has not its format.
    pub fn new(parts: Vec<(Format, Bytes)>) -> Result<Self, ContentError> {
        check_parts(parts.iter().map(|(format, bytes)| (*format, bytes.len())))?;
        let fits = parts.iter().all(|(format, bytes)| format.fits(bytes));
        if fits { Ok(Self { parts }) } else { Err(ContentError::Format) }
    }

    /// Parts in their order.
    pub fn parts(&self) -> &[(Format, Bytes)] {
        &self.parts
    }

    /// MIME types that a program of the desktop can ask for.
    pub fn mime_types(&self) -> Vec<&'static str> {
        let types = |format: &Format| match format {
            Format::Text => &TEXT[..],
            Format::Html => &[HTML],
            Format::Png => &[PNG],
        };
        self.parts.iter().flat_map(|(format, _)| types(format)).copied().collect()
    }

    /// The part that a program asks for by its MIME type.
    pub fn part(&self, mime: &str) -> Option<Bytes> {
        let wanted = match mime {
            HTML => Format::Html,
            PNG => Format::Png,
            text if TEXT.contains(&text) => Format::Text,
            _ => return None,
        };
        self.parts.iter().find(|(format, _)| *format == wanted).map(|(_, bytes)| bytes.clone())
    }
}

/// The formats of a program's offer. Other MIME types are not recorded, whatever their number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offered {
    text: Option<usize>,
    html: bool,
    png: bool,
    /// Mark of the offer.
    pub mark: Mark,
}

/// Mark of an offer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// No mark.
    #[default]
    None,
    /// The content may be a secret: it has [`SECRET_HINT`].
    Hint,
    /// The content is a viewer's: it has [`OWN`].
    Own,
}

impl Offered {
    /// Records a MIME type.
    pub fn add(&mut self, mime: &str) {
        match mime {
            HTML => self.html = true,
            PNG => self.png = true,
            SECRET_HINT => self.mark = self.mark.max(Mark::Hint),
            OWN => self.mark = Mark::Own,
            other => {
                let found = TEXT.iter().position(|text| *text == other);
                self.text = [self.text, found].into_iter().flatten().min();
            }
        }
    }

    /// Formats with the MIME types to ask for.
    pub fn parts(self) -> impl Iterator<Item = (Format, &'static str)> {
        let text = self.text.and_then(|index| TEXT.get(index)).map(|mime| (Format::Text, *mime));
        let html = self.html.then_some((Format::Html, HTML));
        let png = self.png.then_some((Format::Png, PNG));
        [text, html, png].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offer_records_known_formats_only_and_prefers_utf_8() {
        let mut offered = Offered::default();
        for n in 0..10_000 {
            offered.add(&format!("application/x-{n}"));
        }
        assert_eq!(offered, Offered::default());
        for mime in
            ["text/plain", "image/png", "UTF8_STRING", "text/plain;charset=utf-8", "TEXT", "text/html"]
        {
            offered.add(mime);
        }
        let parts: Vec<_> = offered.parts().collect();
        let expected = [
            (Format::Text, "text/plain;charset=utf-8"),
            (Format::Html, "text/html"),
            (Format::Png, "image/png"),
        ];
        assert_eq!(parts, expected);
        assert_eq!(offered.mark, Mark::None);
    }

    #[test]
    fn content_is_found_by_each_of_its_mime_types() {
        let text = Bytes::from_static("ü".as_bytes());
        let content = Content::new(vec![(Format::Text, text.clone())]).expect("valid");
        for mime in content.mime_types() {
            assert_eq!(content.part(mime).as_ref(), Some(&text), "{mime}");
        }
        assert_eq!((content.part("image/png"), content.part("STRING")), (None, None));
        let invalid = [(Format::Text, vec![0xff]), (Format::Png, b"GIF89a".to_vec())];
        for (format, bytes) in invalid {
            assert_eq!(Content::new(vec![(format, bytes.into())]), Err(ContentError::Format));
        }
    }
}
