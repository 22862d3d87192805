//! The lab: a real VM with a real virtio-gpu, on the developer's machine, and containers in it.
//!
//! Everything that desktopstream claims is tried in here: the host's own unpatched QEMU with virgl over a software GPU, a
//! Debian guest whose disks we build, desktops and sidecars as `runc` containers that hold nothing but a render node and a
//! shared folder. No test double stands between a test and the path of a frame.
//!
//! ```text
//! docker/NAME ─┐                                   ┌─ guest: exec, copy          (ssh over a forwarded port)
//! tests/harness/vm/   ├─ image ─ cache ─ disks ─ vm ──────┼─ container: start, kill, …  (runc over overlays of the disks)
//!    guest ────┘             payload ─┘ └─ Xvfb    └─ qmp, logs, ports
//! ```
//!
//! - [`cache`] keeps what is built, by the hash of what it was built from.
//! - [`image`] builds the disks, [`payload`] the one with our own programs; [`sysroot`] is what programs for a guest with
//!   another processor are linked against.
//! - [`Qemu`] says whose QEMU: the machine's, or a newer Debian's.
//! - [`vm`] boots, finds and ends VMs; several can run, each is one folder of state.
//! - [`guest`] runs commands in a VM, [`container`] containers.
//! - [`hold`] keeps what is more than a VM when the command that put it up has ended.
//!
//! What is not here: anything about streams. The lab knows neither our protocol nor our programs.
//!
//! Errors are [`anyhow`]'s: those who call are tests and people, who read them and never decide by them.

pub mod arch;
pub mod cache;
pub mod container;
mod cpio;
mod emulator;
pub mod guest;
pub mod hold;
pub mod host;
pub mod image;
pub mod payload;
mod progress;
pub mod sysroot;
pub mod vm;

pub use anyhow::Result;
pub use arch::Arch;
pub use container::{Container, RenderAccess, Runtime, Spec};
pub use emulator::Qemu;
pub use guest::{Guest, Output};
pub use vm::{Gpu, Network, Tap, Vm, VmConfig};

use std::path::PathBuf;

/// The working tree that this program runs in: recipes and guest files are read from it. A program compiled in one clone
/// can be run in another (they may share a target folder), so the folder at hand counts before the one compiled in.
pub fn repository() -> PathBuf {
    let compiled = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.."));
    let Ok(here) = std::env::current_dir() else { return compiled };
    here.ancestors().find(|it| it.join("tests/harness/vm/guest").is_dir()).map_or(compiled, PathBuf::from)
}
