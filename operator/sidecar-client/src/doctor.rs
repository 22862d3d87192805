//! Options that `sidecar run` shares with `sidecar doctor`.

use contract::names::flags;

/// Flags of `sidecar run` that its doctor accepts, too, without the leading `--`.
const DOCTOR_FLAGS: [&str; 13] = [
    flags::SOURCE,
    "memory",
    "render-node",
    flags::RUNTIME_DIR,
    "wayland-display",
    "pipewire-node",
    flags::CURSOR,
    flags::INITIAL_SIZE,
    flags::UPSTREAM,
    flags::UPSTREAM_FILE,
    flags::TOKEN_FILE,
    flags::TLS_KEY_FILE,
    flags::PLAINTEXT_TCP,
];

/// The arguments of a running sidecar that its doctor accepts. Values must be joined by `=`, as the operator writes them.
pub fn doctor_options(sidecar_args: Vec<String>) -> Vec<String> {
    let is_shared = |arg: &String| {
        let Some(option) = arg.strip_prefix("--") else { return false };
        DOCTOR_FLAGS.contains(&option.split('=').next().unwrap_or_default())
    };
    sidecar_args.into_iter().filter(is_shared).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doctor_options_exclude_flags_of_run_only() {
        let args = ["run", "--name=ns/desk", "--source=test-pattern", "--max-viewers=8", "--cursor=hidden"];
        assert_eq!(
            doctor_options(args.map(str::to_owned).into()),
            ["--source=test-pattern", "--cursor=hidden"]
        );
    }
}
