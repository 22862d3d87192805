//! `./x clean`: contents and removal of the cache.

use anyhow::Result;
use clap::Args;
use lab::cache::{self, Size};
use lab::image::{self, is_image};

use crate::{crates, tools};

/// Show and remove cache entries
#[derive(Args)]
pub struct Arguments {
    /// List entries without removing them
    #[arg(long)]
    dry_run: bool,
    /// Only entries that no current recipe uses
    #[arg(long)]
    stale: bool,
}

pub fn run(Arguments { dry_run, stale }: &Arguments) -> Result<()> {
    let mut current = image::current_ids()?;
    current.extend(crates::current_id());
    current.extend(tools::current_ids());
    let known = |id: &str| is_image(id) || crates::is_entry(id) || tools::is_tool(id);
    let mut total = 0;
    for entry in cache::entries()? {
        let used = current.contains(&entry.id) && !entry.unfinished;
        if *stale && (used || !known(&entry.id)) {
            continue;
        }
        let note = match (entry.unfinished, used) {
            (true, _) => "  unfinished",
            (false, false) if known(&entry.id) => "  stale",
            _ => "",
        };
        println!("{:>10}  {}{note}", entry.size.to_string(), entry.id);
        total += entry.size.0;
        if !dry_run {
            entry.remove()?;
        }
    }
    println!("{:>10}  {}", Size(total).to_string(), if *dry_run { "in total" } else { "removed" });
    Ok(())
}
