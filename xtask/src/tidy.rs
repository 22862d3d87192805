//! What no compiler checks: files that nobody includes, files that grew too long, unsafe outside the fences.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// Lines after which a file has more than one idea.
const TOO_LONG: usize = 600;
/// Where unsafe code may be: the product's fences, one call of the GStreamer plugin's, and the test pattern's GL.
const FENCES: [&str; 6] = [
    "sidecar/virtgpu",
    "sidecar/pipewire-buffers",
    "sidecar/gst/src/dmabuf.rs",
    "host-agent/tap",
    "host-agent/videotoolbox",
    "tests/fixtures/pattern",
];

/// Checks the tree; prints what it finds.
pub fn run() -> Result<()> {
    println!("x: tidy");
    let root = lab::repository().canonicalize()?;
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    let mut found = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file)?;
        let name = file.strip_prefix(&root)?.display().to_string();
        let lines = text.lines().count();
        if lines > TOO_LONG {
            found.push(format!("{name}: {lines} lines; split it"));
        }
        let is_test = name.contains("/tests/") || name.ends_with("/tests.rs");
        if !text.starts_with("//!") && !text.starts_with("#!") && !is_test {
            found.push(format!("{name}: say at the top what it is for"));
        }
        let has_unsafe = text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or_default();
            code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl")
        });
        if has_unsafe && name != "xtask/src/tidy.rs" && !FENCES.iter().any(|fence| name.starts_with(fence)) {
            found.push(format!("{name}: unsafe outside the fences {FENCES:?}"));
        }
        if !reachable(file) && !name.ends_with("/mod.rs") {
            found.push(format!("{name}: no mod line includes it"));
        }
    }
    for line in &found {
        eprintln!("x: {line}");
    }
    ensure!(found.is_empty(), "{} things to tidy", found.len());
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            if !["target", ".git", "node_modules", "corpus", "artifacts"].iter().any(|skip| name == *skip) {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Whether a file is a crate root, or its parent module declares it.
fn reachable(file: &Path) -> bool {
    let (Some(stem), Some(folder)) = (file.file_stem().and_then(|stem| stem.to_str()), file.parent()) else {
        return false;
    };
    let in_folder = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let root = matches!(stem, "main" | "lib" | "build")
        || matches!(in_folder, "tests" | "examples" | "benches" | "bin" | "fuzz_targets");
    if root {
        return true;
    }
    let module = if stem == "mod" { in_folder } else { stem };
    let parents =
        [folder.with_extension("rs"), folder.join("mod.rs"), folder.join("lib.rs"), folder.join("main.rs")];
    let siblings = || fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let declares = |path: &Path| {
        path != file
            && fs::read_to_string(path).is_ok_and(|text| {
                text.lines().any(|line| {
                    let line = line.trim();
                    line.ends_with(&format!("mod {module};")) || line.ends_with(&format!("mod {module} {{"))
                })
            })
    };
    parents.iter().any(|path| declares(path)) || siblings().any(|path| declares(&path))
}
