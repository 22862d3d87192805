//! The programs: built from Go modules, once, and kept in the lab's cache under the hash of what pins them.
//!
//! One go.mod per product under `tools/`, as their dependencies don't agree. A first build takes ten minutes of two
//! processors, most of it Kubernetes.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use lab::cache::Recipe;
use lab::host;

/// Raise it when how we build changes what comes out.
const FORMAT: u32 = 1;

/// Programs that share a go.mod.
#[derive(Debug, Clone, Copy)]
pub struct Product {
    /// The folder under `tools/`.
    pub name: &'static str,
    /// What to build: `tool` is go's word for the go.mod's tool lines.
    pub packages: &'static str,
    /// What its one program is called, where the package's name isn't good.
    pub program: Option<&'static str>,
    /// Build tags.
    pub tags: &'static str,
    /// Only runc is partly C.
    pub cgo: bool,
    /// Variables that hold a version, and the module whose version it is: what only a linker tells a program.
    pub stamps: &'static [(&'static str, &'static str)],
    /// For its compiler, as `-gcflags` has it.
    pub compiler: Option<&'static str>,
}

impl Product {
    /// All tools of `tools/NAME/go.mod`.
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

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Tools {
    folders: Vec<(&'static str, PathBuf)>,
}

impl Tools {
    /// Builds what isn't built yet.
    pub fn build() -> Result<Self> {
        Self::of("cluster", &PRODUCTS)
    }

    /// Builds some of them: for an engine that needs no cluster.
    pub fn some(names: &[&str]) -> Result<Self> {
        let products: Vec<Product> =
            PRODUCTS.into_iter().filter(|product| names.contains(&product.name)).collect();
        Self::of("cluster", &products)
    }

    /// Builds those of `tests/harness/CRATE/tools`.
    pub fn of(crate_name: &str, products: &[Product]) -> Result<Self> {
        let sources = lab::repository().join("tests/harness").join(crate_name).join("tools");
        let made = products.iter().map(|product| {
            let source = sources.join(product.name);
            ensure!(source.is_dir(), "no {}: run it inside a clone of the repository", source.display());
            let mut recipe = Recipe::new(&format!("{crate_name}-{}", product.name), FORMAT)
                .input("tags", product.tags.as_bytes());
            if let Some(flags) = product.compiler {
                recipe = recipe.input("compiler", flags.as_bytes());
            }
            let recipe = recipe.path(&source)?;
            Ok((product.name, recipe.build(|folder| product.build(&source.canonicalize()?, folder))?))
        });
        Ok(Self { folders: made.collect::<Result<_>>()? })
    }

    /// These and those.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.folders.extend(others.folders);
        self
    }

    /// One program's file.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let found = self.folders.iter().map(|(_, folder)| folder.join(name)).find(|file| file.is_file());
        found.with_context(|| {
            format!(
                "no program {name} was built: remove the cluster-* and docker-* folders with ./x clean, and build again"
            )
        })
    }

    /// The folder of a product's programs.
    pub(crate) fn folder(&self, product: &str) -> Result<&Path> {
        let found = self.folders.iter().find(|(name, _)| *name == product);
        found.map(|(_, folder)| folder.as_path()).with_context(|| format!("no product {product}"))
    }

    /// A `PATH` with all of them first.
    pub fn search_path(&self) -> Result<OsString> {
        let ours = self.folders.iter().map(|(_, folder)| folder.clone());
        // Debian keeps iptables where only root looks.
        let theirs = env::var_os("PATH").unwrap_or_default();
        let theirs = env::split_paths(&theirs).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
        env::join_paths(ours.chain(theirs)).context("the cache's path has a colon: set XDG_CACHE_HOME")
    }
}

impl Product {
    fn build(&self, source: &Path, folder: &Path) -> Result<()> {
        go_is_there()?;
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
        // A copy, as the working tree may change under a build of minutes.
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
            .context("if modules could not be downloaded: is GOPROXY set, is the network up?")?;
        fs::remove_file(log)?;
        Ok(fs::remove_dir_all(copy)?)
    }

    /// Kubernetes learns its version from its linker only, and a kubelet of version 0.0.0 is shunned.
    fn link_flags(&self, source: &Path) -> Result<String> {
        let mut flags = "-s -w".to_owned();
        if self.name == "kubernetes" {
            let version = pinned(&fs::read_to_string(source.join("go.mod"))?, "k8s.io/kubernetes")?;
            let mut parts = version.trim_start_matches('v').split('.');
            let (Some(major), Some(minor)) = (parts.next(), parts.next()) else {
                bail!("{version}: not a version")
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

fn go_is_there() -> Result<()> {
    let remedy = "building the cluster's programs needs Go, 1.26.2 or newer: install it from https://go.dev/dl \
                  (or by apt, from backports) and have it in PATH";
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
    fn the_version_is_the_pinned_one() {
        let go_mod =
            "module m\n\nrequire k8s.io/kubernetes v1.36.3\n\nrequire (\n\tk8s.io/kubernetes-x v9\n)\n";
        assert_eq!(pinned(go_mod, "k8s.io/kubernetes").expect("it is there"), "v1.36.3");
        assert!(pinned(go_mod, "k8s.io/api").is_err());
    }

    #[test]
    fn every_product_has_its_pins() {
        for product in PRODUCTS {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(product.name);
            let go_mod = fs::read_to_string(folder.join("go.mod")).expect("a go.mod");
            assert_eq!(go_mod.contains("\ntool "), product.packages != "." && product.packages != "./...");
        }
    }
}
