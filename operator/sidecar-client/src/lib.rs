//! HTTP client of the sidecar, and what its users share: the viewer URL, the browser, the doctor's options.

mod doctor;
mod fetch;
mod viewer;

pub use doctor::doctor_options;
pub use fetch::{FetchError, Limits, fetch, get, status};
pub use viewer::{open_browser, viewer_url};
