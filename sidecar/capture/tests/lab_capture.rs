//! Captures sway and GNOME on a virtio-gpu in the lab's VM. The `capture` example runs in a container that shares the
//! runtime directory and the render node with the desktop.
//!
//! `LAB_VM=NAME` uses a running VM, which must have the images that the tests name.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lab::container::RUNTIME_DIR;
use lab::payload::IN_CONTAINER;
use lab::{Container, Guest, Spec, Vm, VmConfig};

const SIZE: (u32, u32) = (1280, 720);
/// Exit status of the probe if no tap answers, which this VM may lack.
const NO_TAP: i32 = 3;
const DESKTOP_TIMEOUT: Duration = Duration::from_mins(4);
const CAPTURE_TIMEOUT: Duration = Duration::from_mins(6);

/// A VM with the programs of [`payload`].
struct Lab {
    vm: Vm,
    _payload: tempfile::TempDir,
}

impl Lab {
    fn boot(name: &str, images: &[&str]) -> Self {
        let payload = payload();
        let vm = if let Ok(name) = std::env::var("LAB_VM") {
            let vm = Vm::attach(&name).expect("the VM runs");
            for program in ["capture", "probe"] {
                vm.guest()
                    .copy_to(&payload.path().join(program), &format!("/payload/{program}"))
                    .expect("the program is copied");
            }
            vm
        } else {
            let mut config = VmConfig::new(name, images);
            config.payload = Some(payload.path().to_owned());
            Vm::boot(config).expect("the VM boots")
        };
        Self { vm, _payload: payload }
    }

    fn guest(&self) -> &Guest {
        self.vm.guest()
    }
}

/// A directory with the programs to run in the VM.
fn payload() -> tempfile::TempDir {
    // Cargo builds tests in deps/ and examples in its sibling examples/.
    let built = std::env::current_exe()
        .expect("a path")
        .parent()
        .and_then(Path::parent)
        .expect("a directory")
        .join("examples");
    let probe = Command::new(env!("CARGO"))
        .args(["build", "--package", "virtgpu", "--example", "probe"])
        .args((!cfg!(debug_assertions)).then_some("--release"))
        .current_dir(lab::repository())
        .status()
        .expect("cargo runs");
    assert!(probe.success());
    let directory = tempfile::tempdir().expect("a temporary directory");
    for program in ["capture", "probe"] {
        let from: PathBuf = built.join(program);
        std::fs::copy(&from, directory.path().join(program)).expect("the example was built");
    }
    directory
}

fn capture(guest: &Guest, desktop: &str, args: &[&str]) -> String {
    let program = format!("{IN_CONTAINER}/capture");
    let command: Vec<&str> =
        [program.as_str(), "--runtime-dir", RUNTIME_DIR, "--seconds", "300", "--frames", "60"]
            .into_iter()
            .chain(args.iter().copied())
            .collect();
    let spec = Spec::sidecar("capture", desktop, &command)
        .env("RUST_LOG", "info,capture=debug")
        .env("NO_COLOR", "1");
    let (status, log) = Container::run(guest, &spec, CAPTURE_TIMEOUT).expect("the capture runs");
    println!("capture of {desktop} with {args:?}:\n{log}");
    assert_eq!(status, 0, "{log}");
    log
}

/// The example `probe` of `virtgpu` exercises device, import and mailbox.
#[test]
#[ignore = "boots a VM, minutes; run by ./x test lab"]
fn virtio_gpu_supports_allocation_import_and_mailbox() {
    let lab = Lab::boot("lab-capture-probe", &["sidecar"]);
    let spec = Spec::new("probe", "sidecar", &[&format!("{IN_CONTAINER}/probe")]);
    let (status, log) = Container::run(lab.guest(), &spec, CAPTURE_TIMEOUT).expect("the probe runs");
    println!("probe:\n{log}");
    for expected in ["features_3d: true", "Bgrx 1280x720: stride 5120", "blob_mem 0", "mailbox: resource"] {
        assert!(log.contains(expected), "{expected}: {log}");
    }
    assert!([0, NO_TAP].contains(&status), "status {status}: {log}");
}

#[test]
#[ignore = "boots a VM, minutes; run by ./x test lab"]
fn sway_is_captured_as_dmabuf_or_as_shared_memory() {
    let lab = Lab::boot("lab-capture-sway", &["sidecar", "desktop-sway"]);
    let guest = lab.guest();
    let sway = Container::start(guest, &Spec::desktop("sway", "desktop-sway", SIZE)).expect("sway starts");
    sway.wait_until("test -S /run/desktops/sway/wayland-1", DESKTOP_TIMEOUT).expect("its socket appears");
    let log = capture(guest, "sway", &[]);
    assert!(log.contains("source: \"wayland\"") && log.contains("dmabuf: true"), "{log}");
    assert!(log.contains("Bgrx 1280x720 in DMA-BUF, modifier INVALID, stride 5120, resources"), "{log}");
    let log = capture(guest, "sway", &["--memory", "shm"]);
    assert!(log.contains("dmabuf: false") && log.contains("Requested"), "{log}");
    let log = capture(guest, "sway", &["--render-node", "/dev/dri/renderD129"]);
    assert!(log.contains("dmabuf: false") && log.contains("NoRenderNode"), "{log}");
    sway.remove().expect("the container is removed");
}

#[test]
#[ignore = "boots a VM, minutes; run by ./x test lab"]
fn gnome_is_captured_as_dmabuf_or_as_shared_memory() {
    let lab = Lab::boot("lab-capture-gnome", &["sidecar", "desktop-gnome"]);
    let guest = lab.guest();
    let gnome =
        Container::start(guest, &Spec::desktop("gnome", "desktop-gnome", SIZE)).expect("GNOME starts");
    // Started at once: capture waits for the shell.
    let log = capture(guest, "gnome", &[]);
    assert!(log.contains("source: \"pipewire (mutter)\"") && log.contains("dmabuf: true"), "{log}");
    assert!(log.contains("DMA-BUF, modifier INVALID"), "{log}");
    let log = capture(guest, "gnome", &["--memory", "shm"]);
    assert!(log.contains("dmabuf: false") && log.contains("Requested"), "{log}");
    gnome.remove().expect("the container is removed");
}
