//! The programs, from Go modules; containerd and runc are the ones that tests/harness/cluster builds.

use anyhow::Result;
use cluster::tools::{Product, Tools};

use crate::engine::Version;

const PRODUCTS: [Product; 3] = [
    Product {
        stamps: &[("github.com/moby/moby/v2/dockerversion.Version", "github.com/moby/moby/v2")],
        ..Product::new("dockerd")
    },
    // The docker CLI, too: the two share most of what they are made of.
    Product {
        stamps: &[
            ("github.com/docker/buildx/version.Version", "github.com/docker/buildx"),
            ("github.com/docker/cli/cli/version.Version", "github.com/docker/cli"),
        ],
        // The CLI has no go.mod, so go takes it for code of go 1.16.
        compiler: Some("github.com/docker/cli/cmd/docker=-lang=go1.26"),
        ..Product::new("buildx")
    },
    Product {
        program: Some("compose"),
        stamps: &[("github.com/docker/compose/v5/internal.Version", "github.com/docker/compose/v5")],
        ..Product::new("compose")
    },
];

/// What docker knows as `docker NAME`, by our names of the programs.
pub const PLUGINS: [&str; 2] = ["buildx", "compose"];

/// Builds what isn't built yet; Debian's engine brings its own, but for Compose.
pub fn build(version: Version) -> Result<Tools> {
    match version {
        Version::Current => {
            Ok(Tools::of("docker", &PRODUCTS)?.and(Tools::some(&["images", "runc", "containerd"])?))
        }
        Version::Debian => Ok(Tools::of("docker", &PRODUCTS[2..])?.and(Tools::some(&["images"])?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_product_has_its_pins() {
        for product in PRODUCTS {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(product.name);
            let go_mod = std::fs::read_to_string(folder.join("go.mod")).expect("a go.mod");
            assert!(go_mod.contains("\ntool "), "{}", product.name);
            for (_, module) in product.stamps {
                assert!(go_mod.contains(&format!("\t{module} v")), "{module}");
            }
        }
    }
}
