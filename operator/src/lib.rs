//! Runs DesktopStreams: turns what users write into pods, tokens and Services, and says what became of it.
//!
//! ```text
//! api ◀── plan ◀── kube, webhook, docker        node
//! ```
//! `api` is what users write, `plan` decides and does no IO, the others talk: `kube` to the apiserver,
//! `webhook` is talked to by it, `docker` to a Docker Engine, `node` to the kubelet and the device files of its
//! node. None knows our other crates: sidecars and host-agents are spoken to by command line, HTTP and Secrets.

pub mod api;
pub mod check;
pub mod cli;
pub mod docker;
pub mod install;
pub mod kube;
pub mod node;
pub mod plan;
pub mod plugin;
pub mod webhook;
