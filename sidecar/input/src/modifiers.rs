//! State of a keyboard's modifiers. A compositor does not derive it from the keys of a virtual keyboard.

use std::collections::BTreeSet;

use contract::input::{KeyCode, KeyboardLayout};

/// Real modifiers of X11 (`ShiftMask` to `Mod5Mask` of `<X11/X.h>`), to which all layouts of xkeyboard-config map.
const SHIFT: u32 = 1 << 0;
const LOCK: u32 = 1 << 1;
const CONTROL: u32 = 1 << 2;
const ALT: u32 = 1 << 3;
const NUM_LOCK: u32 = 1 << 4;
const SUPER: u32 = 1 << 6;
const LEVEL3: u32 = 1 << 7;
/// `KEY_CAPSLOCK` and `KEY_NUMLOCK` of `<linux/input-event-codes.h>`.
const KEY_CAPS_LOCK: u16 = 58;
const KEY_NUM_LOCK: u16 = 69;

/// Pressed and locked modifiers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Modifiers {
    pressed: BTreeSet<u16>,
    locked: u32,
    layout: KeyboardLayout,
}

impl Modifiers {
    /// No modifiers but Num Lock, so that the keypad gives digits.
    pub const fn new(layout: KeyboardLayout) -> Self {
        Self { pressed: BTreeSet::new(), locked: NUM_LOCK, layout }
    }

    /// Changes the layout, which decides over the right Alt key.
    pub const fn set_layout(&mut self, layout: KeyboardLayout) {
        self.layout = layout;
    }

    /// Layout in use.
    pub const fn layout(&self) -> KeyboardLayout {
        self.layout
    }

    /// Applies a key; true if modifiers changed.
    pub fn key(&mut self, code: KeyCode, down: bool) -> bool {
        let before = (self.depressed(), self.locked);
        let code = code.evdev();
        match code {
            KEY_CAPS_LOCK if down => self.locked ^= LOCK,
            KEY_NUM_LOCK if down => self.locked ^= NUM_LOCK,
            _ if down => {
                if self.mask(code) != 0 {
                    self.pressed.insert(code);
                }
            }
            _ => {
                self.pressed.remove(&code);
            }
        }
        before != (self.depressed(), self.locked)
    }

    /// Mask of pressed modifiers.
    pub fn depressed(&self) -> u32 {
        self.pressed.iter().fold(0, |mask, code| mask | self.mask(*code))
    }

    /// Mask of locked modifiers.
    pub const fn locked(&self) -> u32 {
        self.locked
    }

    /// Modifier of a key of `<linux/input-event-codes.h>`; 0 if it is none.
    fn mask(&self, code: u16) -> u32 {
        match code {
            42 | 54 => SHIFT,
            29 | 97 => CONTROL,
            100 if self.layout.has_alt_gr() => LEVEL3,
            56 | 100 => ALT,
            125 | 126 => SUPER,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> KeyCode {
        name.parse().expect("a key")
    }

    #[test]
    fn modifier_is_pressed_until_both_of_its_keys_are_released() {
        let mut modifiers = Modifiers::new(KeyboardLayout::US);
        assert!(modifiers.key(key("ShiftLeft"), true));
        assert!(!modifiers.key(key("ShiftRight"), true));
        assert!(!modifiers.key(key("ShiftLeft"), false));
        assert_eq!(modifiers.depressed(), SHIFT);
        assert!(modifiers.key(key("ShiftRight"), false));
        assert!(!modifiers.key(key("KeyA"), true));
        assert_eq!(modifiers.depressed(), 0);
    }

    #[test]
    fn right_alt_is_the_third_level_in_layouts_that_have_one() {
        let mut modifiers = Modifiers::new("de".parse().expect("known"));
        modifiers.key(key("AltRight"), true);
        assert_eq!(modifiers.depressed(), LEVEL3);
        modifiers.set_layout(KeyboardLayout::US);
        assert_eq!(modifiers.depressed(), ALT);
    }

    #[test]
    fn lock_keys_toggle_when_pressed() {
        let mut modifiers = Modifiers::new(KeyboardLayout::US);
        assert_eq!(modifiers.locked(), NUM_LOCK);
        assert!(modifiers.key(key("CapsLock"), true));
        assert!(!modifiers.key(key("CapsLock"), false));
        assert_eq!(modifiers.locked(), NUM_LOCK | LOCK);
        modifiers.key(key("CapsLock"), true);
        modifiers.key(key("NumLock"), true);
        assert_eq!(modifiers.locked(), 0);
    }
}
