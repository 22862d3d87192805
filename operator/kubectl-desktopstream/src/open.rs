//! `open`: a way to the stream, and the browser at its end.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::cli::Open;
use super::find;
use super::kubectl::Kubectl;
use super::reach::Way;

/// How often a pod that went is looked for again.
const AGAIN: Duration = Duration::from_secs(2);

/// Until Ctrl-C. A stream whose pod is made anew gets a new way, at the same port.
pub fn run(kubectl: &Kubectl, options: &Open) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("can't start the runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("can't listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("can't listen for SIGINT")?;
        let (mut way, url) = begin(kubectl, options, options.port)?;
        let port = way.port();
        if options.json {
            println!("{}", json!({"url": url}));
        } else {
            println!("{url}");
            if !options.no_browser && !browse(&url) {
                eprintln!("no browser could be started: open the URL in yours");
            }
            eprintln!("until Ctrl-C");
        }
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                () = way.ended() => {}
            }
            eprintln!("the way to {} ended; looking for its pod again", options.stream.name);
            drop(way);
            way = loop {
                tokio::select! {
                    _ = terminate.recv() => return Ok(()),
                    _ = interrupt.recv() => return Ok(()),
                    () = tokio::time::sleep(AGAIN) => {}
                }
                match begin(kubectl, options, port) {
                    Ok((way, _)) => break way,
                    Err(error) => eprintln!("{error:#}"),
                }
            };
        }
    })
}

fn begin(kubectl: &Kubectl, options: &Open, port: u16) -> Result<(Way, String)> {
    let target = find::target(kubectl, &options.stream)?;
    let token = target.token(kubectl)?;
    let way = Way::to(kubectl, &target, port)?;
    let url = url(&way.url(), token.as_deref());
    Ok((way, url))
}

pub(crate) fn url(base: &str, token: Option<&str>) -> String {
    match token {
        // Of the characters that a token may have, these mean something in a query.
        Some(token) => {
            let token = token.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
            format!("{base}/?token={token}")
        }
        None => format!("{base}/"),
    }
}

pub(crate) fn browse(url: &str) -> bool {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let quiet = Command::new(program).arg(url).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_query() {
        assert_eq!(url("http://127.0.0.1:1", Some("a+b/c=")), "http://127.0.0.1:1/?token=a%2Bb%2Fc%3D");
        assert_eq!(url("http://127.0.0.1:1", None), "http://127.0.0.1:1/");
    }
}
