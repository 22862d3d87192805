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

/// Lines of shell in a page: joined where they are continued, in pieces where they are more than one command.
fn shell(page: &str) -> Vec<String> {
    let text = fs::read_to_string(repository().join(page)).expect("there").replace("\\\n", " ");
    let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines =
        blocks.flat_map(|block| block.lines().map(|line| line.split(" #").next().unwrap_or_default()));
    lines
        .flat_map(|line| line.split("&&"))
        .map(|one| one.trim().to_owned())
        .filter(|it| !it.is_empty())
        .collect()
}

/// Why a command that a page gives can't work, as far as the repository tells; `None`, too, for what is not ours.
/// What begins with `host-agent` is held against it by its own tests.
fn untrue(command: &str, packages: &BTreeSet<String>) -> Option<String> {
    let words: Vec<_> = command.split_whitespace().collect();
    let missing = |path: &str| (!repository().join(path).exists()).then(|| format!("no {path}"));
    match words.as_slice() {
        // Programs of their own: `x` hands over to them.
        ["./x", "images" | "docker" | "cluster", ..] => None,
        ["./x", rest @ ..] => {
            let parsed = crate::Arguments::try_parse_from(std::iter::once(&"x").chain(rest));
            parsed.err().map(|error| error.to_string())
        }
        ["cargo", rest @ ..] => {
            let named = rest.windows(2).find(|two| two[0] == "-p").map_or("", |two| two[1]);
            (!packages.contains(named)).then(|| format!("no package {named}"))
        }
        ["helm", "install", _, chart, ..] => missing(&format!("{chart}/Chart.yaml")),
        ["kubectl", "apply", "-f", file, ..] => missing(file),
        ["kubectl", "desktopstream", verb, ..] => {
            let verbs = fs::read_to_string(repository().join("operator/src/plugin/cli.rs")).expect("there");
            let (first, rest) = verb.split_at(1);
            let variant = format!("    {}{rest}", first.to_uppercase());
            let known = verbs
                .lines()
                .any(|line| line.strip_prefix(&variant).is_some_and(|it| it.starts_with([' ', '('])));
            (!known).then(|| format!("the plugin has no {verb}"))
        }
        _ => None,
    }
}

#[test]
fn what_pages_tell_people_to_type_exists() {
    let packages = packages();
    for (page, least) in [("docs/macos.md", 15), ("README.md", 12)] {
        let commands = shell(page);
        assert!(commands.len() >= least, "{page}: {commands:?}");
        for command in commands {
            assert_eq!(untrue(&command, &packages), None, "{page}: {command}");
        }
    }
    for bad in [
        "./x dema",
        "./x demo --desk sway",
        "cargo build --release -p host-agnt",
        "helm install d charts/desktop -n d",
        "kubectl apply -f docs/samples/none.yaml",
        "kubectl desktopstream opne sway",
    ] {
        assert!(untrue(bad, &packages).is_some(), "{bad}");
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
}

/// The formula as Ruby reads it, in Homebrew's words as `evaluate.rb` has them.
#[test]
fn the_formula_does_what_ruby_says_it_does() {
    let root = repository();
    let folder = root.join("packaging/homebrew");
    let ruby = |formula: &Path| {
        std::process::Command::new("ruby")
            .arg("-w")
            .arg(folder.join("evaluate.rb"))
            .arg(formula)
            .output()
            .expect("ruby, which ./x installs")
    };
    let out = ruby(&folder.join("desktopstream.rb"));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.is_empty(), "{said}");
    let told: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(told["class"], "Desktopstream");
    assert_eq!(told["version"].as_str(), Some(field(&root.join("Cargo.toml"), "version = ").as_str()));
    assert_eq!(told["license"]["any_of"], serde_json::json!(["MIT", "Apache-2.0"]));
    assert_eq!(field(&root.join("Cargo.toml"), "license = "), "MIT OR Apache-2.0");
    let commands = told["system"].as_array().expect("commands");
    assert!(commands.len() >= 5, "{commands:?}");
    let packages = packages();
    for command in commands {
        let words: Vec<_> = command.as_array().expect("words").iter().filter_map(Value::as_str).collect();
        match words.as_slice() {
            ["cargo", "install", rest @ ..] => {
                let folder = rest.windows(2).find(|two| two[0] == "--path").map(|two| two[1]);
                assert!(root.join(folder.expect("--path")).join("Cargo.toml").exists(), "{words:?}");
            }
            ["cargo", "run" | "rustc", rest @ ..] => {
                let named = rest.windows(2).find(|two| two[0] == "--package").map(|two| two[1]);
                assert!(packages.contains(named.expect("--package")), "{words:?}");
                if rest.contains(&"drop-in") {
                    let tap = fs::read_to_string(root.join("host-agent/tap/Cargo.toml")).expect("there");
                    assert!(tap.contains("\ndrop-in = "), "no such feature: {words:?}");
                }
            }
            ["/bin/host-agent", ..] => {}
            _ => panic!("unknown; teach this test what it needs: {words:?}"),
        }
    }
    let installed: Vec<_> = told["installed"].as_array().expect("a list").iter().map(|one| &one[2]).collect();
    assert_eq!(installed, ["libtap.dylib", "libvirglrenderer.1.dylib"]);

    // What it must notice.
    let broken = tempfile::tempdir().expect("a folder");
    let text = fs::read_to_string(folder.join("desktopstream.rb")).expect("there");
    for (from, to) in
        [("def caveats", "def tap(x)"), ("depends_on arch", "dependson arch"), ("\n  end\n", "\n")]
    {
        let file = broken.path().join("broken.rb");
        fs::write(&file, text.replacen(from, to, 1)).expect("written");
        assert!(!ruby(&file).status.success(), "{to} in place of {from} was not noticed");
    }
}
