//! Actions of a backend, after control and pressed state were checked.

use contract::input::{Fraction, KeyCode, KeyboardLayout, PointerButton, Text};

/// One change of the desktop's input devices.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Presses or releases a key.
    Key {
        /// Physical key.
        code: KeyCode,
        /// True for pressed.
        down: bool,
    },
    /// Enters text.
    Text(Text),
    /// Moves the pointer to a position of the picture.
    Pointer {
        /// Horizontal position.
        x: Fraction,
        /// Vertical position.
        y: Fraction,
    },
    /// Moves the pointer by logical pixels.
    Motion {
        /// Distance to the right.
        dx: f64,
        /// Distance downwards.
        dy: f64,
    },
    /// Presses or releases a button.
    Button {
        /// Button whose state changes.
        button: PointerButton,
        /// True for pressed.
        down: bool,
    },
    /// Scrolls smoothly by logical pixels.
    Scroll {
        /// Distance to the right.
        dx: f64,
        /// Distance downwards.
        dy: f64,
    },
    /// Scrolls by 120ths of a detent.
    Wheel {
        /// Distance to the right.
        dx: f64,
        /// Distance downwards.
        dy: f64,
    },
    /// Begins a touch.
    TouchDown {
        /// Number of the touch point, below [`contract::input::MAX_TOUCHES`].
        slot: u8,
        /// Horizontal position.
        x: Fraction,
        /// Vertical position.
        y: Fraction,
    },
    /// Moves a touch.
    TouchMove {
        /// Number of the touch point.
        slot: u8,
        /// Horizontal position.
        x: Fraction,
        /// Vertical position.
        y: Fraction,
    },
    /// Ends a touch.
    TouchUp {
        /// Number of the touch point.
        slot: u8,
    },
    /// Selects the keyboard layout.
    Layout(KeyboardLayout),
}

impl Action {
    /// True if a later position makes this one unnecessary.
    pub const fn is_position(&self) -> bool {
        matches!(self, Self::Pointer { .. })
    }
}
