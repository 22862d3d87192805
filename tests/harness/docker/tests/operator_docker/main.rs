//! `operator docker` on a real Docker Engine. One engine for all of it, but for what fills its disk: each part has a project
//! of its own, and most of them run side by side, as they mostly wait.

mod attach;
mod bed;
mod many;
mod pulls;
mod streams;

use std::thread;
use std::time::Instant;

use anyhow::Result;
use bed::{Bed, version};
use engine::Version;

#[test]
#[ignore = "root, and minutes: brings a Docker Engine up"]
fn on_the_engine() {
    all(version());
}

/// The short choice of the suite; `DESKTOPSTREAM_DOCKER_DEBIAN=1` has all of it.
#[test]
#[ignore = "root, and Debian's docker.io: brings it up"]
fn on_the_oldest_engine() {
    let bed = Bed::up("oldest", Version::Debian).expect("it comes up");
    part("lives", || streams::lives(&bed));
    part("attach", || attach::attach(&bed));
}

fn all(version: Version) {
    let bed = Bed::up("docker", version).expect("it comes up");
    // Each a scope's thread: a part that fails makes the scope panic, when all have ended.
    thread::scope(|scope| {
        scope.spawn(|| part("lives", || streams::lives(&bed)));
        scope.spawn(|| part("devices", || streams::devices(&bed)));
        scope.spawn(|| part("failures", || streams::failures(&bed)));
        scope.spawn(|| part("projects", || streams::projects(&bed)));
        scope.spawn(|| part("killed", || streams::killed(&bed)));
        scope.spawn(|| part("pulled", || pulls::pulled(&bed)));
        scope.spawn(|| part("samples", || pulls::samples_become_what_they_do_in_a_cluster(&bed)));
    });
    part("a full disk", || pulls::full(version));
    // What others would be disturbed by; an Engine with many containers is long in ending.
    bed.clear().expect("all go");
    part("attach", || attach::attach(&bed));
    bed.clear().expect("all go");
    part("restarts", || streams::restarts(&bed));
    part("many", || many::fifty(&bed));
}

fn part(what: &str, run: impl FnOnce() -> Result<()>) {
    let began = Instant::now();
    if let Err(error) = run() {
        unreachable!("{what}: {error:?}");
    }
    println!("{:6.1} s  {what}", began.elapsed().as_secs_f64());
}
