//! Keyboard layouts of GNOME Shell, and text without keys.
//!
//! GNOME Shell takes the layout from its setting `input-sources`, which dconf stores: its service on the session bus accepts
//! changes. Text whose characters the layout may lack is typed by keys that a file of XKB symbols in the runtime directory adds to
//! the layout ([`symbols`]). The shell reads a layout when it is selected, so two of them take turns.
//!
//! ```text
//! symbols file ─▶ ca.desrt.dconf.Writer.Change ─▶ GNOME Shell ─▶ wl_keyboard.keymap ─▶ keys
//! ```

mod keymap;
mod symbols;

use std::time::Duration;

use contract::input::{KeyboardLayout, Text};
use desktop_session::bus::{Target, call};
use glib::{Variant, VariantTy};
use zbus::Connection;

use self::keymap::CurrentKeymap;
use self::symbols::{TextLayouts, Written};
use crate::InputOptions;
use crate::keymap::parts;

const WRITER: Target<'static> = Target {
    service: "ca.desrt.dconf",
    path: "/ca/desrt/dconf/Writer/user",
    interface: "ca.desrt.dconf.Writer",
};
/// Key of `org.gnome.desktop.input-sources`. The first source is in force.
const SOURCES: &str = "/org/gnome/desktop/input-sources/sources";
/// Time limit for a change of the setting.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for the keymap that follows a change; 0.2 to 0.6 s were seen.
const KEYMAP_TIMEOUT: Duration = Duration::from_secs(10);

/// Reason why a layout is not in force.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The setting was not changed.
    #[error("cannot set the keyboard layout: {0}; install dconf-service in the desktop")]
    Setting(String),
    /// The layout's file cannot be written.
    #[error("cannot write a layout for text: {0}; set XKB_CONFIG_EXTRA_PATH as in docs/desktops.md")]
    Symbols(std::io::Error),
    /// The shell did not load the layout.
    #[error("GNOME Shell did not load keyboard layout {0} in time")]
    Keymap(&'static str),
}

/// Layouts of one desktop.
pub struct Layouts {
    connection: Connection,
    keymap: CurrentKeymap,
    text: Option<TextLayouts>,
    /// Layout of the viewer in control.
    selected: KeyboardLayout,
    /// Layout in force; `None` until a layout was set, and after a failure.
    current: Option<KeyboardLayout>,
}

impl Layouts {
    /// Watches the keymap. Changes no layout.
    pub fn connect(options: &InputOptions, connection: &Connection) -> Option<Self> {
        let keymap = CurrentKeymap::connect(options)?;
        let text = TextLayouts::open(&options.runtime_dir)
            .inspect_err(|error| {
                tracing::info!(%error, "text is limited to the characters of the keyboard layout");
            })
            .ok();
        let connection = connection.clone();
        Some(Self { connection, keymap, text, selected: KeyboardLayout::US, current: None })
    }

    /// Selects the layout, and waits until it is in force.
    ///
    /// # Errors
    /// The setting cannot be changed, or the shell does not load the layout.
    pub async fn select(&mut self, layout: KeyboardLayout) -> Result<(), LayoutError> {
        self.selected = layout;
        if self.current == Some(layout) { Ok(()) } else { self.apply().await }
    }

    /// Key presses that enter `text`, in parts with their different characters, which [`Self::prepare`] takes. `None` if the
    /// text is to be entered by keysyms.
    pub fn text_parts(&self, text: &Text) -> Option<Vec<(Vec<char>, Vec<usize>)>> {
        let needs_layout = !is_in_any_layout(text.as_str()) || !is_latin(self.selected);
        (needs_layout && self.text.is_some()).then(|| parts(text.as_str()))
    }

    /// Adds keys for these characters to the layout, and waits until they are in force.
    ///
    /// # Errors
    /// As [`Self::select`], or the layout cannot be written.
    pub async fn prepare(&mut self, characters: &[char]) -> Result<(), LayoutError> {
        let is_changed = self.text.as_mut().is_some_and(|text| text.assign(characters));
        if is_changed || self.current.is_none() { self.apply().await } else { Ok(()) }
    }

    /// Evdev code of a character's key after [`Self::prepare`].
    pub fn code(&self, character: char) -> Option<u32> {
        self.text.as_ref()?.code(character)
    }

    /// Sets the selected layout, with the keys for text once there are some.
    async fn apply(&mut self) -> Result<(), LayoutError> {
        self.current = None;
        if let Some(text) = self.text.as_mut().filter(|text| !text.is_empty()) {
            let Written { name, group } = text.write(self.selected).map_err(LayoutError::Symbols)?;
            self.set(name, &group, None).await?;
        } else {
            // Some layouts name their group otherwise.
            let after = Some(self.keymap.number());
            self.set(self.selected.name(), self.selected.description(), after).await?;
        }
        self.current = Some(self.selected);
        Ok(())
    }

    async fn set(&mut self, name: &'static str, group: &str, after: Option<u64>) -> Result<(), LayoutError> {
        let body = (changes(name),);
        let changed = call(&self.connection, WRITER, "Change", &body);
        match tokio::time::timeout(CHANGE_TIMEOUT, changed).await {
            Ok(Ok(_tag)) => {}
            Ok(Err(error)) => return Err(LayoutError::Setting(error.to_string())),
            Err(_) => return Err(LayoutError::Setting("dconf did not reply in time".to_owned())),
        }
        if !self.keymap.becomes(group, after, KEYMAP_TIMEOUT).await {
            return Err(LayoutError::Keymap(name));
        }
        Ok(())
    }
}

/// Changes for `ca.desrt.dconf.Writer.Change`: a GVariant `a{smv}` of keys and their values (dconf, `dconf-changeset.c`).
/// `name` is an entry of [`contract::input::LAYOUTS`] or of [`symbols::NAMES`].
fn changes(name: &str) -> Vec<u8> {
    let source = name.trim_end_matches(')').replace('(', "+");
    let text = format!("{{'{SOURCES}': just <[('xkb', '{source}')]>}}");
    VariantTy::new("a{smv}")
        .and_then(|kind| {
            Variant::parse(Some(kind), &text).map_err(|_| glib::bool_error!("no GVariant: {text}"))
        })
        .map(|changes| changes.data().to_vec())
        .unwrap_or_default()
}

/// True if all characters are in the first two levels of every Latin layout, without dead keys.
fn is_in_any_layout(text: &str) -> bool {
    text.chars().all(|character| character.is_ascii_alphanumeric() || " .,\n\t".contains(character))
}

/// True for a layout with the letters A to Z.
fn is_latin(layout: KeyboardLayout) -> bool {
    !matches!(
        layout.name(),
        "rs" | "bg"
            | "bg(phonetic)"
            | "gr"
            | "ru"
            | "ua"
            | "by"
            | "il"
            | "ara"
            | "ir"
            | "in"
            | "th"
            | "mk"
            | "ge"
            | "am"
            | "kz"
            | "mn"
            | "pk"
            | "bd"
            | "lk"
            | "np"
            | "kh"
            | "la"
            | "mm"
            | "et"
            | "my"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_a_serialized_gvariant() {
        let changes = changes("de(nodeadkeys)");
        let mut expected = b"/org/gnome/desktop/input-sources/sources\0".to_vec();
        expected.resize(48, 0);
        // Array of one pair of strings: the end of its first string, then the end of the pair.
        expected.extend(b"xkb\0de+nodeadkeys\0\x04\x13\0a(ss)");
        // The maybe's mark, the end of the key, the end of the entry.
        expected.extend([0, 41]);
        let end = u8::try_from(expected.len()).expect("short");
        expected.push(end);
        assert_eq!(changes, expected);
    }

    #[test]
    fn characters_of_any_latin_layout_need_no_layout_of_their_own() {
        assert!(is_in_any_layout("Gr5 x.\n") && !is_in_any_layout("ü") && !is_in_any_layout("^"));
        assert!(is_latin(KeyboardLayout::US) && !is_latin("ru".parse().expect("known")));
    }
}
