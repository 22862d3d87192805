//! The engine's programs, from Go modules. containerd and runc are those of tests/harness/cluster.

use anyhow::Result;
use cluster::tools::{Product, Tools};

use crate::engine::Version;

const PRODUCTS: [Product; 3] = [
    Product {
        stamps: &[("github.com/moby/moby/v2/dockerversion.Version", "github.com/moby/moby/v2")],
        ..Product::new("dockerd")
    },
    // Includes the docker CLI, which shares most dependencies with buildx.
    Product {
        stamps: &[
            ("github.com/docker/buildx/version.Version", "github.com/docker/buildx"),
            ("github.com/docker/cli/cli/version.Version", "github.com/docker/cli"),
        ],
        // The CLI has no go.mod, so go would compile it as go 1.16.
        compiler: Some("github.com/docker/cli/cmd/docker=-lang=go1.26"),
        ..Product::new("buildx")
    },
    Product {
        program: Some("compose"),
        stamps: &[("github.com/docker/compose/v5/internal.Version", "github.com/docker/compose/v5")],
        ..Product::new("compose")
    },
];

/// Programs that are plugins: `docker NAME`.
pub const PLUGINS: [&str; 2] = ["buildx", "compose"];

/// Builds the programs that are not in the cache. Debian's engine takes only Compose and the probe.
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
    fn each_product_has_a_go_mod_with_its_tools() {
        for product in PRODUCTS {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(product.name);
            let go_mod = std::fs::read_to_string(folder.join("go.mod")).expect("go.mod exists");
            assert!(go_mod.contains("\ntool "), "{}", product.name);
            for (_, module) in product.stamps {
                assert!(go_mod.contains(&format!("\t{module} v")), "{module}");
            }
        }
    }
}
