//! A container that shares the VM, the render node and the network with a stream, and wants its pictures.
//!
//! It knows every resource ID (they count up from 1), may ring mailboxes of its own as it likes, and has a
//! token of its own: it is a tenant. It prints, as JSON, what the tap and the host-agent answered; the test
//! judges. What it can't do is forge the context that the guest's kernel stamps on its commands.

mod session;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use protocol::mailbox::{FrameRequest, Operation};
use protocol::{Endpoint, PixelFormat, Rect};
use serde_json::json;
use session::Session;
use virtgpu::{CallError, Device, Mailbox};

const PATIENCE: Duration = Duration::from_secs(2);

/// Asks for what is not its own.
#[derive(Debug, Parser)]
struct Cli {
    /// The render node
    #[arg(long, default_value = "/dev/dri/renderD128")]
    node: String,
    /// The host-agent
    #[arg(long)]
    upstream: Endpoint,
    /// A token of the attacker's own stream
    #[arg(long, env = "ATTACKER_TOKEN")]
    token: String,
    /// Size of the victim's pictures
    #[arg(long, default_value_t = 640)]
    width: u16,
    /// Size of the victim's pictures
    #[arg(long, default_value_t = 360)]
    height: u16,
    /// Highest resource ID to ask for
    #[arg(long, default_value_t = 300)]
    resources: u32,
}

/// Answers by what they were.
type Answers = BTreeMap<String, u32>;

fn main() -> Result<()> {
    let cli = Cli::parse();
    let device = Device::open(&cli.node)?;
    let mut mailbox = Mailbox::new(&device)?;
    let frame = |resource| FrameRequest {
        resource,
        format: PixelFormat::Bgrx,
        width: cli.width,
        height: cli.height,
        stride: 4 * u32::from(cli.width),
        damage: Rect::full(cli.width.into(), cli.height.into()),
        capture_ns: 1,
    };
    let all = |mailbox: &mut Mailbox| {
        ask(mailbox, (1..=cli.resources).map(|resource| Operation::Frame(frame(resource))))
    };

    let without_session = all(&mut mailbox);
    let guessed_nonces = ask(&mut mailbox, (0..100).map(|_| Operation::Bind(random())));
    let after_guessing = all(&mut mailbox);

    // A tenant's own session, bound in the right way.
    let mut session = Session::open(&cli.upstream, &cli.token)?;
    session.configure(cli.width, cli.height)?;
    std::thread::sleep(Duration::from_secs(1));
    let bind = ask(&mut mailbox, [Operation::Bind(session.nonce())]);
    let bound = session.wait_bound(PATIENCE);
    let buffer = device.allocate(cli.width.into(), cli.height.into(), PixelFormat::Bgrx)?;
    let own = buffer.imported().resource_id();
    let begin = Instant::now();
    let mut own_buffer = Answers::new();
    while begin.elapsed() < PATIENCE && !own_buffer.contains_key("ok") {
        own_buffer = ask(&mut mailbox, [Operation::Frame(frame(own))]);
    }
    let others =
        ask(&mut mailbox, (1..=cli.resources).filter(|id| *id != own).map(|id| Operation::Frame(frame(id))));
    let wrong = wrong_requests(&mut mailbox, frame(own));
    let flood = ask(&mut mailbox, (0..5000).map(|_| Operation::Frame(frame(own))));
    let bind_flood = ask(&mut mailbox, (0..500).map(|_| Operation::Bind(random())));

    let forged = [
        ("no token", session::refusal(&cli.upstream, "")),
        ("not a token", session::refusal(&cli.upstream, "e30.e30.AAAA")),
        ("another's signature", session::refusal(&cli.upstream, &tampered(&cli.token))),
    ];
    let report = json!({
        "without_session": without_session,
        "guessed_nonces": guessed_nonces,
        "after_guessing": after_guessing,
        "bind": bind,
        "bound": bound,
        "own_buffer": own_buffer,
        "others": others,
        "wrong": wrong,
        "flood": flood,
        "bind_flood": bind_flood,
        "forged": forged.into_iter().map(|(what, answer)| (what.to_owned(), answer)).collect::<BTreeMap<_, _>>(),
        "garbage": session::garbage(&cli.upstream),
        "pictures": session.access_units(),
    });
    println!("{}", serde_json::to_string(&report).context("JSON")?);
    Ok(())
}

fn ask(mailbox: &mut Mailbox, operations: impl IntoIterator<Item = Operation>) -> Answers {
    let mut answers = Answers::new();
    for operation in operations {
        let what = match mailbox.call(operation, PATIENCE) {
            Ok(answer) => answer.status.label().to_owned(),
            Err(CallError::NoTap { .. }) => "silence".to_owned(),
            Err(error) => error.to_string(),
        };
        *answers.entry(what).or_default() += 1;
    }
    answers
}

/// Its own buffer, asked for in wrong ways.
fn wrong_requests(mailbox: &mut Mailbox, right: FrameRequest) -> Answers {
    let wrong = [
        FrameRequest { width: right.width + 1, ..right },
        FrameRequest { height: right.height * 2, ..right },
        FrameRequest { width: 8192, height: 8192, damage: Rect::full(8192, 8192), ..right },
        FrameRequest { width: 1, height: 1, damage: Rect::full(1, 1), ..right },
        FrameRequest { format: PixelFormat::Rgbx, ..right },
        FrameRequest { resource: 0, ..right },
        FrameRequest { resource: u32::MAX, ..right },
        FrameRequest { damage: Rect { x: 65_000, y: 65_000, width: 65_000, height: 65_000 }, ..right },
    ];
    ask(mailbox, wrong.map(Operation::Frame))
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    // A guess is a guess, whatever it is.
    let _ = getrandom::fill(&mut bytes);
    bytes
}

/// A token whose claims say something else than was signed.
fn tampered(token: &str) -> String {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    if let Some(signature) = parts.get_mut(2) {
        *signature = signature.chars().rev().collect();
    }
    parts.join(".")
}
