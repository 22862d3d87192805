//! `./x check-macos`. With the arguments `sdk DIR` it only writes the stub SDK, for linking on a Mac without virglrenderer.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use check_macos::build::{Builder, Product, target_folder};
use check_macos::inspect::facts;
use check_macos::toolchain::Toolchain;
use check_macos::{rules, sdk};

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("x: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    match words.as_slice() {
        [] => check(),
        [sdk, folder] if sdk == "sdk" => sdk::write(&sdk::libraries()?, Path::new(folder)).map(|()| true),
        _ => bail!("unexpected arguments; pass none, or: sdk DIR"),
    }
}

fn check() -> Result<bool> {
    let begin = Instant::now();
    let toolchain = Toolchain::ready()?;
    let folder = target_folder().join("macos-sdk");
    sdk::write(&sdk::libraries()?, &folder)?;
    let builder = Builder::new(toolchain, &folder);
    println!("x: lints for {}", check_macos::toolchain::TARGET);
    builder.lint()?;
    let mut passed = true;
    for product in Product::ALL {
        println!("x: linking {product:?}");
        let path = builder.link(product)?;
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let facts = facts(&bytes).with_context(|| path.display().to_string())?;
        let violations = rules::of(product).violations(&facts);
        for line in &violations {
            eprintln!("x: {product:?}: {line}");
        }
        passed &= violations.is_empty();
        println!(
            "x: {}: {} kB, {} imports, {} exports, {} interposed, needs {}",
            path.display(),
            bytes.len() / 1000,
            facts.imports.len(),
            facts.exports.len(),
            facts.interposed.len(),
            facts
                .needs
                .iter()
                .map(|(path, need)| format!("{path} ({need:?})"))
                .collect::<Vec<_>>()
                .join(", ")
        );
    }
    println!(
        "x: macOS files {} in {:.0} s",
        if passed { "meet all requirements" } else { "VIOLATE requirements" },
        begin.elapsed().as_secs_f64()
    );
    Ok(passed)
}
