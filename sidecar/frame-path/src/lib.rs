//! Carries captured frames to an encoder and returns access units: by resource ID, as pixels, or encoded locally.

pub mod fallback;
pub mod gate;
pub mod local;
pub mod pixels;
pub mod pump;
pub mod report;
pub mod upstream;
