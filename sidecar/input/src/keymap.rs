//! XKB keymaps in text format 1, as `zwp_virtual_keyboard_v1.keymap` takes them.
//!
//! The compositor resolves the includes with its own xkeyboard-config, so that the sidecar needs none.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;

use contract::input::KeyboardLayout;
use rustix::fs::{MemfdFlags, memfd_create};

/// `WL_KEYBOARD_KEYMAP_FORMAT_XKB_V1` of `wl_keyboard`.
pub const FORMAT_XKB_V1: u32 = 1;
/// First XKB keycode of a text keymap, of media keys, which programs do not treat specially without their symbols.
const FIRST_KEYCODE: u32 = 200;
/// Number of different characters in a text keymap: X11 clients see keycodes up to 255.
pub const MAX_CHARACTERS: usize = 48;
/// Distance of XKB keycodes from evdev codes.
const EVDEV_OFFSET: u32 = 8;

/// Keymap of a layout.
pub fn of_layout(layout: KeyboardLayout) -> String {
    let alt_gr = if layout.has_alt_gr() { "+level3(ralt_switch)" } else { "" };
    format!(
        "xkb_keymap {{\n\
         xkb_keycodes {{ include \"evdev+aliases(qwerty)\" }};\n\
         xkb_types {{ include \"complete\" }};\n\
         xkb_compatibility {{ include \"complete\" }};\n\
         xkb_symbols {{ include \"pc+{}{alt_gr}+inet(evdev)\" }};\n\
         }};\n",
        layout.name()
    )
}

/// Keymap with one key for each of `characters`, of which there are at most [`MAX_CHARACTERS`].
pub fn of_characters(characters: &[char]) -> String {
    let mut codes = String::new();
    let mut symbols = String::new();
    for (keycode, character) in (FIRST_KEYCODE..).zip(characters) {
        // Writing to a String cannot fail.
        let _ = write!(codes, " <T{keycode}> = {keycode};");
        let _ = write!(symbols, " key <T{keycode}> {{ [ {} ] }};", keysym(*character));
    }
    format!(
        "xkb_keymap {{\n\
         xkb_keycodes \"text\" {{ minimum = 8; maximum = 255;{codes} }};\n\
         xkb_types \"text\" {{ include \"complete\" }};\n\
         xkb_compatibility \"text\" {{ include \"complete\" }};\n\
         xkb_symbols \"text\" {{{symbols} }};\n\
         }};\n"
    )
}

/// Evdev code of character number `index` in a text keymap.
pub fn character_code(index: usize) -> u32 {
    // The index is below MAX_CHARACTERS.
    FIRST_KEYCODE - EVDEV_OFFSET + u32::try_from(index).unwrap_or(0)
}

/// Splits a text into parts with at most [`MAX_CHARACTERS`] different characters. Each part is its different characters, and
/// the sequence of indices into them.
pub fn parts(text: &str) -> Vec<(Vec<char>, Vec<usize>)> {
    let mut parts = Vec::new();
    let (mut characters, mut sequence) = (Vec::new(), Vec::new());
    for character in text.chars() {
        let known = characters.iter().position(|known| *known == character);
        let index = known.unwrap_or_else(|| {
            if characters.len() == MAX_CHARACTERS {
                parts.push((std::mem::take(&mut characters), std::mem::take(&mut sequence)));
            }
            characters.push(character);
            characters.len() - 1
        });
        sequence.push(index);
    }
    if !sequence.is_empty() {
        parts.push((characters, sequence));
    }
    parts
}

/// Name of a character's keysym, as `xkb_keysym_from_name` reads it.
pub fn keysym(character: char) -> String {
    match character {
        '\n' => "Return".to_owned(),
        '\t' => "Tab".to_owned(),
        other => format!("U{:04X}", u32::from(other)),
    }
}

/// Memory file with a keymap and a terminating NUL, and its size in bytes.
///
/// # Errors
/// The file cannot be created or written.
pub fn file(keymap: &str) -> io::Result<(OwnedFd, u32)> {
    let mut file = std::fs::File::from(memfd_create("keymap", MemfdFlags::CLOEXEC)?);
    file.write_all(keymap.as_bytes())?;
    file.write_all(&[0])?;
    let size = u32::try_from(keymap.len() + 1).map_err(io::Error::other)?;
    Ok((file.into(), size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keymap_of_a_layout_includes_its_symbols() {
        let keymap = of_layout("de(nodeadkeys)".parse().expect("known"));
        assert!(keymap.contains("pc+de(nodeadkeys)+level3(ralt_switch)+inet(evdev)"), "{keymap}");
        assert!(of_layout(KeyboardLayout::US).contains("\"pc+us+inet(evdev)\""));
    }

    #[test]
    fn text_is_split_at_the_number_of_different_characters() {
        assert_eq!(parts("aba"), [(vec!['a', 'b'], vec![0, 1, 0])]);
        let many: String = (0..50).filter_map(|n| char::from_u32(0x4e00 + n)).collect();
        let lengths: Vec<_> = parts(&many).iter().map(|(characters, _)| characters.len()).collect();
        assert_eq!(lengths, [MAX_CHARACTERS, 2]);
        assert!(parts("").is_empty());
    }

    #[test]
    fn keymap_of_characters_has_a_key_for_each() {
        let keymap = of_characters(&['€', 'a', '\n', '😀']);
        for text in ["<T200> = 200;", "key <T200> { [ U20AC ] };", "[ U0061 ]", "[ Return ]", "[ U1F600 ]"] {
            assert!(keymap.contains(text), "{text} in {keymap}");
        }
        assert_eq!((character_code(0), character_code(MAX_CHARACTERS - 1)), (192, 239));
    }
}
