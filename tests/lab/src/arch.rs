//! What differs between guests by processor. A new one is a new variant, and the compiler names the places to fill in.

use serde::{Deserialize, Serialize};

/// A guest's processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Arch {
    /// x86, 64 bits.
    #[default]
    Amd64,
}

impl Arch {
    /// Debian's name for it.
    pub fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
        }
    }

    /// Debian's package that depends on the newest kernel for it.
    pub fn kernel_package(self) -> &'static str {
        match self {
            Self::Amd64 => "linux-image-amd64",
        }
    }

    /// The program that emulates it.
    pub fn qemu(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-system-x86_64",
        }
    }

    pub(crate) fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "q35",
        }
    }

    /// The best CPU that QEMU itself can emulate.
    pub(crate) fn emulated_cpu(self) -> &'static str {
        match self {
            Self::Amd64 => "max",
        }
    }

    pub(crate) fn console(self) -> &'static str {
        match self {
            Self::Amd64 => "ttyS0",
        }
    }

    /// QEMU's device for a GPU with 3D, and for one without.
    pub(crate) fn gpu_devices(self) -> (&'static str, &'static str) {
        match self {
            Self::Amd64 => ("virtio-vga-gl", "virtio-vga"),
        }
    }

    /// Whether the machine at hand has it too, so that KVM is worth a try.
    pub(crate) fn is_native(self) -> bool {
        match self {
            Self::Amd64 => cfg!(target_arch = "x86_64"),
        }
    }
}
