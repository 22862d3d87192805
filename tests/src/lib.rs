//! Test rig of the whole frame path: a VM with a GPU and the tap, a host-agent, a desktop and its sidecar in containers.
//! The tests, `./x demo` and `./x bench` run on it.
//!
//! | module         | contents                                                        |
//! |----------------|-----------------------------------------------------------------|
//! | [`build`]      | compiles the programs and lays out the VM's payload             |
//! | [`rig`]        | starts and joins host-agent, VM, desktop and sidecar            |
//! | [`host_agent`] | a host-agent process on the host                                |
//! | [`checks`]     | assertions that hold for every stream                           |
//! | [`browser`]    | Chromium as a viewer                                            |
//! | [`person`]     | a person's steps in the page                                    |
//! | [`video`]      | decodes a stream and reads the pattern's frame numbers          |
//! | [`neighbours`] | containers beside a stream in one VM                            |
//! | [`http`]       | HTTP requests on loopback                                       |
//! | [`wait`]       | polling for a condition                                         |
//!
//! Errors are [`anyhow`]'s: callers print them and never branch on them.

pub mod browser;
pub mod build;
pub mod checks;
pub mod host_agent;
pub mod http;
pub mod neighbours;
pub mod person;
pub mod rig;
pub mod video;
pub mod wait;

pub use anyhow::Result;
pub use build::{Programs, cross_build};
pub use host_agent::HostAgent;
pub use rig::{Desktop, Rig, RigOptions};
