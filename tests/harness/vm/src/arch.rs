//! Differences between guests by processor architecture.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// Processor architecture of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arch {
    /// 64-bit x86.
    Amd64,
    /// 64-bit ARM, the architecture of guests on a Mac.
    Arm64,
}

/// The architecture of this machine: it boots fastest and needs no cross-compilation.
impl Default for Arch {
    fn default() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Amd64 }
    }
}

impl Arch {
    /// All architectures.
    pub const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// Debian's name.
    pub fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// GNU triplet, also the name of Debian's multiarch folders.
    pub fn gnu_triplet(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu",
            Self::Arm64 => "aarch64-linux-gnu",
        }
    }

    /// Rust target of guest programs.
    pub fn rust_target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// Debian metapackage of the newest kernel.
    pub fn kernel_package(self) -> &'static str {
        match self {
            Self::Amd64 => "linux-image-amd64",
            Self::Arm64 => "linux-image-arm64",
        }
    }

    /// QEMU system emulator.
    pub fn qemu(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-system-x86_64",
            Self::Arm64 => "qemu-system-aarch64",
        }
    }

    /// True for the architecture of this machine: KVM may work and programs run without emulation.
    pub fn is_native(self) -> bool {
        self == Self::default()
    }

    /// Name of a cache entry. Entries for amd64 have no suffix.
    pub(crate) fn entry_name(self, name: &str) -> String {
        match self {
            Self::Amd64 => name.to_owned(),
            Self::Arm64 => format!("{name}-{}", self.debian()),
        }
    }

    /// Script in `image/` to run instead of `docker/common/finish.sh`; it calls that script last.
    pub(crate) fn finish(self) -> Option<&'static str> {
        match self {
            Self::Amd64 => None,
            Self::Arm64 => Some("finish-arm64.sh"),
        }
    }

    pub(crate) fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "q35",
            // The newest interrupt controller available: under KVM, that of the host.
            Self::Arm64 => "virt,gic-version=max",
        }
    }

    /// CPU model for TCG. Emulated AVX2 takes 2.5 times as long as SSE for the same pixels, which would bias comparisons with
    /// conversion in the guest.
    pub(crate) fn emulated_cpu(self) -> &'static str {
        match self {
            Self::Amd64 => "max,avx2=off",
            // "max" includes pointer authentication, whose emulation dominates the run time of programs.
            Self::Arm64 => "cortex-a72",
        }
    }

    pub(crate) fn console(self) -> &'static str {
        match self {
            Self::Amd64 => "ttyS0",
            Self::Arm64 => "ttyAMA0",
        }
    }

    /// Kernel arguments that shorten the boot under emulation. `tsc=reliable`: an unstable TSC makes the kernel patch running
    /// code, which QEMU before 8.1 emulates incorrectly (see `vm::boot`). `no_timer_check`: on a busy host the timer's ticks
    /// arrive too late for the kernel's test.
    pub(crate) fn kernel_speed(self) -> &'static str {
        match self {
            Self::Amd64 => "tsc=reliable no_timer_check",
            Self::Arm64 => "",
        }
    }

    /// QEMU devices for a GPU with 3D and for one without.
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

/// Parses Debian's name.
impl FromStr for Arch {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let Some(arch) = Self::ALL.into_iter().find(|arch| arch.debian() == name) else {
            bail!("unknown architecture {name:?}: use one of {}", Self::ALL.map(Self::debian).join(", "));
        };
        Ok(arch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architecture_name_parses_and_one_is_native() {
        for arch in Arch::ALL {
            assert_eq!(arch.to_string().parse::<Arch>().expect("parses"), arch);
        }
        assert!("m68k".parse::<Arch>().expect_err("unknown").to_string().contains("amd64, arm64"));
        assert_eq!(Arch::ALL.into_iter().filter(|arch| arch.is_native()).count(), 1);
    }
}
