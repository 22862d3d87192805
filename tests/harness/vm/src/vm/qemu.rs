//! Command line of QEMU 7.2 and later, unpatched.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::accelerator::Accelerator;
use super::{Forward, Gpu, Network, VmConfig};

/// QMP socket, relative to the state folder, which is the working directory of QEMU.
pub(super) const QMP_SOCKET: &str = "qmp.sock";
/// Disables the framebuffer console, whose blinking cursor keeps an idle guest busy.
const NO_CONSOLE_ON_GPU: &str = "drm_kms_helper.fbdev_emulation=0";
/// Error message of QEMU for a port that another process has bound.
pub(super) const PORT_IS_TAKEN: &str = "Could not set up host forwarding rule";

pub(super) struct Launch<'a> {
    pub(super) config: &'a VmConfig,
    pub(super) accelerator: Accelerator,
    pub(super) cpus: u32,
    /// Environment variable that preloads the tap; `None` if the starter inserts it.
    pub(super) preload: Option<&'static str>,
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    pub(super) root: &'a Path,
    /// Read-only disks by serial.
    pub(super) disks: &'a [(String, PathBuf)],
    pub(super) ssh_port: u16,
    pub(super) forwards: &'a [Forward],
}

impl Launch<'_> {
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let Self { config, accelerator, cpus, kernel, initramfs, root, disks, ssh_port, forwards, .. } = self;
        let arch = config.arch;
        let cpu = if *accelerator == Accelerator::Kvm { "host" } else { arch.emulated_cpu() };
        let mut line = Line::default();
        line.add("-nodefaults").add("-no-user-config");
        line.option("-name", &format!("desktopstream-{}", config.name));
        line.option("-machine", arch.machine()).option("-accel", accelerator.argument()).option("-cpu", cpu);
        line.option("-smp", &cpus.to_string()).option("-m", &config.memory_mib.to_string());

        line.add("-kernel").add(kernel).add("-initrd").add(initramfs);
        let kernel_log = format!("console={} quiet loglevel=4", arch.console());
        // The guest runs trusted tests only; each of these features costs boot time under emulation.
        let kernel_speed = format!("mitigations=off nokaslr random.trust_cpu=on {}", arch.kernel_speed());
        line.option("-append", &format!("{kernel_log} {kernel_speed} {NO_CONSOLE_ON_GPU}"));

        line.disk("root", root, "snapshot=on,cache=unsafe");
        for (serial, disk) in *disks {
            line.disk(serial, disk, "readonly=on");
        }

        let mut network = vec!["user,id=net".to_owned(), format!("hostfwd=tcp:127.0.0.1:{ssh_port}-:22")];
        network.extend(
            forwards.iter().map(|Forward { host, guest }| format!("hostfwd=tcp:127.0.0.1:{host}-:{guest}")),
        );
        line.option("-netdev", &network.join(",")).option("-device", "virtio-net-pci,netdev=net,romfile=");
        if let Some(Network { interface, mac, .. }) = &config.network {
            line.option("-netdev", &format!("tap,id=second,ifname={interface},script=no,downscript=no"));
            line.option("-device", &format!("virtio-net-pci,netdev=second,mac={mac},romfile="));
        }
        line.option("-device", "virtio-rng-pci");

        let (with_3d, without_3d) = arch.gpu_devices();
        match config.gpu {
            Gpu::Virgl => line.option("-device", with_3d).option("-display", "sdl,gl=on"),
            Gpu::VirtioNo3d => line.option("-device", without_3d).option("-display", "none"),
            Gpu::None => line.option("-display", "none"),
        };

        line.option("-serial", "file:serial.log");
        line.option("-qmp", &format!("unix:{QMP_SOCKET},server=on,wait=off"));
        line.0
    }

    /// Environment variables of QEMU.
    pub(super) fn environment(&self, display: Option<u32>) -> Vec<(OsString, OsString)> {
        let mut environment: Vec<(OsString, OsString)> = Vec::new();
        if let Some(display) = display {
            environment.push(("DISPLAY".into(), format!(":{display}").into()));
            // Software rendering even with a GPU, for equal pictures on every machine.
            environment.push(("LIBGL_ALWAYS_SOFTWARE".into(), "1".into()));
            environment.push(("SDL_VIDEODRIVER".into(), "x11".into()));
            environment.push(("SDL_AUDIODRIVER".into(), "dummy".into()));
        }
        if let Some(tap) = &self.config.tap {
            let preload = self.preload.map(|variable| (variable.into(), tap.library.clone().into()));
            environment.extend(preload);
            environment.extend(tap.env.iter().map(|(name, value)| (name.into(), value.into())));
        }
        environment
    }
}

#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    fn add(&mut self, word: impl Into<OsString>) -> &mut Self {
        self.0.push(word.into());
        self
    }

    fn option(&mut self, name: &str, value: &str) -> &mut Self {
        self.add(name).add(value)
    }

    fn disk(&mut self, serial: &str, file: &Path, how: &str) {
        // A comma in a QEMU option value is doubled.
        let file = file.display().to_string().replace(',', ",,");
        self.option("-drive", &format!("if=none,id={serial},format=raw,file={file},{how}"));
        self.option("-device", &format!("virtio-blk-pci,drive={serial},serial={serial}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;
    use crate::vm::Tap;

    fn words(config: &VmConfig) -> (String, Vec<(OsString, OsString)>) {
        preloaded(config, Some("LD_PRELOAD"))
    }

    fn preloaded(config: &VmConfig, preload: Option<&'static str>) -> (String, Vec<(OsString, OsString)>) {
        let disks = [("desktop-sway".to_owned(), PathBuf::from("/a,b/disk"))];
        let launch = Launch {
            config,
            accelerator: Accelerator::Tcg,
            cpus: 1,
            preload,
            kernel: Path::new("/k"),
            initramfs: Path::new("/i"),
            root: Path::new("/r"),
            disks: &disks,
            ssh_port: 2222,
            forwards: &[Forward { host: 4000, guest: 8080 }],
        };
        let words: Vec<String> =
            launch.arguments().iter().map(|word| word.to_string_lossy().into_owned()).collect();
        (words.join(" "), launch.environment(Some(7)))
    }

    #[test]
    fn only_the_root_disk_is_writable_as_a_snapshot() {
        let (line, _) = words(&VmConfig::new("t", &[]));
        assert!(line.contains("file=/r,snapshot=on,cache=unsafe"), "{line}");
        assert!(line.contains(
            "file=/a,,b/disk,readonly=on -device virtio-blk-pci,drive=desktop-sway,serial=desktop-sway"
        ));
    }

    #[test]
    fn each_architecture_has_its_machine() {
        let [amd64, arm64] =
            Arch::ALL.map(|arch| words(&VmConfig { arch, ..VmConfig::new("t", &[]) }).0.replace(',', " "));
        for word in ["q35", "console=ttyS0", "tsc=reliable", "virtio-vga-gl"] {
            assert!(amd64.contains(word) && !arm64.contains(word), "{word}: {amd64}\n{arm64}");
        }
        for word in ["-machine virt ", "console=ttyAMA0", "-cpu cortex-a72", "virtio-gpu-gl-pci"] {
            assert!(arm64.contains(word) && !amd64.contains(word), "{word}: {amd64}\n{arm64}");
        }
    }

    #[test]
    fn ports_are_forwarded_from_loopback_only() {
        let (line, _) = words(&VmConfig::new("t", &[]));
        assert!(line.contains("hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=tcp:127.0.0.1:4000-:8080"), "{line}");
    }

    #[test]
    fn tap_is_preloaded_with_its_environment() {
        let tap = Tap { library: "/t.so".into(), env: vec![("SOCKET".into(), "/s".into())], starter: vec![] };
        let config = VmConfig { tap: Some(tap), ..VmConfig::new("t", &[]) };
        let (_, environment) = words(&config);
        for (name, value) in [("LD_PRELOAD", "/t.so"), ("SOCKET", "/s"), ("DISPLAY", ":7")] {
            assert!(environment.contains(&(name.into(), value.into())), "{environment:?}");
        }
        let (_, left) = preloaded(&config, None);
        assert!(left.len() + 1 == environment.len() && left.iter().all(|(name, _)| name != "LD_PRELOAD"));
    }
}
