//! host-agent: pairs sidecars with the GPU contexts of their VMs and encodes their frames.
//!
//! ```text
//!   sidecar --stream--> listen -> connection --orders, pixels--> inbox -> worker -> encode
//!                          ^           |                            ^        |
//!                          |          hub <--binds-- link <--tap    |ring    |access units
//!                          +--outbox <----------------------------------------+
//! ```
//!
//! | module               | purpose                                                                 |
//! |----------------------|-------------------------------------------------------------------------|
//! | [`cli`]              | command line; wires the daemon and the installer (`host-agent-setup`)   |
//! | [`config`]           | options of flags, environment and file                                  |
//! | [`serve`]            | the daemon: opens, runs and shuts down everything                       |
//! | [`pending`]          | places of connections that are not authenticated                        |
//! | [`connection`]       | a sidecar's connection: handshake and messages                          |
//! | [`hub`]              | sessions, taps, and the bindings between them                           |
//! | [`link`]             | connections of taps                                                     |
//! | [`worker`]           | encoder thread of a session                                             |
//! | [`inbox`], [`outbox`]| queues between connection and worker                                    |
//! | [`canvas`]           | the frame that pushed rectangles add up to                              |
//! | [`encoders`]         | VideoToolbox on macOS, and the encoders of the crate `encode`           |
//! | [`hxfr`]             | the HXFR protocol                                                       |
//! | [`admin`]            | `/healthz`, `/readyz`, `/metrics`, `/status`                            |
//! | [`doctor`]           | checks of the frame path on the host                                    |
//! | [`selftest`]         | checks of a host without a VM                                           |
//!
//! A session may read only the resources of the GPU context that it is bound to. The tap checks that
//! against the context ID that the guest kernel attested; no claim of a guest's user space is trusted.

#![forbid(unsafe_code)]

mod accept;
pub mod admin;
pub mod auth;
pub mod canvas;
pub mod cli;
pub mod config;
pub mod config_file;
pub mod connection;
pub mod connection_limiter;
pub mod doctor;
pub mod encoders;
pub mod framing;
pub mod hub;
pub mod hxfr;
pub mod inbox;
pub mod keys;
pub mod lease;
pub mod link;
pub mod listen;
pub mod log_file;
pub mod meter;
pub mod metrics;
pub mod outbox;
pub mod pending;
pub mod selftest;
pub mod serve;
pub mod status;
mod sys;
pub mod tls_key;
pub mod worker;
