//! The `operator` program.

fn main() -> std::process::ExitCode {
    operator::cli::Cli::parse_and_run()
}
