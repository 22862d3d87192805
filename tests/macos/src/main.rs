//! `./x check-macos`; and `sdk DIR`, which writes the stubs only, for who links on a Mac without virglrenderer.

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
        _ => bail!("nothing, or: sdk DIR"),
    }
}

fn check() -> Result<bool> {
    let begin = Instant::now();
    let toolchain = Toolchain::ready()?;
    let folder = target_folder().join("macos-sdk");
    sdk::write(&sdk::libraries()?, &folder)?;
    let builder = Builder::new(toolchain, &folder);
    println!("x: lints for a Mac");
    builder.lint()?;
    let mut good = true;
    for product in Product::ALL {
        println!("x: linking {product:?}");
        let path = builder.link(product)?;
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let facts = facts(&bytes).with_context(|| path.display().to_string())?;
        let broken = rules::of(product).broken(&facts);
        for line in &broken {
            eprintln!("x: {product:?}: {line}");
        }
        good &= broken.is_empty();
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
        "x: {} in {:.0} s",
        if good { "all as it must be" } else { "NOT as it must be" },
        begin.elapsed().as_secs_f64()
    );
    Ok(good)
}
