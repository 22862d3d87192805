//! Arrows between crates: which ones are allowed, and the list of all of them in ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, Package};

/// Crates that every product may use, with the crates of ours that they may use themselves.
const SHARED: [(&str, &[&str]); 7] = [
    ("protocol", &[]),
    ("contract", &[]),
    ("stream-tls", &["contract"]),
    ("stream-token", &["contract"]),
    ("encode", &["contract", "protocol"]),
    ("encode-testkit", &["contract", "encode", "protocol"]),
    ("numbered", &["contract", "protocol"]),
];

/// Folders of the products. They meet only in shared crates.
const PRODUCTS: [&str; 3] = ["sidecar", "host-agent", "operator"];

/// Crates of the operator, with the operator's crates that each may use. Its binary may use all.
const OPERATOR: [(&str, &[&str]); 9] = [
    ("operator-api", &[]),
    ("operator-plan", &["operator-api"]),
    ("operator-discovery", &["operator-api", "operator-plan"]),
    ("operator-sidecar-client", &["operator-api", "operator-plan"]),
    ("operator-controller", &["operator-api", "operator-plan", "operator-sidecar-client"]),
    ("operator-webhook", &["operator-api", "operator-plan"]),
    ("operator-node-agent", &["operator-api", "operator-discovery", "operator-plan"]),
    ("operator-docker", &["operator-api", "operator-discovery", "operator-plan", "operator-sidecar-client"]),
    ("kubectl-desktopstream", &["operator-api", "operator-plan", "operator-sidecar-client"]),
];

/// Binaries: wiring that no library uses.
const BINARIES: [&str; 3] = ["sidecar", "host-agent", "operator"];

/// A crate of the workspace.
struct Crate {
    name: String,
    /// Folder relative to the repository's root.
    folder: String,
    /// Crates of ours that it is built from, without those for its tests.
    uses: BTreeSet<String>,
    /// Crates of ours that its tests use.
    tests_use: BTreeSet<String>,
}

impl Crate {
    fn product(&self) -> Option<&'static str> {
        PRODUCTS.into_iter().find(|product| self.folder.split('/').next() == Some(product))
    }
}

/// Arrows that break a rule.
pub fn violations(metadata: &Metadata) -> Vec<String> {
    let crates = crates(metadata);
    crates.values().flat_map(|it| it.violations(&crates)).collect()
}

impl Crate {
    fn violations(&self, crates: &BTreeMap<String, Self>) -> Vec<String> {
        let refused = |other: &str, why: &str| Some(format!("{}: must not use {other}: {why}", self.name));
        let shared = |name: &str| SHARED.iter().find(|(shared, _)| *shared == name);
        let of_the_operator = OPERATOR.iter().find(|(name, _)| *name == self.name);
        let mut found: Vec<String> = Vec::new();
        for other in &self.uses {
            let other_product = crates[other].product();
            found.extend(if let Some((_, allowed)) = shared(&self.name) {
                (!allowed.contains(&other.as_str()))
                    .then(|| {
                        refused(
                            other,
                            "a shared crate may use only shared crates listed in xtask/src/tidy/arrows.rs",
                        )
                    })
                    .flatten()
            } else if self.product().is_none() || shared(other).is_some() {
                None
            } else if other_product.is_none() {
                refused(other, "products do not use test programs")
            } else if other_product != self.product() {
                refused(other, "products meet only in shared crates")
            } else if BINARIES.contains(&other.as_str()) {
                refused(other, "a binary is wiring")
            } else if of_the_operator.is_some_and(|(_, allowed)| !allowed.contains(&other.as_str())) {
                refused(other, "api <- plan <- {controller, webhook, docker}, which do not use each other")
            } else {
                None
            });
        }
        for other in &self.tests_use {
            let other_product = crates[other].product();
            if self.product().is_some() && other_product.is_some() && other_product != self.product() {
                found.extend(refused(other, "products meet only in shared crates, in their tests too"));
            }
        }
        found
    }
}

fn crates(metadata: &Metadata) -> BTreeMap<String, Crate> {
    let own: BTreeSet<String> = metadata.packages.iter().map(|package| package.name.to_string()).collect();
    let of = |package: &Package, test: bool| {
        let wanted = |kind| (kind == DependencyKind::Development) == test;
        let dependencies = package.dependencies.iter().filter(|it| it.path.is_some() && wanted(it.kind));
        dependencies
            .map(|dependency| dependency.name.clone())
            .filter(|name| own.contains(name) && *name != *package.name)
            .collect()
    };
    let crates = metadata.packages.iter().map(|package| {
        let folder = package
            .manifest_path
            .parent()
            .map(|folder| folder.strip_prefix(&metadata.workspace_root).unwrap_or(folder).to_string());
        let (uses, tests_use) = (of(package, false), of(package, true));
        Crate { name: package.name.to_string(), folder: folder.unwrap_or_default(), uses, tests_use }
    });
    crates.map(|it| (it.name.clone(), it)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    /// The list in ARCHITECTURE.md: a line for each crate that ships or that those share, with the crates it uses.
    fn list(metadata: &Metadata) -> String {
        let mut crates: Vec<_> = crates(metadata).into_values().collect();
        crates.retain(|it| it.product().is_some() || SHARED.iter().any(|(name, _)| *name == it.name));
        let rank =
            |it: &Crate| it.product().and_then(|it| PRODUCTS.iter().position(|product| *product == it));
        crates.sort_by_key(|it| (rank(it), it.folder.clone()));
        let line = |it: &Crate| {
            let uses: Vec<_> = it.uses.iter().map(String::as_str).collect();
            format!("{:<25} → {}\n", it.name, if uses.is_empty() { "–".to_owned() } else { uses.join(" ") })
        };
        crates.iter().map(line).collect()
    }

    #[test]
    fn crates_use_only_what_the_architecture_allows() {
        let violations = violations(&workspace::metadata().expect("metadata"));
        assert!(violations.is_empty(), "{}", violations.join("\n"));
    }

    #[test]
    fn architecture_lists_the_arrows() {
        let list = list(&workspace::metadata().expect("metadata"));
        crate::generated::check("ARCHITECTURE.md", "arrows", &format!("```text\n{list}```\n"));
    }

    #[test]
    fn tables_name_crates_that_exist() {
        let crates = crates(&workspace::metadata().expect("metadata"));
        let tables = SHARED.iter().chain(&OPERATOR);
        let named =
            tables.flat_map(|(name, allowed)| [name].into_iter().chain(allowed.iter())).chain(&BINARIES);
        for name in named {
            assert!(crates.contains_key(*name), "{name}");
        }
        let operator = crates.values().filter(|it| it.product() == Some("operator") && it.name != "operator");
        for it in operator {
            assert!(OPERATOR.iter().any(|(name, _)| *name == it.name), "{}: add it to OPERATOR", it.name);
        }
    }

    #[test]
    fn forbidden_arrows_are_found() {
        let one = |name: &str, folder: &str, uses: &[&str], tests_use: &[&str]| {
            let set = |names: &[&str]| names.iter().map(ToString::to_string).collect();
            let (uses, tests_use) = (set(uses), set(tests_use));
            (name.to_owned(), Crate { name: name.to_owned(), folder: folder.to_owned(), uses, tests_use })
        };
        let crates = BTreeMap::from([
            one("contract", "contract", &["protocol"], &[]),
            one("protocol", "protocol", &[], &[]),
            one("sidecar", "sidecar", &["capture", "contract"], &["pattern"]),
            one("capture", "sidecar/capture", &["protocol", "pattern"], &[]),
            one("host-agent", "host-agent", &["capture"], &[]),
            one("gst", "sidecar/gst", &["sidecar"], &[]),
            one(
                "operator-docker",
                "operator/docker",
                &["operator-controller", "operator-plan"],
                &["capture"],
            ),
            one("operator-controller", "operator/controller", &["operator-plan"], &[]),
            one("operator-plan", "operator/plan", &["contract"], &[]),
            one("pattern", "tests/fixtures/pattern", &["capture"], &[]),
        ]);
        let mut found: Vec<_> = crates.values().flat_map(|it| it.violations(&crates)).collect();
        for it in &mut found {
            it.truncate(it.rfind(": ").unwrap_or(0));
        }
        let expected = [
            "capture: must not use pattern",
            "contract: must not use protocol",
            "gst: must not use sidecar",
            "host-agent: must not use capture",
            "operator-docker: must not use operator-controller",
            "operator-docker: must not use capture",
        ];
        assert_eq!(found, expected);
    }
}
