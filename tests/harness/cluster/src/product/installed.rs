//! A testbed with an installation, as the fixture of a test suite.

use std::ops::{Deref, DerefMut};

use anyhow::{Context as _, Result};

use super::Testbed;
use crate::suite::Fixture;

/// Namespaced objects that tests create in `default`, and that are deleted after a failed test.
const CREATED_BY_TESTS: &str = "desktopstreams,deployments,statefulsets,jobs,pods,resourcequotas";

/// A testbed in which operator and node-agents are installed with fixed arguments.
pub struct Installed {
    bed: Testbed,
    arguments: &'static [&'static str],
}

impl Deref for Installed {
    type Target = Testbed;

    fn deref(&self) -> &Testbed {
        &self.bed
    }
}

impl DerefMut for Installed {
    fn deref_mut(&mut self) -> &mut Testbed {
        &mut self.bed
    }
}

impl Installed {
    /// Creates a cluster and installs operator and node-agents with these arguments of `operator install-manifests`.
    pub fn up(name: &str, nodes: u8, arguments: &'static [&'static str]) -> Result<Self> {
        let bed = Testbed::up(name, nodes)?;
        bed.install(arguments).context("installing")?;
        Ok(Self { bed, arguments })
    }

    /// Applies the manifests again and waits for one operator, after a test removed or replaced parts of the installation.
    pub fn reinstall(&self) -> Result<()> {
        self.bed.apply_manifests(self.arguments)?;
        self.bed.scale(1)?;
        self.bed.await_installation()
    }
}

impl Fixture for Installed {
    fn check(&self) -> Result<()> {
        self.bed.check_no_streams()
    }

    fn restore(&mut self) -> Result<()> {
        self.bed.cluster.start_ended_daemons()?;
        self.bed.eventually("the apiserver answers", || self.bed.streams())?;
        self.reinstall()?;
        self.bed.cluster.kubectl(&["uncordon", "--selector=kubernetes.io/os=linux"])?;
        self.bed.cluster.kubectl(&["delete", "hostagents", "--all"])?;
        let streams = self.bed.streams()?;
        self.bed.cluster.kubectl(&[
            "delete",
            CREATED_BY_TESTS,
            "--all",
            "-n",
            "default",
            "--grace-period=1",
        ])?;
        self.bed.delete_streams(&streams.iter().map(String::as_str).collect::<Vec<_>>())
    }
}
