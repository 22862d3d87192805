//! Tests that workflows, documentation pages and the Homebrew formula agree with the repository: commands exist, actions
//! are pinned, versions match.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::Parser as _;
use serde_json::Value;

fn repository() -> std::path::PathBuf {
    lab::repository().canonicalize().expect("the repository exists")
}

/// Names of the workspace's packages.
fn packages() -> BTreeSet<String> {
    let metadata = crate::workspace::metadata().expect("cargo metadata");
    metadata.packages.iter().map(|package| package.name.to_string()).collect()
}

/// Value of the first line of `file` that begins with `key`, without quotes.
fn field(file: &Path, key: &str) -> String {
    let text = fs::read_to_string(file).expect("readable");
    let line =
        text.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap_or_else(|| panic!("no {key}"));
    line.trim().trim_matches('"').to_owned()
}

/// Reason why `./x` does not accept these words; `None` if it does.
fn refused_by_x(words: &[&str]) -> Option<String> {
    match crate::Arguments::try_parse_from(std::iter::once(&"x").chain(words)) {
        Ok(crate::Arguments { command: crate::Command::Test(arguments) }) => {
            arguments.check().err().map(|error| error.to_string())
        }
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}

/// Reason why a workflow's command cannot work; `None` if it can.
fn workflow_fault(command: &str, packages: &BTreeSet<String>) -> Option<String> {
    let words: Vec<_> = command.split_whitespace().collect();
    match words.as_slice() {
        ["./x", rest @ ..] => refused_by_x(rest),
        ["cargo", "build" | "test" | "run", rest @ ..] => {
            let named: Vec<_> = rest.windows(2).filter(|two| two[0] == "-p").map(|two| two[1]).collect();
            if !rest.contains(&"--locked") || !rest.contains(&"--release") || named.is_empty() {
                return Some("cargo without --locked, --release or -p".to_owned());
            }
            named.iter().find(|name| !packages.contains(**name)).map(|name| format!("no package {name}"))
        }
        ["rustup", "show"] | ["target/release/host-agent", "selftest", "--report", _] => None,
        _ => Some("unknown command: add it to this test".to_owned()),
    }
}

fn steps() -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(repository().join(".github/workflows")).expect("readable") {
        let path = entry.expect("readable").path();
        let text = fs::read_to_string(&path).expect("readable");
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
fn commands_of_workflows_exist() {
    let packages = packages();
    assert!(packages.contains("host-agent") && packages.len() > 15, "{packages:?}");
    let commands: Vec<_> = steps()
        .iter()
        .filter_map(|(file, step)| Some((file.clone(), step["run"].as_str()?.to_owned())))
        .collect();
    assert!(commands.len() >= 10, "{commands:?}");
    for (file, command) in commands {
        assert_eq!(workflow_fault(&command, &packages), None, "{file}: {command}");
    }
    for bad in
        ["./x test unitt", "./x tests", "cargo test --release --locked -p missing", "cargo test", "make all"]
    {
        assert!(workflow_fault(bad, &packages).is_some(), "{bad}");
    }
}

/// Shell commands in a page's `sh` blocks: continued lines joined, lines with `&&` split.
fn shell(page: &str) -> Vec<String> {
    let text = fs::read_to_string(repository().join(page)).expect("readable").replace("\\\n", " ");
    let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines =
        blocks.flat_map(|block| block.lines().map(|line| line.split(" #").next().unwrap_or_default()));
    lines
        .flat_map(|line| line.split("&&"))
        .map(|one| one.trim().to_owned())
        .filter(|it| !it.is_empty())
        .collect()
}

/// Reason why a page's command cannot work; `None` if it can, or if it is not a command of this repository. The tests of
/// host-agent check commands that begin with `host-agent`.
fn page_fault(command: &str, packages: &BTreeSet<String>) -> Option<String> {
    let words: Vec<_> = command.split_whitespace().collect();
    let missing = |path: &str| (!repository().join(path).exists()).then(|| format!("{path} does not exist"));
    match words.as_slice() {
        // Separate programs: the script `x` starts them.
        ["./x", "images" | "docker" | "cluster", ..] => None,
        ["./x", rest @ ..] => refused_by_x(rest),
        ["cargo", rest @ ..] => {
            let named = rest.windows(2).find(|two| two[0] == "-p").map_or("", |two| two[1]);
            (!packages.contains(named)).then(|| format!("no package {named}"))
        }
        ["helm", "install", _, chart, ..] => missing(&format!("{chart}/Chart.yaml")),
        ["kubectl", "apply", "-f", file, ..] => missing(file),
        ["kubectl", "desktopstream", verb, ..] => {
            let verbs = fs::read_to_string(repository().join("operator/kubectl-desktopstream/src/cli.rs"))
                .expect("readable");
            let (first, rest) = verb.split_at(1);
            let variant = format!("    {}{rest}", first.to_uppercase());
            let known = verbs
                .lines()
                .any(|line| line.strip_prefix(&variant).is_some_and(|it| it.starts_with([' ', '('])));
            (!known).then(|| format!("kubectl desktopstream has no command {verb}"))
        }
        _ => None,
    }
}

#[test]
fn commands_in_pages_exist() {
    let packages = packages();
    for (page, least) in [("docs/macos.md", 15), ("README.md", 12)] {
        let commands = shell(page);
        assert!(commands.len() >= least, "{page}: {commands:?}");
        for command in commands {
            assert_eq!(page_fault(&command, &packages), None, "{page}: {command}");
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
        assert!(page_fault(bad, &packages).is_some(), "{bad}");
    }
}

/// Relative links in a page: the file, and the heading behind `#`.
fn links(text: &str) -> Vec<(String, Option<String>)> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let relative = targets.filter(|target| !target.contains("://"));
    relative
        .map(|target| match target.split_once('#') {
            Some((file, heading)) => (file.to_owned(), Some(heading.to_owned())),
            None => (target.to_owned(), None),
        })
        .collect()
}

/// Anchors of a page's headings, as forges make them.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        words.chars().filter(|it| it.is_alphanumeric() || *it == '-' || *it == '_').collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn links_in_pages_lead_to_files_and_headings() {
    let root = repository();
    let mut pages = vec!["README.md".to_owned(), "ARCHITECTURE.md".to_owned(), "docker/README.md".to_owned()];
    for entry in fs::read_dir(root.join("docs")).expect("readable") {
        let name = entry.expect("readable").file_name().into_string().expect("UTF-8");
        if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
            pages.push(format!("docs/{name}"));
        }
    }
    let mut broken = Vec::new();
    for page in &pages {
        let text = fs::read_to_string(root.join(page)).expect("readable");
        for (file, heading) in links(&text) {
            let path = root.join(page).parent().expect("a folder").join(&file);
            let target =
                if file.is_empty() { text.clone() } else { fs::read_to_string(&path).unwrap_or_default() };
            if !file.is_empty() && !path.exists() {
                broken.push(format!("{page}: {file} does not exist"));
            } else if heading.as_ref().is_some_and(|heading| !anchors(&target).contains(heading)) {
                broken.push(format!("{page}: {file} has no heading {heading:?}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Paths of source files and folders in ARCHITECTURE.md.
#[test]
fn paths_in_the_architecture_exist() {
    let root = repository();
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("readable");
    let quoted = text.split('`').skip(1).step_by(2);
    let paths: Vec<_> = quoted.filter(|it| it.contains('/') && !it.contains([' ', '*', '{'])).collect();
    assert!(paths.len() > 20, "{paths:?}");
    let missing: Vec<_> =
        paths.iter().filter(|path| !path.starts_with('/') && !root.join(path).exists()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn actions_of_others_are_pinned_by_commit() {
    let used: Vec<_> =
        steps().iter().filter_map(|(_, step)| Some(step["uses"].as_str()?.to_owned())).collect();
    assert!(!used.is_empty());
    for action in used {
        let (_, pin) = action.split_once('@').expect("a version");
        assert!(pin.len() == 40 && pin.bytes().all(|byte| byte.is_ascii_hexdigit()), "{action}");
    }
}

#[test]
fn formula_has_the_workspace_version() {
    let root = repository();
    let formula = root.join("packaging/homebrew/desktopstream.rb");
    let version = field(&root.join("Cargo.toml"), "version = ");
    assert_eq!(field(&formula, "version "), version);
    assert!(field(&formula, "url ").contains(&format!("-{version}.tar.gz")));
    assert_eq!(field(&formula, "license "), "any_of: [\"MIT\", \"Apache-2.0\"]");
    // Install names of both forms of the tap, which `check-macos` checks too.
    let text = fs::read_to_string(&formula).expect("readable");
    for name in ["@rpath/libtap.dylib", "@rpath/libvirglrenderer.1.dylib", "1000.0.0"] {
        let rules = fs::read_to_string(root.join("tests/macos/src/rules.rs")).expect("readable");
        assert!(text.contains(name) && rules.contains(name), "{name}");
    }
}

/// Evaluates the formula in Ruby with `evaluate.rb`, a stub of Homebrew.
#[test]
fn formula_evaluates_to_existing_packages() {
    let root = repository();
    let folder = root.join("packaging/homebrew");
    let ruby = |formula: &Path| {
        std::process::Command::new("ruby")
            .arg("-w")
            .arg(folder.join("evaluate.rb"))
            .arg(formula)
            .output()
            .expect("install ruby, or run ./x, which does")
    };
    let out = ruby(&folder.join("desktopstream.rb"));
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && stderr.is_empty(), "{stderr}");
    let evaluated: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(evaluated["class"], "Desktopstream");
    assert_eq!(evaluated["version"].as_str(), Some(field(&root.join("Cargo.toml"), "version = ").as_str()));
    assert_eq!(evaluated["license"]["any_of"], serde_json::json!(["MIT", "Apache-2.0"]));
    assert_eq!(field(&root.join("Cargo.toml"), "license = "), "MIT OR Apache-2.0");
    let commands = evaluated["system"].as_array().expect("commands");
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
                    let tap = fs::read_to_string(root.join("host-agent/tap/Cargo.toml")).expect("readable");
                    assert!(tap.contains("\ndrop-in = "), "no such feature: {words:?}");
                }
            }
            ["/bin/host-agent", ..] => {}
            _ => panic!("unknown command: add it to this test: {words:?}"),
        }
    }
    let installed: Vec<_> =
        evaluated["installed"].as_array().expect("a list").iter().map(|one| &one[2]).collect();
    assert_eq!(installed, ["libtap.dylib", "libvirglrenderer.1.dylib"]);

    // Broken formulas are noticed.
    let broken = tempfile::tempdir().expect("a folder");
    let text = fs::read_to_string(folder.join("desktopstream.rb")).expect("readable");
    for (from, to) in
        [("def caveats", "def tap(x)"), ("depends_on arch", "dependson arch"), ("\n  end\n", "\n")]
    {
        let file = broken.path().join("broken.rb");
        fs::write(&file, text.replacen(from, to, 1)).expect("written");
        assert!(!ruby(&file).status.success(), "{to} in place of {from} was not noticed");
    }
}
