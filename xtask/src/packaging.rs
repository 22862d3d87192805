//! What a forge and Homebrew are told, held against the repository: every command that a workflow runs exists, every
//! foreign action is pinned, and the formula is of this version. Tests only.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::Parser as _;
use serde_json::Value;

fn repository() -> std::path::PathBuf {
    lab::repository().canonicalize().expect("there")
}

/// `[package] name = "…"` of every crate of ours.
fn packages() -> BTreeSet<String> {
    let manifest = fs::read_to_string(repository().join("Cargo.toml")).expect("there");
    let members =
        manifest.split("members = [").nth(1).and_then(|rest| rest.split(']').next()).expect("members");
    let folders =
        members.split(',').map(|member| member.trim().trim_matches('"')).filter(|it| !it.is_empty());
    folders.map(|folder| field(&repository().join(folder).join("Cargo.toml"), "name = ")).collect()
}

/// What stands behind the first line that begins so, without its quotes.
fn field(file: &Path, key: &str) -> String {
    let text = fs::read_to_string(file).expect("there");
    let line =
        text.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap_or_else(|| panic!("no {key}"));
    line.trim().trim_matches('"').to_owned()
}

/// Why a workflow's command can't work, if it can't.
fn wrong(command: &str, packages: &BTreeSet<String>) -> Option<String> {
    let words: Vec<_> = command.split_whitespace().collect();
    match words.as_slice() {
        ["./x", rest @ ..] => {
            let parsed = crate::Arguments::try_parse_from(std::iter::once(&"x").chain(rest));
            parsed.err().map(|error| error.to_string())
        }
        ["cargo", "build" | "test" | "run", rest @ ..] => {
            let named: Vec<_> = rest.windows(2).filter(|two| two[0] == "-p").map(|two| two[1]).collect();
            if !rest.contains(&"--locked") || !rest.contains(&"--release") || named.is_empty() {
                return Some("cargo without --locked, --release or -p".to_owned());
            }
            named.iter().find(|name| !packages.contains(**name)).map(|name| format!("no package {name}"))
        }
        ["rustup", "show"] | ["target/release/host-agent", "selftest", "--report", _] => None,
        _ => Some("unknown; teach this test what it needs".to_owned()),
    }
}

fn steps() -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(repository().join(".github/workflows")).expect("there") {
        let path = entry.expect("there").path();
        let text = fs::read_to_string(&path).expect("there");
        let workflow: Value = serde_yaml_ng::from_str(&text).expect("YAML");
        for job in workflow["jobs"].as_object().expect("jobs").values() {
            assert!(job["runs-on"].is_string() && job["timeout-minutes"].is_u64(), "{}", path.display());
            for step in job["steps"].as_array().expect("steps") {
                all.push((path.display().to_string(), step.clone()));
            }
        }
    }
    all
}

#[test]
fn what_workflows_run_exists() {
    let packages = packages();
    assert!(packages.contains("host-agent") && packages.len() > 15, "{packages:?}");
    let commands: Vec<_> = steps()
        .iter()
        .filter_map(|(file, step)| Some((file.clone(), step["run"].as_str()?.to_owned())))
        .collect();
    assert!(commands.len() >= 10, "{commands:?}");
    for (file, command) in commands {
        assert_eq!(wrong(&command, &packages), None, "{file}: {command}");
    }
    for bad in
        ["./x test unitt", "./x tests", "cargo test --release --locked -p nobody", "cargo test", "make all"]
    {
        assert!(wrong(bad, &packages).is_some(), "{bad}");
    }
}

#[test]
fn foreign_actions_are_pinned_by_commit() {
    let used: Vec<_> =
        steps().iter().filter_map(|(_, step)| Some(step["uses"].as_str()?.to_owned())).collect();
    assert!(!used.is_empty());
    for action in used {
        let (_, pin) = action.split_once('@').expect("a version");
        assert!(pin.len() == 40 && pin.bytes().all(|byte| byte.is_ascii_hexdigit()), "{action}");
    }
}

#[test]
fn the_formula_is_of_this_version() {
    let root = repository();
    let formula = root.join("packaging/homebrew/desktopstream.rb");
    let version = field(&root.join("Cargo.toml"), "version = ");
    assert_eq!(field(&formula, "version "), version);
    assert!(field(&formula, "url ").contains(&format!("-{version}.tar.gz")));
    assert_eq!(field(&formula, "license "), "any_of: [\"MIT\", \"Apache-2.0\"]");
    // What the tap's two forms are called, as `check-macos` has it.
    let text = fs::read_to_string(&formula).expect("there");
    for name in ["@rpath/libtap.dylib", "@rpath/libvirglrenderer.1.dylib", "1000.0.0"] {
        let rules = fs::read_to_string(root.join("tests/macos/src/rules.rs")).expect("there");
        assert!(text.contains(name) && rules.contains(name), "{name}");
    }
    match std::process::Command::new("ruby").arg("-c").arg(&formula).output() {
        Err(_) => eprintln!("skipped: no ruby to parse {}", formula.display()),
        Ok(out) => assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr)),
    }
}
