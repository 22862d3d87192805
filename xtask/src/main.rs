//! What `./x` runs: one module per subcommand, each with its arguments and a `run`.

mod bench;
mod check_macos;
mod clean;
mod crates;
mod demo;
mod fuzz;
mod lab;
#[cfg(test)]
mod packaging;
mod stop;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "x", about = "The one door to everything that is done in this repository")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show a desktop of a VM in the browser
    Demo(demo::Arguments),
    /// Run test suites
    Test(test::Arguments),
    /// Measure
    #[command(subcommand)]
    Bench(bench::Command),
    /// Boot VMs and look into them
    #[command(subcommand)]
    Lab(lab::Command),
    /// Type-check, link and inspect what ships on a Mac
    CheckMacos,
    /// Show what the cache holds, and remove it
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
