//! Everything that two programs of this project must agree on, apart from the wire formats in `protocol`.
//!
//! | module                  | producer               | consumers                                  |
//! |-------------------------|------------------------|--------------------------------------------|
//! | [`endpoint`]            | users, operator        | sidecar, host-agent, node-agent            |
//! | [`frame_path`]          | sidecar                | operator, viewers, tests                   |
//! | [`claims`]              | operator, `host-agent token` | host-agent                           |
//! | [`sidecar_status`]      | sidecar (`/status`)    | operator, kubectl plugin, tests            |
//! | [`host_agent_status`]   | host-agent (`/status`) | operator, `host-agent status`, tests       |
//! | [`input`]               | viewers' page          | sidecar, tests                             |
//! | [`clipboard`]           | viewers' page, desktop | sidecar, operator, tests                   |
//! | [`display`]             | viewers' page, operator | sidecar                                   |
//! | [`doctor`]              | every `doctor` command | people, kubectl plugin, tests              |
//! | [`names`]               | all                    | all                                        |
//! | [`stream_name`]         | users, operator        | operator, containers' labels               |
//!
//! JSON readers accept unknown fields and default missing ones, so that programs of neighbouring versions work
//! together. No IO, no unsafe code, no other crate of this project.

#![forbid(unsafe_code)]

pub mod claims;
pub mod clipboard;
pub mod display;
pub mod doctor;
pub mod endpoint;
pub mod frame_path;
pub mod host_agent_status;
pub mod input;
pub mod names;
pub mod quantiles;
pub mod sidecar_status;
pub mod stream_name;

pub use claims::Claims;
pub use endpoint::Endpoint;
pub use frame_path::FramePath;
pub use host_agent_status::HostAgentStatus;
pub use sidecar_status::{HostAgentConnection, SidecarStatus};
pub use stream_name::StreamName;
