//! Keyboard layouts.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Layout of the desktop's keyboard: an entry of [`LAYOUTS`]. Only known ones are accepted, because a compositor ends the
/// connection of a client whose keymap does not compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyboardLayout(&'static str);

impl KeyboardLayout {
    /// Layout `us`.
    pub const US: Self = Self("us");

    /// Name as XKB symbols include it: `LAYOUT` or `LAYOUT(VARIANT)`.
    pub const fn name(self) -> &'static str {
        self.0
    }

    /// XKB layout without the variant.
    pub fn layout(self) -> &'static str {
        self.0.split_once('(').map_or(self.0, |(layout, _)| layout)
    }

    /// XKB variant; empty for the layout's default.
    pub fn variant(self) -> &'static str {
        self.0.split_once('(').map_or("", |(_, variant)| variant.trim_end_matches(')'))
    }

    /// Description of [`LAYOUTS`], which is the name of the layout's group in its XKB symbols.
    pub fn description(self) -> &'static str {
        LAYOUTS.iter().find(|(known, _)| *known == self.0).map_or("", |(_, description)| description)
    }

    /// True if the right Alt key is a modifier for the third level (AltGr) in this layout.
    pub fn has_alt_gr(self) -> bool {
        !matches!(self.0, "us" | "us(dvorak)" | "us(mac)")
    }
}

impl Default for KeyboardLayout {
    fn default() -> Self {
        Self::US
    }
}

impl FromStr for KeyboardLayout {
    type Err = UnknownLayout;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        LAYOUTS.iter().find(|(known, _)| *known == name).map(|(known, _)| Self(known)).ok_or(UnknownLayout)
    }
}

/// A name that is not one of [`LAYOUTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown keyboard layout; write LAYOUT or LAYOUT(VARIANT) of xkeyboard-config, such as us, de or de(nodeadkeys)"
)]
pub struct UnknownLayout;

impl Serialize for KeyboardLayout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

impl<'de> Deserialize<'de> for KeyboardLayout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}

/// Layouts of xkeyboard-config (rules/evdev.lst) that the desktop's keyboard can have, with their descriptions.
pub const LAYOUTS: &[(&str, &str)] = &[
    ("us", "English (US)"),
    ("us(intl)", "English (US, intl., with dead keys)"),
    ("us(altgr-intl)", "English (intl., with AltGr dead keys)"),
    ("us(dvorak)", "English (Dvorak)"),
    ("us(colemak)", "English (Colemak)"),
    ("us(mac)", "English (Macintosh)"),
    ("gb", "English (UK)"),
    ("gb(mac)", "English (UK, Macintosh)"),
    ("ie", "Irish"),
    ("de", "German"),
    ("de(nodeadkeys)", "German (no dead keys)"),
    ("de(mac)", "German (Macintosh)"),
    ("de(neo)", "German (Neo 2)"),
    ("at", "German (Austria)"),
    ("ch", "German (Switzerland)"),
    ("ch(fr)", "French (Switzerland)"),
    ("fr", "French"),
    ("fr(mac)", "French (Macintosh)"),
    ("fr(bepo)", "French (BEPO)"),
    ("fr(oss)", "French (alt.)"),
    ("be", "Belgian"),
    ("nl", "Dutch"),
    ("es", "Spanish"),
    ("es(dvorak)", "Spanish (Dvorak)"),
    ("latam", "Spanish (Latin American)"),
    ("pt", "Portuguese"),
    ("br", "Portuguese (Brazil)"),
    ("it", "Italian"),
    ("pl", "Polish"),
    ("cz", "Czech"),
    ("cz(qwerty)", "Czech (QWERTY)"),
    ("sk", "Slovak"),
    ("sk(qwerty)", "Slovak (QWERTY)"),
    ("hu", "Hungarian"),
    ("ro", "Romanian"),
    ("si", "Slovenian"),
    ("hr", "Croatian"),
    ("rs", "Serbian"),
    ("rs(latin)", "Serbian (Latin)"),
    ("bg", "Bulgarian"),
    ("bg(phonetic)", "Bulgarian (traditional phonetic)"),
    ("gr", "Greek"),
    ("ru", "Russian"),
    ("ua", "Ukrainian"),
    ("by", "Belarusian"),
    ("tr", "Turkish"),
    ("tr(f)", "Turkish (F)"),
    ("il", "Hebrew"),
    ("ara", "Arabic"),
    ("ir", "Persian"),
    ("in", "Indian"),
    ("th", "Thai"),
    ("jp", "Japanese"),
    ("kr", "Korean"),
    ("cn", "Chinese"),
    ("tw", "Taiwanese"),
    ("vn", "Vietnamese"),
    ("dk", "Danish"),
    ("no", "Norwegian"),
    ("se", "Swedish"),
    ("fi", "Finnish"),
    ("is", "Icelandic"),
    ("ee", "Estonian"),
    ("lv", "Latvian"),
    ("lt", "Lithuanian"),
    ("ca", "French (Canada)"),
    ("ca(eng)", "English (Canada)"),
    ("ca(multix)", "Canadian (intl.)"),
    ("epo", "Esperanto"),
    ("al", "Albanian"),
    ("mk", "Macedonian"),
    ("me", "Montenegrin"),
    ("ba", "Bosnian"),
    ("ge", "Georgian"),
    ("am", "Armenian"),
    ("az", "Azerbaijani"),
    ("kz", "Kazakh"),
    ("uz", "Uzbek"),
    ("mn", "Mongolian"),
    ("pk", "Urdu (Pakistan)"),
    ("bd", "Bangla"),
    ("lk", "Sinhala (phonetic)"),
    ("np", "Nepali"),
    ("kh", "Khmer (Cambodia)"),
    ("la", "Lao"),
    ("mm", "Burmese"),
    ("et", "Amharic"),
    ("za", "English (South Africa)"),
    ("ng", "English (Nigeria)"),
    ("id", "Indonesian (Latin)"),
    ("my", "Malay (Jawi, Arabic Keyboard)"),
    ("ph", "Filipino"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_name_is_split_into_layout_and_variant() {
        let layout: KeyboardLayout = "de(nodeadkeys)".parse().expect("known");
        assert_eq!((layout.layout(), layout.variant()), ("de", "nodeadkeys"));
        assert_eq!(layout.description(), "German (no dead keys)");
        assert_eq!((KeyboardLayout::US.layout(), KeyboardLayout::US.variant()), ("us", ""));
        assert!(layout.has_alt_gr() && !KeyboardLayout::US.has_alt_gr());
        assert_eq!("de(none)".parse::<KeyboardLayout>(), Err(UnknownLayout));
    }
}
