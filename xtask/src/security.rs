//! Compares docs/security.md with the code: files, tests, limits and flags that it names exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const PAGE: &str = "docs/security.md";
/// Fewest underscores in the name of a test.
const TEST_UNDERSCORES: usize = 3;

/// Texts in backquotes.
fn code(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Contents of all Rust files below `folder`.
fn sources(folder: &Path, all: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            sources(&path, all);
        } else if path.extension().is_some_and(|it| it == "rs") {
            all.push_str(&fs::read_to_string(&path).expect("a text"));
        }
    }
}

fn is_test_name(text: &str) -> bool {
    let is_snake_case = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    is_snake_case && text.matches('_').count() >= TEST_UNDERSCORES
}

fn is_path(text: &str) -> bool {
    text.contains('/') && [".rs", ".yaml", ".toml"].iter().any(|end| text.ends_with(end))
}

/// Name and value of a limit in the form `NAME = VALUE`.
fn limit(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.split_once(" = ")?;
    name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_').then_some((name, value))
}

/// True if `source` defines the constant with this value.
fn defines(source: &str, name: &str, value: &str) -> bool {
    let begin = format!("const {name}: ");
    source.lines().any(|line| {
        let rest = line.split_once(&begin).and_then(|(_, rest)| rest.split_once(" = "));
        rest.is_some_and(|(_, found)| found == format!("{value};"))
    })
}

#[test]
fn security_page_names_files_tests_and_limits_that_exist() {
    let root = crate::workspace::root().expect("the repository exists");
    let page = fs::read_to_string(root.join(PAGE)).expect("the page is readable");
    let mut all = String::new();
    sources(&root, &mut all);
    let (mut wrong, mut tests, mut limits, mut rows) = (BTreeSet::new(), 0, 0, 0);
    for line in page.lines() {
        let names: Vec<&str> = code(line).collect();
        let paths: Vec<&&str> = names.iter().filter(|it| is_path(it)).collect();
        wrong.extend(
            paths.iter().filter(|path| !root.join(path).is_file()).map(|path| format!("no file {path}")),
        );
        for name in names.iter().filter(|it| is_test_name(it)) {
            tests += 1;
            if !all.contains(&format!("fn {name}(")) {
                wrong.insert(format!("no test {name}"));
            }
        }
        for (name, value) in names.iter().filter_map(|it| limit(it)) {
            limits += 1;
            let source = paths.first().and_then(|path| fs::read_to_string(root.join(path)).ok());
            if !source.is_some_and(|source| defines(&source, name, value)) {
                wrong.insert(format!("no limit {name} = {value} in {paths:?}"));
            }
        }
        // Rows of threats have an answer in a file, and a test.
        if line.starts_with("| ") && !paths.is_empty() && line.matches(" | ").count() == 3 {
            rows += 1;
            if !names.iter().any(|it| is_test_name(it)) {
                wrong.insert(format!("no proof: {line}"));
            }
        }
        for flag in names.iter().filter_map(|it| it.strip_prefix("--")) {
            let field = format!("pub {}:", flag.replace('-', "_"));
            if !all.contains(&field) {
                wrong.insert(format!("no flag --{flag}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{PAGE}: {wrong:#?}");
    assert!(
        tests > 50 && limits > 20 && rows > 30,
        "{tests} tests, {limits} limits, {rows} rows are compared"
    );
}
