//! Tests of the lab: one VM with all images, and the properties that other tests rely on.
//!
//! With `LAB_VM=NAME` the tests use a running VM (`./x lab up`).

use std::path::Path;
use std::time::{Duration, Instant};

use lab::container::{RENDER_NODE, RUNTIME_DIR};
use lab::{Container, Gpu, Guest, RenderAccess, Spec, Vm, VmConfig};
use rustix::process::Signal;

/// Time limit of a command. Generous, because emulated guests are slow on a busy machine.
const COMMAND_TIMEOUT: Duration = Duration::from_mins(2);
/// Time limit of a desktop's start.
const DESKTOP_TIMEOUT: Duration = Duration::from_mins(6);
const SIZE: (u32, u32) = (1280, 720);

#[test]
#[ignore = "boots a VM; run by ./x test lab"]
fn vm_runs_containers_on_its_gpu() {
    let payload = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(payload.path().join("greeting"), "hello").expect("writable");
    let mut vm = if let Ok(name) = std::env::var("LAB_VM") {
        Vm::attach(&name).expect("it runs")
    } else {
        let mut config = VmConfig::new("lab-smoke", &["sidecar", "desktop-sway", "desktop-gnome"]);
        config.payload = Some(payload.path().to_owned());
        let vm = Vm::boot(config).expect("it boots");
        assert_eq!(vm.guest().check("cat /payload/greeting").expect("the payload is there"), "hello");
        vm
    };
    let guest = vm.guest();
    assert_gpu_has_3d(guest);
    assert_files_copy_both_ways(guest, payload.path());
    assert_render_access_follows_the_spec(guest);
    assert_container_reports_its_end(guest);
    assert_sway_renders_on_the_gpu(guest);
    assert_gnome_renders_and_survives_pipewire(guest);

    let qemu = vm.qemu_pid();
    vm.reset().expect("it boots again");
    assert_eq!(vm.qemu_pid(), qemu, "the QEMU process continues");
    assert_gpu_has_3d(vm.guest());
}

#[test]
#[ignore = "boots two VMs; run by ./x test lab"]
fn vms_without_3d_and_without_gpu_run_side_by_side() {
    let boot = |name, gpu| Vm::boot(VmConfig { gpu, ..VmConfig::new(name, &[]) }).expect("it boots");
    let (no_3d, none) = (boot("lab-no-3d", Gpu::VirtioNo3d), boot("lab-no-gpu", Gpu::None));
    let kernel = no_3d.guest().check("test -c /dev/dri/renderD128 && dmesg").expect("a render node is there");
    assert!(kernel.contains("features: -virgl"), "{kernel}");
    none.guest().check("! test -e /dev/dri").expect("no GPU is there");

    let name = none.config().name.clone();
    let status = none.qmp("query-status", &serde_json::json!({})).expect("QEMU answers");
    assert_eq!(status["status"], "running");
    assert!(Vm::boot(VmConfig::new(&name, &[])).is_err(), "duplicate name");
    none.down().expect("it ends");
    assert!(Vm::attach(&name).is_err());
    assert!(Vm::attach(&no_3d.config().name).is_ok(), "the other VM still runs");
}

fn assert_gpu_has_3d(guest: &Guest) {
    guest.check("test -c /dev/dri/renderD128").expect("the render node is there");
    let kernel = guest.check("dmesg").expect("dmesg runs");
    assert!(kernel.contains("features: +virgl"), "{kernel}");
}

fn assert_files_copy_both_ways(guest: &Guest, folder: &Path) {
    let (there, back) = (folder.join("there"), folder.join("back"));
    let bytes: Vec<u8> = (0..=255).cycle().take(1_000_000).collect();
    std::fs::write(&there, &bytes).expect("writable");
    guest.copy_to(&there, "/payload/it").expect("a file goes in");
    guest.copy_from("/payload/it", &back).expect("a file comes out");
    assert!(std::fs::read(back).expect("it is there") == bytes);
    guest.copy_to(folder, "/tmp/folder").expect("a folder goes in");
    guest.check("cmp /tmp/folder/there /payload/it; rm -r /tmp/folder /payload/it").expect("it is whole");
}

fn assert_render_access_follows_the_spec(guest: &Guest) {
    let opens = format!("id; exec 3<>{RENDER_NODE}");
    let opens = ["bash", "-c", opens.as_str()];
    for (render, message) in [
        (RenderAccess::Yes, ""),
        (RenderAccess::WrongGroup, "Permission denied"),
        (RenderAccess::No, "Permission denied"),
    ] {
        let spec = Spec::new("rights", "sidecar", &opens).render(render);
        let (status, log) = Container::run(guest, &spec, COMMAND_TIMEOUT).expect("it runs");
        assert!(log.contains("uid=1000(desktop)"), "{log}");
        assert_eq!(status == 0, render == RenderAccess::Yes, "{render:?}: {log}");
        assert!(log.contains(message) || log.contains("No such file"), "{render:?}: {log}");
    }
    // The device cgroup denies a node created by root in the container.
    let mut spec = Spec::new("rights", "sidecar", &["bash", "-c", "mknod /tmp/node c 226 128"]);
    spec.uid = 0;
    let (status, log) = Container::run(guest, &spec, COMMAND_TIMEOUT).expect("it runs");
    assert!(status != 0 && log.contains("not permitted"), "{log}");
}

fn assert_container_reports_its_end(guest: &Guest) {
    let spec = Spec::new("ends", "sidecar", &["bash", "-c", "echo begun; exec sleep 600"]).share("ends");
    let container = Container::start(guest, &spec).expect("it starts");
    container.wait_for_log("begun", COMMAND_TIMEOUT).expect("it says so");
    assert!(container.pid().expect("it runs") > 1);
    let inside =
        container.exec_in(&["sh", "-c", "id -u; echo $XDG_RUNTIME_DIR; stat -c %u:%a $XDG_RUNTIME_DIR"]);
    assert_eq!(inside.expect("exec works").stdout, format!("1000\n{RUNTIME_DIR}\n1000:700\n"));
    assert_eq!(container.exit_status().expect("readable"), None);
    assert!(Container::start(guest, &spec).is_err(), "duplicate name");
    container.kill(Signal::KILL).expect("it can be killed");
    assert_eq!(container.wait(COMMAND_TIMEOUT).expect("it ends"), 128 + 9);
    container.remove().expect("it is forgotten");
    assert!(container.logs().is_err());
}

fn assert_sway_renders_on_the_gpu(guest: &Guest) {
    let started = Instant::now();
    let spec = Spec::desktop("sway", "desktop-sway", SIZE);
    let sway = Container::start(guest, &spec).expect("it starts");
    sway.wait_until("test -S /run/desktops/sway/wayland-1", DESKTOP_TIMEOUT).expect("its socket appears");
    println!("sway: socket after {:.1} s", started.elapsed().as_secs_f64());
    sway.wait_for_log("GL renderer: virgl", DESKTOP_TIMEOUT).expect("it draws with virgl");
    sway.remove().expect("it ends");

    let spec = Spec { name: "blind".into(), ..spec }.render(RenderAccess::WrongGroup);
    let (status, log) = Container::run(guest, &spec, DESKTOP_TIMEOUT).expect("it ends by itself");
    assert!(status != 0, "sway must not fall back to software rendering: {log}");
}

fn assert_gnome_renders_and_survives_pipewire(guest: &Guest) {
    let started = Instant::now();
    let gnome = Container::start(guest, &Spec::desktop("gnome", "desktop-gnome", SIZE)).expect("it starts");
    gnome.wait_for_log("ScreenCast is on the bus", DESKTOP_TIMEOUT).expect("it can be captured");
    println!("gnome: ScreenCast after {:.1} s", started.elapsed().as_secs_f64());
    let renderer = format!("Created gbm renderer for '{RENDER_NODE}'");
    gnome.wait_for_log(&renderer, DESKTOP_TIMEOUT).expect("it draws on the GPU");

    gnome.wait_for_log("the shell answers", DESKTOP_TIMEOUT).expect("it has started");
    println!("gnome: the shell answers after {:.1} s", started.elapsed().as_secs_f64());
    let cast = || gnome.exec_in(&["gjs", "-c", START_A_CAST]).expect("exec works").ok();
    assert!(cast().expect("Mutter casts its screen").contains("node "));

    let killed = Instant::now();
    gnome.exec_in(&["pkill", "-KILL", "-x", "pipewire"]).expect("exec works").ok().expect("it is killed");
    gnome.wait_for_log("PipeWire is back", COMMAND_TIMEOUT).expect("the desktop recovers");
    assert!(cast().expect("Mutter casts its screen again").contains("node "));
    println!("gnome: screen cast {:.1} s after PipeWire was killed", killed.elapsed().as_secs_f64());

    gnome.exec_in(&["pkill", "-KILL", "-x", "gnome-shell"]).expect("exec works").ok().expect("it is killed");
    let status = gnome.wait(COMMAND_TIMEOUT).expect("a desktop without its shell ends");
    assert_ne!(status, 0);
    gnome.remove().expect("it is forgotten");
}

/// Starts a Mutter screen cast of the monitor and waits for its PipeWire node.
const START_A_CAST: &str = r"
    const {Gio, GLib} = imports.gi;
    const name = 'org.gnome.Mutter.ScreenCast';
    const bus = Gio.DBus.session;
    const loop = new GLib.MainLoop(null, false);
    const call = (path, part, method, args) =>
        bus.call_sync(name, path, name + part, method, args, null, 0, 60000, null).recursiveUnpack()[0];
    const session = call('/org/gnome/Mutter/ScreenCast', '', 'CreateSession', new GLib.Variant('(a{sv})', [{}]));
    const stream = call(session, '.Session', 'RecordMonitor', new GLib.Variant('(sa{sv})', ['Meta-0', {}]));
    bus.signal_subscribe(name, name + '.Stream', 'PipeWireStreamAdded', stream, null, 0, (...signal) => {
        print('node', signal[5].recursiveUnpack()[0]);
        loop.quit();
    });
    GLib.timeout_add_seconds(0, 30, () => { print('no answer'); loop.quit(); });
    call(session, '.Session', 'Start', null);
    loop.run();
";
