//! Tables of docs/troubleshooting.md: reasons of conditions and doctor checks, from the constants that programs use.

use std::fmt::Write as _;

use contract::doctor::checks;
use operator_api::conditions::{Engine, reasons};

/// Text of a table cell: without line breaks and without a bar, which ends a cell; a dash for nothing.
fn cell(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    if text.is_empty() { "–".to_owned() } else { text }
}

#[test]
fn reasons_are_listed_in_troubleshooting() {
    let mut table =
        "| reason | meaning | remedy on Kubernetes | remedy on Docker |\n|---|---|---|---|\n".to_owned();
    for reason in reasons::ALL {
        let (meaning, kubernetes) = (cell(reason.meaning), cell(reason.remedy(Engine::Kubernetes)));
        let docker = cell(reason.remedy(Engine::Docker));
        let docker = if docker == kubernetes && docker != "–" { "the same".to_owned() } else { docker };
        writeln!(table, "| `{}` | {meaning} | {kubernetes} | {docker} |", reason.name).expect("a String");
    }
    crate::generated::check("docs/troubleshooting.md", "reasons", &table);
}

#[test]
fn doctor_checks_are_listed_in_troubleshooting() {
    let mut table = "| check | passes if | run by | remedy |\n|---|---|---|---|\n".to_owned();
    for check in checks::ALL {
        let (passes_if, remedy) = (cell(check.passes_if), cell(check.remedy));
        writeln!(table, "| `{}` | {passes_if} | {} | {remedy} |", check.name, check.run_by)
            .expect("a String");
    }
    crate::generated::check("docs/troubleshooting.md", "checks", &table);
}
