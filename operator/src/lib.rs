//! The operator program: command line, installation manifests and the installation check.

mod check;
pub mod cli;
pub mod install;
