//! The GStreamer plugin, built only for the suite that tests it.

use anyhow::{Context as _, Result, ensure};

use super::{Programs, cargo, cross, strip, target};

/// Package and library file.
const PLUGIN: (&str, &str) = ("gst-plugin-desktopstream", "libgstdesktopstream.so");

impl Programs {
    /// Compiles the GStreamer plugin into the payload.
    ///
    /// # Errors
    /// Fails if cargo fails.
    pub fn with_plugin(self) -> Result<Self> {
        let (package, library) = PLUGIN;
        let to = self.payload().join(library);
        if !self.arch.is_native() {
            let built = cross::build(self.arch, &[package], &target()?)?.join(library);
            std::fs::copy(&built, &to).with_context(|| format!("copying {}", built.display()))?;
            return Ok(self);
        }
        let status =
            cargo().args(["build", "--release", "-p", package]).status().context("starting cargo")?;
        ensure!(status.success(), "cargo could not build {package}; see its messages above");
        strip(&target()?.join("release").join(library), &to)?;
        Ok(self)
    }
}
