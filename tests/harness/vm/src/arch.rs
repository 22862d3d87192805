//! What differs between guests by processor. A new one is a new variant, and the compiler names the places to fill in.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// A guest's processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arch {
    /// x86, 64 bits.
    Amd64,
    /// ARM, 64 bits: what a Mac's guests have.
    Arm64,
}

/// What the machine at hand has: it boots fastest, and needs no cross build.
impl Default for Arch {
    fn default() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Amd64 }
    }
}

impl Arch {
    /// Each of them.
    pub const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// Debian's name for it.
    pub fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Its name in the GNU tools and in Debian's multi-architecture folders.
    pub fn gnu_triplet(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu",
            Self::Arm64 => "aarch64-linux-gnu",
        }
    }

    /// Rust's name for programs of its guests.
    pub fn rust_target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// Debian's package that depends on the newest kernel for it.
    pub fn kernel_package(self) -> &'static str {
        match self {
            Self::Amd64 => "linux-image-amd64",
            Self::Arm64 => "linux-image-arm64",
        }
    }

    /// The program that emulates it.
    pub fn qemu(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-system-x86_64",
            Self::Arm64 => "qemu-system-aarch64",
        }
    }

    /// Whether the machine at hand has it too, so that KVM is worth a try and its programs run as they are.
    pub fn is_native(self) -> bool {
        self == Self::default()
    }

    /// What the cache calls something of it. The first processor's entries have plain names.
    pub(crate) fn entry_name(self, name: &str) -> String {
        match self {
            Self::Amd64 => name.to_owned(),
            Self::Arm64 => format!("{name}-{}", self.debian()),
        }
    }

    /// The script in `image/` that takes the place of `docker/common/finish.sh`, which it ends with.
    pub(crate) fn finish(self) -> Option<&'static str> {
        match self {
            Self::Amd64 => None,
            Self::Arm64 => Some("finish-arm64.sh"),
        }
    }

    pub(crate) fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "q35",
            // The newest interrupt controller that there is: under KVM, the machine's own.
            Self::Arm64 => "virt,gic-version=max",
        }
    }

    /// The CPU that QEMU itself emulates best. Emulated AVX2 takes 2.5 times as long as SSE for the same pixels, which
    /// would flatter whatever is compared with converting them in the guest.
    pub(crate) fn emulated_cpu(self) -> &'static str {
        match self {
            Self::Amd64 => "max,avx2=off",
            // "max" signs pointers, and emulating that takes longer than what the program does with them.
            Self::Arm64 => "cortex-a72",
        }
    }

    pub(crate) fn console(self) -> &'static str {
        match self {
            Self::Amd64 => "ttyS0",
            Self::Arm64 => "ttyAMA0",
        }
    }

    /// Kernel arguments that save boot time on an emulated one. The clock is trusted, as when the kernel finds it wanting it
    /// rewrites code that runs, which old QEMUs get wrong (see `vm::boot`); and the timer, as on a busy host its ticks come
    /// too late for the kernel's test.
    pub(crate) fn kernel_speed(self) -> &'static str {
        match self {
            Self::Amd64 => "tsc=reliable no_timer_check",
            Self::Arm64 => "",
        }
    }

    /// QEMU's device for a GPU with 3D, and for one without.
    pub(crate) fn gpu_devices(self) -> (&'static str, &'static str) {
        match self {
            Self::Amd64 => ("virtio-vga-gl", "virtio-vga"),
            Self::Arm64 => ("virtio-gpu-gl-pci", "virtio-gpu-pci"),
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.debian())
    }
}

/// By Debian's name.
impl FromStr for Arch {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let Some(arch) = Self::ALL.into_iter().find(|arch| arch.debian() == name) else {
            bail!("no architecture {name:?}: there are {}", Self::ALL.map(Self::debian).join(", "));
        };
        Ok(arch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_one_is_at_hand() {
        for arch in Arch::ALL {
            assert_eq!(arch.to_string().parse::<Arch>().expect("its own name"), arch);
        }
        assert!("m68k".parse::<Arch>().expect_err("not ours").to_string().contains("amd64, arm64"));
        assert_eq!(Arch::ALL.into_iter().filter(|arch| arch.is_native()).count(), 1);
    }
}
