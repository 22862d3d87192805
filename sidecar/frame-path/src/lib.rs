//! Carries captured frames to an encoder by resource ID, as pixels or locally, and returns access units.

pub mod fallback;
pub mod local;
pub mod pixels;
pub mod pump;
pub mod report;
pub mod source_switch;
pub mod upstream;
