//! CPU time of the processes on a frame's path.

use std::fs;

use anyhow::{Context as _, Result};
use e2e::rig::{Rig, Stream};
use serde_json::{Value, json};

/// CPU time since each process started, in ticks.
pub struct CpuTicks {
    vmm: u64,
    sidecar: u64,
    host_agent: u64,
}

/// `USER_HZ`, the unit of `/proc/PID/stat` on every Linux: ticks per second.
const TICKS: f64 = 100.0;

impl CpuTicks {
    /// Reads `/proc` on the host and in the guest.
    pub fn now(rig: &Rig, stream: &Stream) -> Result<Self> {
        let host = |pid: u32| -> Result<u64> { ticks(&fs::read_to_string(format!("/proc/{pid}/stat"))?) };
        let guest = rig.vm.guest().check(&format!("cat /proc/{}/stat", stream.sidecar.pid()?))?;
        Ok(Self {
            vmm: host(rig.vm.qemu_pid())?,
            sidecar: ticks(&guest)?,
            host_agent: host(rig.host_agent.pid())?,
        })
    }

    /// Percent of one processor that each process used since `before`.
    pub fn percent_since(&self, before: &Self, seconds: f64) -> Value {
        let percent = |now: u64, before: u64| (now - before) as f64 / TICKS / seconds * 100.0;
        json!({
            "vmm": percent(self.vmm, before.vmm),
            "sidecar": percent(self.sidecar, before.sidecar),
            "host_agent": percent(self.host_agent, before.host_agent),
        })
    }
}

/// User and system time in `/proc/PID/stat`: fields 14 and 15 of proc(5), counted from the end of the name, which may
/// contain spaces.
fn ticks(stat: &str) -> Result<u64> {
    let (_, rest) = stat.rsplit_once(')').context("/proc/PID/stat has no process name")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |at: usize| -> Result<u64> {
        let field = fields.get(at).context("/proc/PID/stat has too few fields")?;
        field.parse().with_context(|| format!("{field:?} in /proc/PID/stat is not a number"))
    };
    Ok(field(11)? + field(12)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_name_with_spaces_is_skipped() {
        let stat = "7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 30 12 13 14";
        assert_eq!(ticks(stat).expect("valid"), 42);
        assert!(ticks("7 (a) S 1").is_err());
    }
}
