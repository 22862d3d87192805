//! The lab: a VM with virtio-gpu on the developer's machine, and containers in it.
//!
//! The host runs its own unpatched QEMU with virgl over a software GPU. The guest is Debian from disks built here. Desktops
//! and sidecars are `runc` containers that hold a render node and a shared folder.
//!
//! ```text
//! docker/NAME ───────────┐                            ┌─ guest: exec, copy           (ssh over a forwarded port)
//! tests/harness/vm/guest ┴ image ─ cache ─ disks ─ vm ┼─ container: start, kill, …   (runc over overlays of the disks)
//!                                   payload ─┘ └─ Xvfb└─ qmp, logs, ports
//! ```
//!
//! | module         | contents                                                                |
//! |----------------|-------------------------------------------------------------------------|
//! | [`cache`]      | build results, addressed by the hash of their inputs                    |
//! | [`image`]      | disks of the guest and of container images                              |
//! | [`payload`]    | disk with the programs under test                                       |
//! | [`sysroot`]    | headers and libraries for cross-compiled programs                       |
//! | [`Qemu`]       | QEMU of the machine, or of a newer Debian                               |
//! | [`vm`]         | boots, finds and ends VMs; the state of a VM is one folder              |
//! | [`guest`]      | commands and files in a VM                                              |
//! | [`container`]  | containers in a VM                                                      |
//! | [`hold`]       | background process that owns an environment after its command has ended |
//!
//! The crate does not depend on the programs under test or their protocols. Errors are [`anyhow`]'s: callers print them and
//! never branch on them.

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

/// Root of the working tree: recipes and guest files are read from it. The current directory takes precedence over the path
/// at compile time, because clones may share a target folder.
pub fn repository() -> PathBuf {
    let compiled = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.."));
    let Ok(here) = std::env::current_dir() else { return compiled };
    here.ancestors().find(|it| it.join("tests/harness/vm/guest").is_dir()).map_or(compiled, PathBuf::from)
}
