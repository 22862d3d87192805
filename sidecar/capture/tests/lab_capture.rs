//! Capture of real desktops on a real virtio-gpu: sway and GNOME in the lab's VM, by the `capture` example, in a
//! container that shares nothing with the desktop but the runtime folder and the render node.
//!
//! `LAB_VM=NAME` uses a VM that runs; it needs the images below.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lab::container::RUNTIME_DIR;
use lab::payload::IN_CONTAINER;
use lab::{Container, Guest, Spec, Vm, VmConfig};

const SIZE: (u32, u32) = (1280, 720);
const DESKTOP_PATIENCE: Duration = Duration::from_mins(4);
const CAPTURE_PATIENCE: Duration = Duration::from_mins(6);

#[test]
#[ignore = "boots a VM, minutes; run by ./x test lab"]
fn sway_and_gnome_give_gpu_buffers() {
    let payload = payload();
    let vm = if let Ok(name) = std::env::var("LAB_VM") {
        let vm = Vm::attach(&name).expect("it runs");
        for program in ["capture", "probe"] {
            vm.guest()
                .copy_to(&payload.path().join(program), &format!("/payload/{program}"))
                .expect("it goes in");
        }
        vm
    } else {
        let mut config = VmConfig::new("lab-capture", &["sidecar", "desktop-sway", "desktop-gnome"]);
        config.payload = Some(payload.path().to_owned());
        Vm::boot(config).expect("it boots")
    };
    let guest = vm.guest();
    the_gpu_path_works_up_to_the_tap(guest);
    sway(guest);
    gnome(guest);
}

/// A folder with the programs that run in the VM.
fn payload() -> tempfile::TempDir {
    // Cargo puts tests into deps/ and examples beside it.
    let built = std::env::current_exe()
        .expect("a path")
        .parent()
        .and_then(Path::parent)
        .expect("a folder")
        .join("examples");
    let probe = Command::new(env!("CARGO"))
        .args(["build", "--package", "virtgpu", "--example", "probe"])
        .args((!cfg!(debug_assertions)).then_some("--release"))
        .current_dir(lab::repository())
        .status()
        .expect("cargo runs");
    assert!(probe.success());
    let folder = tempfile::tempdir().expect("a temporary folder");
    for program in ["capture", "probe"] {
        let from: PathBuf = built.join(program);
        std::fs::copy(&from, folder.path().join(program)).expect("the example was built");
    }
    folder
}

fn the_gpu_path_works_up_to_the_tap(guest: &Guest) {
    let spec = Spec::new("probe", "sidecar", &[&format!("{IN_CONTAINER}/probe")]);
    let (status, log) = Container::run(guest, &spec, CAPTURE_PATIENCE).expect("it runs");
    println!("probe:\n{log}");
    for expected in ["features_3d: true", "Bgrx 1280x720: stride 5120", "blob_mem 0", "mailbox: resource"] {
        assert!(log.contains(expected), "{expected}: {log}");
    }
    // A VM with a tap answers, one without is told apart from any other fault.
    assert!(status == 0 || log.contains("no tap in this VM"), "{log}");
}

fn capture(guest: &Guest, desktop: &str, args: &[&str]) -> String {
    let program = format!("{IN_CONTAINER}/capture");
    let words: Vec<&str> =
        [program.as_str(), "--runtime-dir", RUNTIME_DIR, "--seconds", "300", "--frames", "60"]
            .into_iter()
            .chain(args.iter().copied())
            .collect();
    let spec =
        Spec::sidecar("capture", desktop, &words).env("RUST_LOG", "info,sidecar=debug").env("NO_COLOR", "1");
    let (status, log) = Container::run(guest, &spec, CAPTURE_PATIENCE).expect("it runs");
    println!("capture of {desktop} with {args:?}:\n{log}");
    assert_eq!(status, 0, "{log}");
    log
}

fn sway(guest: &Guest) {
    let sway = Container::start(guest, &Spec::desktop("sway", "desktop-sway", SIZE)).expect("it starts");
    sway.wait_until("test -S /run/desktops/sway/wayland-1", DESKTOP_PATIENCE).expect("its socket appears");
    let log = capture(guest, "sway", &[]);
    assert!(log.contains("source: \"wayland\"") && log.contains("dmabuf: true"), "{log}");
    assert!(log.contains("Bgrx 1280x720 in DMA-BUF, modifier INVALID, stride 5120, resources"), "{log}");
    let log = capture(guest, "sway", &["--memory", "shm"]);
    assert!(log.contains("dmabuf: false") && log.contains("shared memory was asked for"), "{log}");
    let log = capture(guest, "sway", &["--render-node", "/dev/dri/renderD129"]);
    assert!(log.contains("dmabuf: false") && log.contains("renderD129 could not be opened"), "{log}");
    sway.remove().expect("it ends");
}

fn gnome(guest: &Guest) {
    let gnome = Container::start(guest, &Spec::desktop("gnome", "desktop-gnome", SIZE)).expect("it starts");
    // From before the shell is up: capture waits for it.
    let log = capture(guest, "gnome", &[]);
    assert!(log.contains("source: \"pipewire (mutter)\"") && log.contains("dmabuf: true"), "{log}");
    assert!(log.contains("DMA-BUF, modifier INVALID"), "{log}");
    let log = capture(guest, "gnome", &["--memory", "shm"]);
    assert!(log.contains("dmabuf: false") && log.contains("shared memory was asked for"), "{log}");
    gnome.remove().expect("it ends");
}
