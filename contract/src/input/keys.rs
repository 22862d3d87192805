//! Physical keys.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Physical key, named by `KeyboardEvent.code` (UI Events KeyboardEvent code Values, W3C).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyCode(u16);

impl KeyCode {
    /// Code of `<linux/input-event-codes.h>`, at most 247: an XKB keycode is larger by 8 and fits into a byte.
    pub const fn evdev(self) -> u16 {
        self.0
    }

    /// The key with this code of `<linux/input-event-codes.h>`, if a browser can report it.
    pub fn from_evdev(code: u16) -> Option<Self> {
        CODES.iter().any(|(_, known)| *known == code).then_some(Self(code))
    }

    /// Value of `KeyboardEvent.code`.
    pub fn name(self) -> &'static str {
        CODES.iter().find(|(_, code)| *code == self.0).map_or("", |(name, _)| name)
    }
}

impl FromStr for KeyCode {
    type Err = UnknownKey;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = CODES.binary_search_by_key(&name, |(name, _)| name).map_err(|_| UnknownKey)?;
        Ok(Self(CODES[found].1))
    }
}

/// A name that is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown KeyboardEvent.code")]
pub struct UnknownKey;

impl Serialize for KeyCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for KeyCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}

/// Values of `KeyboardEvent.code` in order, with their codes of `<linux/input-event-codes.h>`.
const CODES: &[(&str, u16)] = &[
    ("AltLeft", 56),
    ("AltRight", 100),
    ("ArrowDown", 108),
    ("ArrowLeft", 105),
    ("ArrowRight", 106),
    ("ArrowUp", 103),
    ("AudioVolumeDown", 114),
    ("AudioVolumeMute", 113),
    ("AudioVolumeUp", 115),
    ("Backquote", 41),
    ("Backslash", 43),
    ("Backspace", 14),
    ("BracketLeft", 26),
    ("BracketRight", 27),
    ("BrowserBack", 158),
    ("BrowserForward", 159),
    ("BrowserHome", 172),
    ("BrowserRefresh", 173),
    ("BrowserSearch", 217),
    ("BrowserStop", 128),
    ("CapsLock", 58),
    ("Comma", 51),
    ("ContextMenu", 127),
    ("ControlLeft", 29),
    ("ControlRight", 97),
    ("Convert", 92),
    ("Copy", 133),
    ("Cut", 137),
    ("Delete", 111),
    ("Digit0", 11),
    ("Digit1", 2),
    ("Digit2", 3),
    ("Digit3", 4),
    ("Digit4", 5),
    ("Digit5", 6),
    ("Digit6", 7),
    ("Digit7", 8),
    ("Digit8", 9),
    ("Digit9", 10),
    ("End", 107),
    ("Enter", 28),
    ("Equal", 13),
    ("Escape", 1),
    ("F1", 59),
    ("F10", 68),
    ("F11", 87),
    ("F12", 88),
    ("F13", 183),
    ("F14", 184),
    ("F15", 185),
    ("F16", 186),
    ("F17", 187),
    ("F18", 188),
    ("F19", 189),
    ("F2", 60),
    ("F20", 190),
    ("F21", 191),
    ("F22", 192),
    ("F23", 193),
    ("F24", 194),
    ("F3", 61),
    ("F4", 62),
    ("F5", 63),
    ("F6", 64),
    ("F7", 65),
    ("F8", 66),
    ("F9", 67),
    ("Find", 136),
    ("Help", 138),
    ("Home", 102),
    ("Insert", 110),
    ("IntlBackslash", 86),
    ("IntlRo", 89),
    ("IntlYen", 124),
    ("KanaMode", 93),
    ("KeyA", 30),
    ("KeyB", 48),
    ("KeyC", 46),
    ("KeyD", 32),
    ("KeyE", 18),
    ("KeyF", 33),
    ("KeyG", 34),
    ("KeyH", 35),
    ("KeyI", 23),
    ("KeyJ", 36),
    ("KeyK", 37),
    ("KeyL", 38),
    ("KeyM", 50),
    ("KeyN", 49),
    ("KeyO", 24),
    ("KeyP", 25),
    ("KeyQ", 16),
    ("KeyR", 19),
    ("KeyS", 31),
    ("KeyT", 20),
    ("KeyU", 22),
    ("KeyV", 47),
    ("KeyW", 17),
    ("KeyX", 45),
    ("KeyY", 21),
    ("KeyZ", 44),
    ("Lang1", 122),
    ("Lang2", 123),
    ("Lang3", 90),
    ("Lang4", 91),
    ("Lang5", 85),
    ("MediaPlayPause", 164),
    ("MediaStop", 166),
    ("MediaTrackNext", 163),
    ("MediaTrackPrevious", 165),
    ("MetaLeft", 125),
    ("MetaRight", 126),
    ("Minus", 12),
    ("NonConvert", 94),
    ("NumLock", 69),
    ("Numpad0", 82),
    ("Numpad1", 79),
    ("Numpad2", 80),
    ("Numpad3", 81),
    ("Numpad4", 75),
    ("Numpad5", 76),
    ("Numpad6", 77),
    ("Numpad7", 71),
    ("Numpad8", 72),
    ("Numpad9", 73),
    ("NumpadAdd", 78),
    ("NumpadComma", 121),
    ("NumpadDecimal", 83),
    ("NumpadDivide", 98),
    ("NumpadEnter", 96),
    ("NumpadEqual", 117),
    ("NumpadMultiply", 55),
    ("NumpadParenLeft", 179),
    ("NumpadParenRight", 180),
    ("NumpadSubtract", 74),
    ("PageDown", 109),
    ("PageUp", 104),
    ("Paste", 135),
    ("Pause", 119),
    ("Period", 52),
    ("PrintScreen", 99),
    ("Quote", 40),
    ("ScrollLock", 70),
    ("Semicolon", 39),
    ("ShiftLeft", 42),
    ("ShiftRight", 54),
    ("Slash", 53),
    ("Space", 57),
    ("Tab", 15),
    ("Undo", 131),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sorted_distinct_and_printed_as_they_are_parsed() {
        assert!(CODES.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for (name, code) in CODES {
            let key: KeyCode = name.parse().expect("a key");
            assert_eq!((key.evdev(), key.name()), (*code, *name));
            assert_eq!(KeyCode::from_evdev(*code), Some(key));
            assert!(*code <= 247, "{name}");
        }
        assert_eq!("Fn".parse::<KeyCode>(), Err(UnknownKey));
    }
}
