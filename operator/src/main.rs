//! The program; see the library.

fn main() -> std::process::ExitCode {
    operator::cli::Cli::parse_and_run()
}
