//! host-agent: pairs sidecars with the GPU contexts of their VMs and encodes their pictures.
//!
//! ```text
//!   sidecar --stream--> listen -> connection --orders, pixels--> inbox -> worker -> encode
//!                          ^           |                            ^        |
//!                          |          hub <--binds-- link <--tap    |ring    |access units
//!                          +--outbox <----------------------------------------+
//! ```
//!
//! | module         | what                                                                |
//! |----------------|---------------------------------------------------------------------|
//! | [`serve`]      | the daemon: opens, runs and ends everything                         |
//! | [`connection`] | a sidecar's connection: handshake, messages                         |
//! | [`hub`]        | which session is bound to which context of which VM                 |
//! | [`link`]       | taps' connections, with descriptors                                 |
//! | [`worker`]     | a session's encoder thread                                          |
//! | [`encoders`]   | VideoToolbox on a Mac, and all that `encode` knows                  |
//! | [`outbox`]     | what waits for a sidecar: bounded, whatever it does                 |
//! | [`hxfr`]       | the predecessor's protocol, off unless asked for                    |
//! | [`admin`]      | `/healthz`, `/readyz`, `/metrics`, `/status`                        |
//! | [`doctor`]     | which leg of the path fails                                         |
//! | [`selftest`]   | what can be tried without a VM                                      |
//! | [`run`]        | a VMM with the tap inserted                                         |
//! | [`app`]        | the tap in an application like UTM, and out of it                   |
//! | [`service`]    | the daemon as a launchd agent or systemd unit                       |
//! | [`steps`]      | what installing does, as a list                                     |
//! | [`log_file`]   | a log that keeps to its share of the disk                           |
//! | [`binary`]     | what an ELF or Mach-O file says of itself                           |
//! | [`renderer`]   | whether a virglrenderer is one that the tap knows                   |
//!
//! It does not capture, does not know resources or GPUs, and never decides from what a guest claims which
//! pictures a session may have: the tap's answer about the kernel's context ID does.

#![forbid(unsafe_code)]

pub mod admin;
pub mod auth;
pub mod canvas;
pub mod cli;
pub mod config;
pub mod config_file;
pub mod connection;
pub mod doctor;
pub mod encoders;
pub mod hub;
pub mod hxfr;
pub mod inbox;
pub mod link;
pub mod listen;
pub mod log_file;
pub mod meter;
pub mod metrics;
pub mod outbox;
pub mod rate;
pub mod selftest;
pub mod serve;
pub mod status;
mod sys;
pub mod token;
pub mod waker;
pub mod wire;
pub mod worker;
