//! What can be wrong, and what then happens: the rung that is left, and a doctor that names cause and remedy.

use anyhow::{Context as _, Result, ensure};
use e2e::rig::{RigOptions, Stream, StreamOptions};
use e2e::{Desktop, Programs, Rig};
use lab::{Gpu, RenderAccess};

const SIZE: (u32, u32) = (320, 180);

/// A case in a VM that is otherwise right.
struct Case {
    name: &'static str,
    change: fn(&mut StreamOptions, &Rig) -> Result<()>,
    rung: &'static str,
    /// What the status says of it.
    reason: &'static str,
    /// What the doctor says of it: the leg that fails, and a word of the remedy.
    doctor: (&'static str, &'static str),
}

const CASES: &[Case] = &[
    Case {
        name: "no-render-node",
        change: |options, _| {
            options.sidecar_render = RenderAccess::No;
            Ok(())
        },
        rung: "Pixels",
        reason: "no such render node",
        doctor: ("render node", "give the container the render node"),
    },
    Case {
        name: "wrong-group",
        change: |options, _| {
            options.sidecar_render = RenderAccess::WrongGroup;
            Ok(())
        },
        rung: "Pixels",
        reason: "permission denied",
        doctor: ("render node", "supplementary group"),
    },
    Case {
        name: "no-host-agent",
        change: |options, _| {
            options.upstream = Some("tcp://10.0.2.2:9".to_owned());
            Ok(())
        },
        rung: "Local",
        reason: "cannot reach the host-agent",
        doctor: ("host-agent", "start host-agent serve"),
    },
    Case {
        name: "wrong-token",
        change: |options, _| {
            options.token = Some("e30.e30.AAAA".to_owned());
            Ok(())
        },
        rung: "Local",
        reason: "token",
        doctor: ("host-agent", "token"),
    },
    Case {
        name: "expired-token",
        change: |options, rig| {
            options.token = Some(rig.host_agent.token("lab/expired-token", &["--seconds=-120"])?);
            Ok(())
        },
        rung: "Local",
        reason: "expired",
        doctor: ("host-agent", "new token"),
    },
    // What sway does silently when it can't use the GPU. (GNOME falls to llvmpipe, which emulation makes too slow
    // for a first frame within minutes; the sidecar sees the same: no DMA-BUF on offer.)
    Case {
        name: "drawn-by-cpu",
        change: |options, _| {
            options.desktop = Desktop::Sway;
            options.desktop_env = vec![("WLR_RENDERER".to_owned(), "pixman".to_owned())];
            Ok(())
        },
        rung: "Pixels",
        reason: "shared memory",
        doctor: ("capture", "can the desktop open the render node"),
    },
];

#[test]
fn each_cause_has_its_rung_and_its_remedy() -> Result<()> {
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("ladder", &[Desktop::Pattern, Desktop::Sway]))?;
    for case in CASES {
        let mut options = StreamOptions::new(Desktop::Pattern, SIZE);
        (case.change)(&mut options, &rig)?;
        let stream = rig.start(case.name, options)?;
        expect(&rig, &stream, case).with_context(|| format!("case {}\n{}", case.name, stream.logs()))?;
        stream.stop()?;
    }
    Ok(())
}

#[test]
fn without_a_tap_pixels_are_pushed() -> Result<()> {
    let programs = Programs::build()?;
    let mut options = RigOptions::new("no-tap", &[Desktop::Pattern]);
    options.tap = false;
    let mut rig = Rig::up(&programs, &options)?;
    let stream = rig.start("no-tap", StreamOptions::new(Desktop::Pattern, SIZE))?;
    let case = Case {
        name: "no-tap",
        change: |_, _| Ok(()),
        rung: "Pixels",
        reason: "no tap",
        doctor: ("tap", "start the VMM with the tap"),
    };
    expect(&rig, &stream, &case).with_context(|| stream.logs())
}

#[test]
fn without_3d_there_is_still_a_picture() -> Result<()> {
    let programs = Programs::build()?;
    let mut options = RigOptions::new("no-3d", &[Desktop::Sway]);
    options.gpu = Gpu::VirtioNo3d;
    options.tap = false;
    let mut rig = Rig::up(&programs, &options)?;
    let mut stream_options = StreamOptions::new(Desktop::Sway, SIZE);
    stream_options.desktop_env = vec![("WLR_RENDERER".to_owned(), "pixman".to_owned())];
    let stream = rig.start("no-3d", stream_options)?;
    let case = Case {
        name: "no-3d",
        change: |_, _| Ok(()),
        rung: "Pixels",
        reason: "no 3D",
        doctor: ("render node", "virtio-gpu device that has GL"),
    };
    expect(&rig, &stream, &case).with_context(|| stream.logs())
}

fn expect(rig: &Rig, stream: &Stream, case: &Case) -> Result<()> {
    let status = stream.wait_for_rung(case.rung)?;
    let reason = status["rung_reason"].as_str().unwrap_or_default();
    ensure!(
        reason.contains(case.reason),
        "rung {} for the reason {reason:?}, not {:?}",
        case.rung,
        case.reason
    );
    let (code, out) = stream.doctor(rig)?;
    ensure!(code == 1, "the doctor found nothing: {code}\n{out}");
    let report: serde_json::Value = serde_json::from_str(&out).with_context(|| out.clone())?;
    let (leg, remedy) = case.doctor;
    let legs = report["legs"].as_array().context("no legs")?;
    let found = legs.iter().find(|it| it["outcome"] == "failed").context("no leg failed")?;
    ensure!(found["leg"] == leg, "the first leg that fails is {found}, not {leg}");
    ensure!(found["remedy"].as_str().unwrap_or_default().contains(remedy), "{found} does not say {remedy:?}");
    println!("{}: {} because {reason}", case.name, case.rung);
    Ok(())
}
