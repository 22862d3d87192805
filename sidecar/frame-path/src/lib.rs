//! Sends captured frames to an encoder, by resource ID, as pixels or locally, and returns access units.
//!
//! | module            | purpose                                                                            |
//! |-------------------|------------------------------------------------------------------------------------|
//! | [`fallback`]      | choice of the frame path, without IO                                               |
//! | [`pump`]          | submits the newest frame by that path; the only user of the mailbox                |
//! | [`upstream`]      | stream connection to the host-agent                                                |
//! | [`source_switch`] | forwards access units of one encoder at a time                                     |
//! | [`report`]        | status and counters                                                                |

#![forbid(unsafe_code)]

pub mod fallback;
mod local;
mod pixels;
pub mod pump;
pub mod report;
pub mod source_switch;
pub mod upstream;
