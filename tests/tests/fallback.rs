//! Missing or misconfigured parts: the remaining frame path, and the doctor's check and remedy.

use anyhow::{Context as _, Result, ensure};
use contract::FramePath;
use contract::doctor::{Outcome, Report, checks};
use e2e::rig::{RigOptions, Stream, StreamOptions};
use e2e::{Desktop, Programs, Rig};
use lab::{Gpu, RenderAccess};

const SIZE: (u32, u32) = (320, 180);

/// One misconfiguration in an otherwise complete rig.
struct Case {
    name: &'static str,
    change: fn(&mut StreamOptions, &Rig) -> Result<()>,
    frame_path: FramePath,
    /// Part of the status's reason.
    reason: &'static str,
    /// Failed check of the doctor, and part of its remedy.
    doctor: (&'static str, &'static str),
}

const CASES: &[Case] = &[
    Case {
        name: "no-render-node",
        change: |options, _| {
            options.sidecar_render = RenderAccess::No;
            Ok(())
        },
        frame_path: FramePath::Pixels,
        reason: "render node not found",
        doctor: (checks::RENDER_NODE, "give the container the render node"),
    },
    Case {
        name: "wrong-group",
        change: |options, _| {
            options.sidecar_render = RenderAccess::WrongGroup;
            Ok(())
        },
        frame_path: FramePath::Pixels,
        reason: "permission denied",
        doctor: (checks::RENDER_NODE, "supplementary group"),
    },
    Case {
        name: "no-host-agent",
        change: |options, _| {
            options.upstream = Some(format!("tls://10.0.2.2:9#sha256={}", "0".repeat(64)));
            Ok(())
        },
        frame_path: FramePath::Local,
        reason: "cannot reach the host-agent",
        doctor: (checks::HOST_AGENT, "start host-agent serve"),
    },
    Case {
        name: "wrong-token",
        change: |options, _| {
            options.token = Some("e30.e30.AAAA".to_owned());
            Ok(())
        },
        frame_path: FramePath::Local,
        reason: "token",
        doctor: (checks::HOST_AGENT, "token"),
    },
    Case {
        name: "expired-token",
        change: |options, rig| {
            options.token = Some(rig.host_agent.token("lab/expired-token", &["--seconds=-120"])?);
            Ok(())
        },
        frame_path: FramePath::Local,
        reason: "expired",
        doctor: (checks::HOST_AGENT, "new token"),
    },
    // sway's silent fallback when it cannot open the GPU. GNOME falls back to llvmpipe, which offers no DMA-BUF either
    // but takes minutes to its first frame under emulation.
    Case {
        name: "drawn-by-cpu",
        change: |options, _| {
            options.desktop = Desktop::Sway;
            options.desktop_env = vec![("WLR_RENDERER".to_owned(), "pixman".to_owned())];
            Ok(())
        },
        frame_path: FramePath::Pixels,
        reason: "shared memory",
        doctor: (checks::CAPTURE, "enable DMA-BUF"),
    },
];

#[test]
fn misconfiguration_falls_back_and_names_its_remedy() -> Result<()> {
    let programs = Programs::build()?;
    let mut rig = Rig::up(&programs, &RigOptions::new("fallback", &[Desktop::Pattern, Desktop::Sway]))?;
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
fn vm_without_a_tap_streams_pixels() -> Result<()> {
    let programs = Programs::build()?;
    let mut options = RigOptions::new("no-tap", &[Desktop::Pattern]);
    options.tap = false;
    let mut rig = Rig::up(&programs, &options)?;
    let stream = rig.start("no-tap", StreamOptions::new(Desktop::Pattern, SIZE))?;
    let case = Case {
        name: "no-tap",
        change: |_, _| Ok(()),
        frame_path: FramePath::Pixels,
        reason: "no tap",
        doctor: (checks::TAP, "start the VMM with the tap"),
    };
    expect(&rig, &stream, &case).with_context(|| stream.logs())
}

#[test]
fn vm_without_3d_streams_pixels() -> Result<()> {
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
        frame_path: FramePath::Pixels,
        reason: "no 3D",
        doctor: (checks::RENDER_NODE, "virtio-gpu device that has GL"),
    };
    expect(&rig, &stream, &case).with_context(|| stream.logs())
}

fn expect(rig: &Rig, stream: &Stream, case: &Case) -> Result<()> {
    let status = stream.wait_for_frame_path(case.frame_path)?;
    let reason = &status.frame_path_reason;
    ensure!(
        reason.contains(case.reason),
        "{} with reason {reason:?}, not {:?}",
        case.frame_path,
        case.reason
    );
    let (code, out) = stream.doctor(rig)?;
    ensure!(code == 1, "the doctor exited with {code}\n{out}");
    let report: Report = serde_json::from_str(&out).with_context(|| out.clone())?;
    let (check, remedy) = case.doctor;
    let failed = report
        .checks
        .iter()
        .find(|it| it.outcome == Outcome::Failed)
        .context("no check of the doctor failed")?;
    ensure!(failed.name == check, "the first failed check is {failed:?}, not {check}");
    ensure!(failed.remedy.contains(remedy), "{failed:?} lacks the remedy {remedy:?}");
    println!("{}: {} because {reason}", case.name, case.frame_path);
    Ok(())
}
