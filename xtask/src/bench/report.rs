//! Table and plot of a frame report.

use std::fmt::Write as _;

use serde_json::Value;

fn rows(report: &Value) -> impl Iterator<Item = &Value> {
    report["rows"].as_array().into_iter().flatten()
}

fn f(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// Frame rate of another path with the same encoder and size.
fn fps_of(report: &Value, like: &Value, path: &str) -> Option<f64> {
    rows(report)
        .find(|row| {
            row["path"] == path && ["encoder", "width", "height"].iter().all(|key| row[*key] == like[*key])
        })
        .map(|row| f(&row["fps"]))
}

/// Markdown tables of all rows and of the tap's read times.
pub fn markdown(report: &Value) -> String {
    let host = &report["host"];
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let mut out = format!(
        "# Frame paths\n\nMachine: {} x {}, {}, {}; desktop {}. All rows are from one run. × is the frame rate relative to pixels-nv12.\n\n",
        host["cpus"],
        text(&host["cpu"]),
        text(&host["accelerator"]),
        text(&host["host_gl"]),
        text(&host["desktop"]),
    );
    out += "| path | encoder | size | fps | × | latency p50 / p95 / p99 ms | bytes/frame to host | dropped | CPU % vmm / sidecar / host-agent |\n";
    out += "|---|---|---|---|---|---|---|---|---|\n";
    for row in rows(report) {
        let ratio = fps_of(report, row, "pixels-nv12").map_or(f64::NAN, |base| f(&row["fps"]) / base);
        let (latency, cpu) = (&row["latency_ms"], &row["cpu_percent"]);
        // Writing to a String does not fail.
        let _ = writeln!(
            out,
            "| {} | {} | {}x{} | {:.1} | {ratio:.1} | {:.1} / {:.1} / {:.1} | {:.0} | {} | {:.0} / {:.1} / {:.1} |",
            text(&row["path"]),
            text(&row["encoder"]),
            row["width"],
            row["height"],
            f(&row["fps"]),
            f(&latency["p50"]),
            f(&latency["p95"]),
            f(&latency["p99"]),
            f(&row["bytes_per_frame_to_host"]),
            row["dropped"],
            f(&cpu["vmm"]),
            f(&cpu["sidecar"]),
            f(&cpu["host_agent"]),
        );
    }
    out +=
        "\nTime on the VMM's thread per frame, in ms: the tap in total, and the renderer's read alone:\n\n";
    out += "| size | tap p50 / p99 / max | bare p50 / p99 / max |\n|---|---|---|\n";
    for read in report["read_ms"].as_array().into_iter().flatten() {
        let cell = |side: &Value| {
            format!("{:.2} / {:.2} / {:.2}", f(&side["p50"]), f(&side["p99"]), f(&side["max"]))
        };
        let _ = writeln!(
            out,
            "| {}x{} | {} | {} |",
            read["width"],
            read["height"],
            cell(&read["tap"]),
            cell(&read["bare"])
        );
    }
    out
}

const BAR: f64 = 18.0;
const LABEL: f64 = 250.0;
const PLOT: f64 = 420.0;

/// Bar chart of frame rates.
pub fn svg(report: &Value) -> String {
    let most = rows(report).map(|row| f(&row["fps"])).fold(1.0, f64::max);
    let height = 60.0 + (BAR + 6.0) * rows(report).count() as f64;
    let width = LABEL + PLOT + 80.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"24\" font-size=\"16\">Frames per second, by path, encoder and size</text>\n"
    );
    for (at, row) in rows(report).enumerate() {
        let y = 42.0 + (BAR + 6.0) * at as f64;
        let fps = f(&row["fps"]);
        let fill = if row["path"] == "resource-id" { "#2563eb" } else { "#94a3b8" };
        let label = format!(
            "{} {} {}x{}",
            row["path"].as_str().unwrap_or("?"),
            row["encoder"].as_str().unwrap_or("?"),
            row["width"],
            row["height"]
        );
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{label}</text>\
             <rect x=\"{LABEL}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{fill}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{fps:.1}</text>",
            LABEL - 8.0,
            y + 13.0,
            PLOT * fps / most,
            LABEL + PLOT * fps / most + 6.0,
            y + 13.0,
        );
    }
    out + "</svg>\n"
}
