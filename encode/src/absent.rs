//! What stands in for the GStreamer backend where it is not built: the same names, no elements.

use crate::encoder::{EncodeError, Encoder, Picture, Settings, Sink};

/// The elements, of which there are none.
pub mod elements {
    /// Never exists.
    #[derive(Debug)]
    pub struct Element {
        /// Its name.
        pub name: &'static str,
        /// Whether it is a chip.
        pub hardware: bool,
        never: std::convert::Infallible,
    }

    impl Element {
        pub(super) fn absurd(&self) -> ! {
            match self.never {}
        }
    }

    /// None.
    pub static ELEMENTS: [Element; 0] = [];

    /// None.
    pub fn find(_name: &str) -> Option<&'static Element> {
        None
    }
}

/// Never exists.
#[derive(Debug)]
pub struct Gst(std::convert::Infallible);

impl Gst {
    /// Can't be called: there is no element.
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
