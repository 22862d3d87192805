//! Installs host-agent and its tap: the user's service, VMMs started with the tap preloaded, and
//! applications whose bundled virglrenderer is replaced by the drop-in form of the tap.
//!
//! | module           | purpose                                                                     |
//! |------------------|-----------------------------------------------------------------------------|
//! | [`service`]      | host-agent as a launchd agent or systemd user unit                           |
//! | [`application`]  | the drop-in in an application bundle like UTM's, and its removal            |
//! | [`launch`]       | a VMM started with the tap preloaded                                        |
//! | [`install_plan`] | the actions of an installation: planned first, executed or printed later    |
//! | [`binary`]       | headers of ELF and Mach-O files                                             |
//! | [`renderer`]     | compatibility of a virglrenderer library with the tap                       |
//!
//! This crate does not depend on the daemon: paths and addresses are parameters.

#![forbid(unsafe_code)]

pub mod application;
pub mod binary;
pub mod install_plan;
pub mod launch;
pub mod renderer;
pub mod service;
mod sys;
