//! `kubectl desktopstream`: kubectl finds this program in PATH by its name.

fn main() -> std::process::ExitCode {
    operator::plugin::Plugin::parse_and_run()
}
