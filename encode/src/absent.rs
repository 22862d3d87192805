//! Replacement for the GStreamer backend on systems without it: the same items, and no elements.

use crate::encoder::{EncodeError, Encoder, Picture, Settings, Sink};

/// The empty list of elements.
pub mod elements {
    /// An element; has no values.
    #[derive(Debug)]
    pub struct Element {
        /// Factory name.
        pub name: &'static str,
        /// True for a hardware encoder.
        pub hardware: bool,
        never: std::convert::Infallible,
    }

    impl Element {
        pub(super) fn absurd(&self) -> ! {
            match self.never {}
        }
    }

    /// All supported elements.
    pub static ELEMENTS: [Element; 0] = [];

    /// The supported element with this name.
    pub fn find(_name: &str) -> Option<&'static Element> {
        None
    }
}

/// A GStreamer encoder; has no values.
#[derive(Debug)]
pub struct Gst(std::convert::Infallible);

impl Gst {
    /// Cannot be called, because there is no element.
    pub fn new(
        element: &'static elements::Element,
        _settings: Settings,
        _sink: Sink,
    ) -> Result<Self, EncodeError> {
        element.absurd()
    }
}

impl Encoder for Gst {
    fn name(&self) -> &str {
        match self.0 {}
    }

    fn submit(&mut self, _: &Picture, _: u64, _: u64, _: bool) -> Result<(), EncodeError> {
        match self.0 {}
    }

    fn set_rate(&mut self, _: u32, _: u32) -> Result<(), EncodeError> {
        match self.0 {}
    }
}

impl Drop for Gst {
    fn drop(&mut self) {
        match self.0 {}
    }
}
