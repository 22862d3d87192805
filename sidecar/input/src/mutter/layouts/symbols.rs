//! Layouts for text: files of XKB symbols in the desktop's runtime directory, which GNOME Shell finds by
//! `XKB_CONFIG_EXTRA_PATH` (libxkbcommon), and lists from `rules/evdev.xml` beside them.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::Path;

use contract::input::KeyboardLayout;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, openat, openat2, renameat, unlinkat};

use crate::keymap::keysym;

/// Names of the layouts, as in `docker/desktop-gnome/root/usr/share/desktopstream/text-layouts.xml`.
pub const NAMES: [&str; 2] = ["dstext1", "dstext2"];
/// Folder of the symbols in the runtime directory.
const FOLDER: &str = "xkb/symbols";
/// Beginning of the name of a text layout's group. A number follows.
pub const TEXT_GROUP: &str = "Text of a viewer";
const TEMPORARY: &str = ".dstext";
/// Keys for characters: prefix of the XKB name (xkeyboard-config 2.42, `keycodes/evdev`) and keycodes. No layout and no part
/// that is added to every layout (`symbols/pc`, `symbols/inet`) has symbols for them. Programs by X11 know those below 256 only.
const KEYS: [(&str, RangeInclusive<u32>); 9] = [
    ("I", 129..=129),
    ("FK19", 197..=197),
    ("FK24", 202..=202),
    ("I", 248..=248),
    ("I", 474..=492),
    ("I", 384..=396),
    ("I", 412..=417),
    ("I", 420..=423),
    ("I", 367..=371),
];
/// Distance of XKB keycodes from evdev codes.
const EVDEV_OFFSET: u32 = 8;

/// XKB name and keycode of the keys, in the order of use.
fn keys() -> impl Iterator<Item = (String, u32)> {
    KEYS.iter().flat_map(|(prefix, codes)| {
        codes.clone().map(move |code| {
            let name = if *prefix == "I" { format!("I{code}") } else { (*prefix).to_owned() };
            (name, code)
        })
    })
}

/// The two layouts. Each adds keys for characters to a layout of the desktop, and keeps those of earlier texts, whose key presses
/// GNOME Shell may not have delivered yet.
#[derive(Debug)]
pub struct TextLayouts {
    folder: OwnedFd,
    /// Number of layouts that were written.
    written: usize,
    /// Characters, by the index of their key.
    characters: Vec<char>,
    /// Index of the key to assign next once all have a character.
    oldest: usize,
}

/// A layout that was written.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    /// Name of the layout.
    pub name: &'static str,
    /// Name of its group, which no other one had.
    pub group: String,
}

impl TextLayouts {
    /// Opens the folder of the symbols. The desktop can write there: no link is followed.
    ///
    /// # Errors
    /// The folder does not exist, or is a link.
    pub fn open(runtime_dir: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, runtime_dir, flags | OFlags::PATH, Mode::empty())?;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let folder = openat2(&directory, FOLDER, flags | OFlags::RDONLY, Mode::empty(), beneath)?;
        Ok(Self { folder, written: 0, characters: Vec::new(), oldest: 0 })
    }

    /// True if no character has a key.
    pub const fn is_empty(&self) -> bool {
        self.characters.is_empty()
    }

    /// Assigns a key to each of `characters`, at most [`MAX_CHARACTERS`](crate::keymap::MAX_CHARACTERS). True if that changes the
    /// layout.
    pub fn assign(&mut self, characters: &[char]) -> bool {
        let mut is_changed = false;
        for character in characters {
            if self.characters.contains(character) {
                continue;
            }
            is_changed = true;
            if self.characters.len() < keys().count() {
                self.characters.push(*character);
                continue;
            }
            // There are more keys than characters of one text.
            while characters.contains(&self.characters[self.oldest]) {
                self.oldest = (self.oldest + 1) % self.characters.len();
            }
            self.characters[self.oldest] = *character;
        }
        is_changed
    }

    /// Evdev code of a character's key.
    pub fn code(&self, character: char) -> Option<u32> {
        let index = self.characters.iter().position(|assigned| *assigned == character)?;
        keys().nth(index).map(|(_, code)| code - EVDEV_OFFSET)
    }

    /// Writes the next layout: `base`, and the keys of the assigned characters.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self, base: KeyboardLayout) -> io::Result<Written> {
        let name = NAMES[self.written % NAMES.len()];
        let group = format!("{TEXT_GROUP} {}", self.written);
        self.written += 1;
        // The file of an interrupted write.
        let _absent = unlinkat(&self.folder, TEMPORARY, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.folder, TEMPORARY, flags, Mode::from_raw_mode(0o644))?;
        std::fs::File::from(file).write_all(symbols(base, &group, &self.characters).as_bytes())?;
        renameat(&self.folder, TEMPORARY, &self.folder, name)?;
        Ok(Written { name, group })
    }
}

/// XKB symbols of `base` and one key for each of `characters`. These keys have one level, so that Shift does not change them.
fn symbols(base: KeyboardLayout, group: &str, characters: &[char]) -> String {
    let mut text = format!(
        "default partial alphanumeric_keys\nxkb_symbols \"basic\" {{\n  include \"{}\"\n  name[Group1] = \"{group}\";\n",
        base.name()
    );
    for ((key, _), character) in keys().zip(characters) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  key <{key}> {{ [ {} ] }};", keysym(*character));
    }
    text + "};\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keymap::MAX_CHARACTERS;

    #[test]
    fn layout_for_text_adds_keys_to_its_base() {
        assert!(keys().count() >= MAX_CHARACTERS);
        let base = "de(nodeadkeys)".parse().expect("known");
        let text = symbols(base, "g 1", &['ü', '\n', '日', '€', '😀']);
        for line in [
            "include \"de(nodeadkeys)\"",
            "name[Group1] = \"g 1\";",
            "key <I129> { [ U00FC ] };",
            "key <FK19> { [ Return ] };",
            "key <I474> { [ U1F600 ] };",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn character_keeps_its_key_until_all_keys_are_assigned() -> io::Result<()> {
        let runtime = tempfile::tempdir()?;
        std::fs::create_dir_all(runtime.path().join(FOLDER))?;
        let mut layouts = TextLayouts::open(runtime.path())?;
        assert!(layouts.is_empty() && layouts.assign(&['ü', '日']) && !layouts.assign(&['日']));
        assert_eq!((layouts.code('ü'), layouts.code('日'), layouts.code('x')), (Some(121), Some(189), None));
        let others: Vec<char> = ('一'..).take(keys().count() - 2).collect();
        assert!(layouts.assign(&others) && layouts.code('ü') == Some(121));
        assert!(layouts.assign(&['ü', 'é']));
        assert_eq!((layouts.code('ü'), layouts.code('é'), layouts.code('日')), (Some(121), Some(189), None));
        Ok(())
    }

    #[test]
    fn layouts_take_turns_and_links_are_not_followed() -> io::Result<()> {
        let runtime = tempfile::tempdir()?;
        assert!(TextLayouts::open(runtime.path()).is_err(), "no folder");
        let folder = runtime.path().join(FOLDER);
        std::fs::create_dir_all(&folder)?;
        let victim = runtime.path().join("victim");
        std::fs::write(&victim, "kept")?;
        for name in [NAMES[0], TEMPORARY] {
            std::os::unix::fs::symlink(&victim, folder.join(name))?;
        }
        let mut layouts = TextLayouts::open(runtime.path())?;
        layouts.assign(&['c']);
        let us = KeyboardLayout::US;
        let written = [layouts.write(us)?, layouts.write(us)?, layouts.write(us)?];
        assert_eq!(written.each_ref().map(|it| it.name), [NAMES[0], NAMES[1], NAMES[0]]);
        assert_ne!(written[0].group, written[2].group, "GNOME Shell reads it again");
        assert_eq!(std::fs::read_to_string(&victim)?, "kept");
        assert!(std::fs::read_to_string(folder.join(NAMES[0]))?.contains("U0063"));

        std::fs::remove_dir_all(runtime.path().join("xkb"))?;
        std::os::unix::fs::symlink("/tmp", runtime.path().join("xkb"))?;
        assert!(TextLayouts::open(runtime.path()).is_err(), "a link");
        Ok(())
    }
}
