//! `list`: one line per stream.

use anyhow::Result;
use operator_api::summary::{Summary, table};
use serde::Deserialize;
use serde_json::Value;

use crate::kubectl::Kubectl;
use crate::target::RESOURCE;

#[derive(Deserialize)]
struct List {
    items: Vec<Value>,
}

/// Prints the streams as a table or as JSON.
pub(crate) fn run(kubectl: &Kubectl, all_namespaces: bool, json: bool) -> Result<()> {
    let mut args = vec!["get", RESOURCE];
    if all_namespaces {
        args.push("--all-namespaces");
    }
    let list: List = kubectl.get(&args)?;
    let rows: Vec<Summary> = list.items.into_iter().map(summary).collect();
    if json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else if rows.is_empty() {
        eprintln!("no streams; docs/samples has examples to apply");
    } else {
        print!("{}", table(&rows, all_namespaces));
    }
    Ok(())
}

/// Summarizes one object. An object of another API version becomes a row with a problem, so that the others are listed.
fn summary(object: Value) -> Summary {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text("namespace"), text("name"));
    match serde_json::from_value(object) {
        Ok(stream) => Summary::of(&stream),
        Err(error) => {
            Summary { namespace, name, problem: format!("cannot be parsed: {error}"), ..Summary::default() }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unparsable_stream_becomes_a_row_with_a_problem() {
        let odd = json!({"metadata": {"namespace": "b", "name": "odd"}, "spec": {"desktop": 7}});
        let row = summary(odd);
        assert_eq!((row.namespace.as_str(), row.name.as_str()), ("b", "odd"));
        assert!(row.problem.starts_with("cannot be parsed"), "{}", row.problem);
    }
}
