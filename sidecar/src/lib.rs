//! The sidecar: captures a desktop, hands its frames to the host, serves its viewers.
//!
//! ```text
//! capture ──▶ pump ──┬─ ResourceId: virtgpu's mailbox ─▶ tap ─▶ host-agent ─┐
//!                    ├─ Pixels:     upstream ─────────────────▶ host-agent ─┤ access units
//!                    └─ Local:      local encoder ──────────────────────────┤
//!                                                  viewers ◀── hub ◀── gate ┘
//! ```
//!
//! [`ladder`] decides which rung; [`report`] knows what everything is up to.

pub mod capture;
pub mod cli;
pub mod clock;
pub mod doctor;
pub mod gate;
pub mod ladder;
pub mod local;
pub mod metrics;
pub mod pixels;
pub mod pump;
pub mod report;
pub mod resolve;
pub mod run;
pub mod upstream;
pub mod viewers;
