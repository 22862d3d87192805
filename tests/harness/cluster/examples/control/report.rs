//! The report for people: a table and a plot.

use std::fmt::Write as _;

use serde_json::Value;

use super::seen::Times;

/// As a table.
pub fn markdown(report: &Value) -> String {
    let number = |path: &str| report.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN);
    let text = |path: &str| report.pointer(path).map(ToString::to_string).unwrap_or_default();
    let rows = [
        ("created in", format!("{:.1} s", number("/seconds/creating"))),
        ("all objects there after", format!("{:.1} s", number("/seconds/all"))),
        ("reconciliations per second", format!("{:.0}", number("/reconciles_per_s"))),
        (
            "created → all desired objects, p50 / p99 / max",
            format!(
                "{:.0} / {:.0} / {:.0} ms",
                number("/create_to_desired_ms/p50"),
                number("/create_to_desired_ms/p99"),
                number("/create_to_desired_ms/max")
            ),
        ),
        ("requests to the apiserver per stream", format!("{:.1}", number("/api_calls_per_stream"))),
        (
            "requests per minute when nothing changes (and for the Lease)",
            format!(
                "{:.0} ({:.0})",
                number("/steady_calls_per_minute"),
                number("/steady_lease_calls_per_minute")
            ),
        ),
        (
            "operator: CPU per stream; when nothing changes",
            format!(
                "{:.1} ms; {:.2} % of a core",
                number("/operator/cpu_ms_per_stream"),
                number("/operator/steady_cpu_percent")
            ),
        ),
        (
            "operator: resident, at most",
            format!("{:.0} MB, {:.0} MB", number("/operator/rss_mb"), number("/operator/peak_rss_mb")),
        ),
        (
            "started again with all of them there: known after, writes",
            format!("{:.1} s, {:.0}", number("/restart/seconds"), number("/restart/writes")),
        ),
    ];
    let mut table = format!(
        "# {} DesktopStreams at once\n\n{} x {}, etcd, apiserver, controllers and operator on it together; no scheduler, so no pod \
         runs. An object counts as there when a watch tells of it.\n\n| | |\n|---|---|\n",
        report["streams"],
        text("/host/cpus"),
        text("/host/cpu").trim_matches('"'),
    );
    for (what, value) in rows {
        // Writing to a String can't fail.
        let _infallible = writeln!(table, "| {what} | {value} |");
    }
    table
}

/// Streams created and streams complete, over time.
pub fn svg(times: &Times) -> String {
    const WIDTH: f64 = 640.0;
    const HEIGHT: f64 = 300.0;
    let all = times.last().as_secs_f64().max(0.001);
    let count = times.0.len().max(1) as f64;
    let curve = |mut at: Vec<f64>| {
        at.sort_by(f64::total_cmp);
        let point = |(rank, at): (usize, &f64)| {
            format!(
                "{:.1},{:.1}",
                60.0 + at / all * WIDTH,
                40.0 + HEIGHT - (rank + 1) as f64 / count * HEIGHT
            )
        };
        at.iter().enumerate().map(point).collect::<Vec<_>>().join(" ")
    };
    let born = curve(times.0.iter().map(|(born, _)| born.as_secs_f64()).collect());
    let done = curve(times.0.iter().map(|(born, took)| (*born + *took).as_secs_f64()).collect());
    let (right, bottom) = (60.0 + WIDTH, 40.0 + HEIGHT);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 750 380\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"24\" font-size=\"16\">Streams created, and streams that have all their objects</text>\n\
         <path d=\"M60 40V{bottom}H{right}\" fill=\"none\" stroke=\"#64748b\"/>\n\
         <text x=\"52\" y=\"46\" text-anchor=\"end\">{count}</text><text x=\"52\" y=\"{bottom}\" text-anchor=\"end\">0</text>\n\
         <text x=\"{right}\" y=\"358\" text-anchor=\"end\">{all:.1} s</text>\n\
         <polyline points=\"{born}\" fill=\"none\" stroke=\"#94a3b8\" stroke-width=\"2\"/>\n\
         <polyline points=\"{done}\" fill=\"none\" stroke=\"#2563eb\" stroke-width=\"2\"/>\n\
         <text x=\"70\" y=\"60\" fill=\"#94a3b8\">created</text><text x=\"70\" y=\"76\" fill=\"#2563eb\">complete</text>\n</svg>\n"
    )
}
