//! Tasks behind `./x`: one module per subcommand, each with its arguments and a `run` function.

mod bench;
mod check_macos;
mod clean;
mod crates;
mod demo;
mod fuzz;
#[cfg(test)]
mod generated;
mod interrupt;
mod lab;
#[cfg(test)]
mod packaging;
mod programs;
#[cfg(test)]
mod security;
mod test;
mod tidy;
mod tools;
#[cfg(test)]
mod troubleshooting;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "x", bin_name = "./x", about = "Build, test, measure and run desktopstream")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Stream a desktop in a VM to the browser
    Demo(demo::Arguments),
    /// Run test suites
    Test(test::Arguments),
    /// Run benchmarks
    #[command(subcommand)]
    Bench(bench::Command),
    /// Boot and inspect VMs
    #[command(subcommand)]
    Lab(lab::Command),
    /// Type-check, link and inspect the macOS artifacts
    CheckMacos,
    /// Show and remove cache entries
    Clean(clean::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Bench(command) => bench::run(&command),
        Command::Lab(command) => lab::run(command),
        Command::CheckMacos => check_macos::run(),
        Command::Clean(arguments) => clean::run(&arguments).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("x: {error:#}");
        ExitCode::FAILURE
    })
}
