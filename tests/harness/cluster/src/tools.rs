//! The programs of clusters and engines: built from Go modules, and kept in the lab's cache under the hash of their pins.
//!
//! Each product has its own go.mod below `tools/`, as their dependencies conflict. The first build takes ten minutes on two
//! cores, mostly for Kubernetes.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use lab::cache::Recipe;
use lab::host;

/// Version of the build procedure: raise it when a change of this file changes the programs.
const FORMAT: u32 = 1;

/// Programs with a common go.mod.
#[derive(Debug, Clone, Copy)]
pub struct Product {
    /// Folder below `tools/`.
    pub name: &'static str,
    /// Packages to build; `tool` stands for the go.mod's `tool` lines.
    pub packages: &'static str,
    /// Name of the product's only program, if the package's name is not suitable.
    pub program: Option<&'static str>,
    /// Build tags.
    pub tags: &'static str,
    /// True if cgo is needed (runc).
    pub cgo: bool,
    /// Variables that the linker sets to a version, and the module that has that version.
    pub stamps: &'static [(&'static str, &'static str)],
    /// Value of `-gcflags`.
    pub compiler: Option<&'static str>,
}

impl Product {
    /// A product with all tools of `tools/NAME/go.mod`.
    pub const fn new(name: &'static str) -> Self {
        Self { name, packages: "tool", program: None, tags: "", cgo: false, stamps: &[], compiler: None }
    }
}

const PRODUCTS: [Product; 8] = [
    Product { packages: "./...", ..Product::new("images") },
    Product::new("cni"),
    Product { cgo: true, tags: "seccomp", ..Product::new("runc") },
    Product { program: Some("etcd"), packages: "go.etcd.io/etcd/server/v3", ..Product::new("etcd") },
    Product::new("containerd"),
    Product { program: Some("coredns"), packages: ".", ..Product::new("coredns") },
    Product::new("helm"),
    Product::new("kubernetes"),
];

/// Folders of built programs.
#[derive(Debug, Clone)]
pub struct Tools {
    folders: Vec<(&'static str, PathBuf)>,
}

impl Tools {
    /// Builds all programs of a cluster that are not in the cache.
    pub fn build() -> Result<Self> {
        Self::of("cluster", &PRODUCTS)
    }

    /// Builds some products of a cluster, for an engine.
    pub fn some(names: &[&str]) -> Result<Self> {
        let products: Vec<Product> =
            PRODUCTS.into_iter().filter(|product| names.contains(&product.name)).collect();
        Self::of("cluster", &products)
    }

    /// Builds products of `tests/harness/CRATE/tools`.
    pub fn of(crate_name: &str, products: &[Product]) -> Result<Self> {
        let sources = lab::repository().join("tests/harness").join(crate_name).join("tools");
        let built = products.iter().map(|product| {
            let source = sources.join(product.name);
            ensure!(
                source.is_dir(),
                "{} does not exist: run this in a clone of the repository",
                source.display()
            );
            let mut recipe = Recipe::new(&format!("{crate_name}-{}", product.name), FORMAT)
                .input("tags", product.tags.as_bytes());
            if let Some(flags) = product.compiler {
                recipe = recipe.input("compiler", flags.as_bytes());
            }
            let recipe = recipe.path(&source)?;
            Ok((product.name, recipe.build(|folder| product.build(&source.canonicalize()?, folder))?))
        });
        Ok(Self { folders: built.collect::<Result<_>>()? })
    }

    /// Merges two sets of programs.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.folders.extend(others.folders);
        self
    }

    /// Path of a program.
    ///
    /// # Errors
    /// If the program is not part of the products that were built.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let found = self.folders.iter().map(|(_, folder)| folder.join(name)).find(|file| file.is_file());
        found.with_context(|| {
            format!(
                "program {name} was not built: remove the cluster-* and docker-* folders with ./x clean, then build again"
            )
        })
    }

    /// Folder of a product's programs.
    pub(crate) fn folder(&self, product: &str) -> Result<&Path> {
        let found = self.folders.iter().find(|(name, _)| *name == product);
        found.map(|(_, folder)| folder.as_path()).with_context(|| format!("product {product} was not built"))
    }

    /// A `PATH` with these programs first.
    pub fn search_path(&self) -> Result<OsString> {
        let ours = self.folders.iter().map(|(_, folder)| folder.clone());
        // On Debian, iptables is in a folder that only root has in its PATH.
        let theirs = env::var_os("PATH").unwrap_or_default();
        let theirs = env::split_paths(&theirs).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
        env::join_paths(ours.chain(theirs)).context("the cache's path contains a colon: set XDG_CACHE_HOME")
    }
}

impl Product {
    fn build(&self, source: &Path, folder: &Path) -> Result<()> {
        check_go()?;
        if self.cgo {
            let seccomp = Command::new("pkg-config").args(["--exists", "libseccomp"]).status();
            ensure!(
                seccomp.is_ok_and(|status| status.success()),
                "building {} needs a C compiler and libseccomp: apt install gcc pkg-config libseccomp-dev",
                self.name
            );
        }
        let mut output = folder.as_os_str().to_owned();
        output.push("/");
        output.push(self.program.unwrap_or_default());
        // The build works on a copy, as it takes minutes in which the working tree may change.
        let copy = folder.join("src");
        host::run(Command::new("cp").arg("-r").args([source, copy.as_path()]))?;
        let log = folder.join("build.log");
        let mut go = Command::new("go");
        go.current_dir(&copy)
            .envs([("GOFLAGS", "-buildvcs=false -mod=readonly"), ("GOTOOLCHAIN", "local"), ("GOWORK", "off")])
            .env("CGO_ENABLED", if self.cgo { "1" } else { "0" })
            .args([
                "build",
                "-v",
                "-trimpath",
                "-tags",
                self.tags,
                "-ldflags",
                &self.link_flags(source)?,
                "-o",
            ])
            .arg(output)
            .args(self.compiler.map(|flags| format!("-gcflags={flags}")))
            .arg(self.packages);
        host::run_logged(&mut go, &log)
            .context("building with go; if modules could not be downloaded, check the network and GOPROXY")?;
        fs::remove_file(log)?;
        Ok(fs::remove_dir_all(copy)?)
    }

    /// Linker flags. Kubernetes takes its version from the linker only, and refuses kubelets of version 0.0.0.
    fn link_flags(&self, source: &Path) -> Result<String> {
        let mut flags = "-s -w".to_owned();
        if self.name == "kubernetes" {
            let version = pinned(&fs::read_to_string(source.join("go.mod"))?, "k8s.io/kubernetes")?;
            let mut parts = version.trim_start_matches('v').split('.');
            let (Some(major), Some(minor)) = (parts.next(), parts.next()) else {
                bail!("{version} is not a valid version")
            };
            for (name, value) in [("gitVersion", version.as_str()), ("gitMajor", major), ("gitMinor", minor)]
            {
                for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
                    flags = format!("{flags} -X {package}.{name}={value}");
                }
            }
        }
        let go_mod = fs::read_to_string(source.join("go.mod"))?;
        for (variable, module) in self.stamps {
            flags = format!(
                "{flags} -X {variable}={}",
                pinned(&go_mod, module)?.trim_end_matches("+incompatible")
            );
        }
        Ok(flags)
    }
}

/// The version that a go.mod requires of a module.
fn pinned(go_mod: &str, module: &str) -> Result<String> {
    let mut lines = go_mod.lines().map(|line| line.trim().trim_start_matches("require "));
    let version = lines.find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some(module)).then(|| words.next()).flatten()
    });
    Ok(version.with_context(|| format!("{module} is not in go.mod"))?.to_owned())
}

fn check_go() -> Result<()> {
    let remedy = "building the cluster's programs needs Go 1.26.2 or newer: install it from https://go.dev/dl \
                  (or from Debian backports) and add it to PATH";
    let output = Command::new("go").args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").output();
    let output = output.context(remedy)?;
    let version = String::from_utf8_lossy(&output.stdout);
    let minor = version.trim().trim_start_matches("go1.").split('.').next().and_then(|it| it.parse().ok());
    ensure!(minor.is_some_and(|minor: u32| minor >= 26), "{} is too old; {remedy}", version.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_version_is_read_from_go_mod() {
        let go_mod =
            "module m\n\nrequire k8s.io/kubernetes v1.36.3\n\nrequire (\n\tk8s.io/kubernetes-x v9\n)\n";
        assert_eq!(pinned(go_mod, "k8s.io/kubernetes").expect("module is required"), "v1.36.3");
        assert!(pinned(go_mod, "k8s.io/api").is_err());
    }

    #[test]
    fn each_product_has_a_go_mod_with_its_tools() {
        for product in PRODUCTS {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(product.name);
            let go_mod = fs::read_to_string(folder.join("go.mod")).expect("go.mod exists");
            assert_eq!(go_mod.contains("\ntool "), product.packages != "." && product.packages != "./...");
        }
    }
}
