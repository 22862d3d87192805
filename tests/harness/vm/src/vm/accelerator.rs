//! Chooses KVM if it works, else TCG. An accessible `/dev/kvm` is not sufficient: on some nested hosts QEMU opens it and fails
//! at the first guest instruction, so a trial VM is run.

use std::fmt;
use std::fs::OpenOptions;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::arch::Arch;
use crate::emulator::Emulator;

/// Time that the trial VM must survive.
const TRIAL: Duration = Duration::from_secs(6);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    pub(super) fn argument(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg,thread=multi",
        }
    }
}

/// Number of guest CPUs. One under TCG of QEMU before 8.1: while one CPU patches code that another executes (Linux does this
/// for static keys), the other may execute a mix of both (QEMU commit deba78709ae8), and the guest kernel panics.
pub(super) fn cpus(accelerator: Accelerator, emulator: &Emulator, requested: u32) -> u32 {
    if accelerator == Accelerator::Tcg && emulator.version().is_none_or(|version| version < (8, 1)) {
        1
    } else {
        requested
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

pub(super) fn choose(arch: Arch) -> Accelerator {
    static CHOICE: OnceLock<Accelerator> = OnceLock::new();
    if !arch.is_native() {
        return Accelerator::Tcg;
    }
    *CHOICE.get_or_init(|| if kvm_runs(arch) { Accelerator::Kvm } else { Accelerator::Tcg })
}

fn kvm_runs(arch: Arch) -> bool {
    if OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return false;
    }
    let mut trial = Command::new(arch.qemu());
    trial
        .args([
            "-nodefaults",
            "-display",
            "none",
            "-accel",
            "kvm",
            "-cpu",
            "host",
            "-m",
            "64",
            "-machine",
            arch.machine(),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let Ok(mut child) = trial.spawn() else { return false };
    let deadline = Instant::now() + TRIAL;
    let mut alive = true;
    while alive && Instant::now() < deadline {
        sleep(Duration::from_millis(50));
        alive = matches!(child.try_wait(), Ok(None));
    }
    super::end_child(&mut child);
    alive
}
