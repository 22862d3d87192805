//! The `operator` program: command line, installation manifests and the check of an installation.

mod check;
pub mod cli;
pub mod install;
mod installation;
