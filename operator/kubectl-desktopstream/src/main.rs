//! `kubectl desktopstream`. kubectl finds plugins in `PATH` by the prefix `kubectl-`.

fn main() -> std::process::ExitCode {
    kubectl_desktopstream::Plugin::parse_and_run()
}
