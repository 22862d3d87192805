//! The GStreamer plugin, which only the suite that tests it needs.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use lab::repository;

use super::{Programs, strip, target};

/// Package, and library.
const PLUGIN: (&str, &str) = ("gst-plugin-desktopstream", "libgstdesktopstream.so");

impl Programs {
    /// Compiles the GStreamer plugin for guests with the machine's own processor, into the payload.
    pub fn with_plugin(self) -> Result<Self> {
        let (package, library) = PLUGIN;
        let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .current_dir(repository())
            .args(["build", "--release", "--quiet", "-p", package])
            .stdin(Stdio::null())
            .status()
            .context("starting cargo")?;
        ensure!(status.success(), "cargo could not build {package}; its messages are above");
        strip(&target()?.join("release").join(library), &self.payload().join(library))?;
        Ok(self)
    }
}
