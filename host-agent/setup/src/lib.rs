//! Installs host-agent and its tap: the service definition, VMMs with the tap inserted, applications that contain a VMM.

#![forbid(unsafe_code)]

pub mod app;
pub mod binary;
pub mod renderer;
pub mod run;
pub mod service;
pub mod steps;
