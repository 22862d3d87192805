//! The report as Markdown and as a plot.

use std::fmt::Write as _;

use serde_json::Value;

use super::seen::Times;

/// The report as a Markdown table.
pub fn markdown(report: &Value) -> String {
    let number = |path: &str| report.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN);
    let text = |path: &str| report.pointer(path).map(ToString::to_string).unwrap_or_default();
    let desired = |quantile: &str| number(&format!("/create_to_desired_ms/operator/{quantile}"));
    let rows = [
        ("all streams created after", format!("{:.1} s", number("/create_seconds"))),
        ("all objects created after", format!("{:.1} s", number("/burst_seconds/operator"))),
        ("reconciliations per second", format!("{:.0}", number("/reconciles_per_second"))),
        (
            "stream created → all its objects created, p50 / p99 / max",
            format!("{:.0} / {:.0} / {:.0} ms", desired("p50"), desired("p99"), desired("max")),
        ),
        (
            "requests to the apiserver per stream (of these, writes)",
            format!("{:.1} ({:.1})", number("/calls_per_stream"), number("/writes_per_stream")),
        ),
        (
            "requests per minute in the steady state (besides, for the Lease)",
            format!(
                "{:.0} ({:.0})",
                number("/steady_calls_per_minute"),
                number("/steady_lease_calls_per_minute")
            ),
        ),
        (
            "operator: CPU per stream; in the steady state",
            format!(
                "{:.1} ms; {:.2} % of a core",
                number("/operator/cpu_ms_per_stream"),
                number("/operator/steady_cpu_percent")
            ),
        ),
        (
            "operator: resident memory; at most",
            format!("{:.0} MB; {:.0} MB", number("/operator/rss_mb"), number("/operator/peak_rss_mb")),
        ),
        (
            "operator restarted: all streams reconciled after; writes",
            format!("{:.1} s; {:.0}", number("/restart/seconds"), number("/restart/writes")),
        ),
    ];
    let mut table = format!(
        "# {} DesktopStreams at once\n\n{} x {}, shared by etcd, apiserver, controllers and operator. No pod runs, as the scheduler \
         is stopped. Times are those at which a watch reports an object.\n\n| | |\n|---|---|\n",
        report["streams"],
        text("/host/cpus"),
        text("/host/cpu").trim_matches('"'),
    );
    for (name, value) in rows {
        // Writing to a String cannot fail.
        let _infallible = writeln!(table, "| {name} | {value} |");
    }
    table
}

/// Plot of the numbers of created and of complete streams over time.
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
    let created = curve(times.0.iter().map(|(created, _)| created.as_secs_f64()).collect());
    let complete = curve(times.0.iter().map(|(created, took)| (*created + *took).as_secs_f64()).collect());
    let (right, bottom) = (60.0 + WIDTH, 40.0 + HEIGHT);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 750 380\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"24\" font-size=\"16\">Streams created, and streams with all their objects</text>\n\
         <path d=\"M60 40V{bottom}H{right}\" fill=\"none\" stroke=\"#64748b\"/>\n\
         <text x=\"52\" y=\"46\" text-anchor=\"end\">{count}</text><text x=\"52\" y=\"{bottom}\" text-anchor=\"end\">0</text>\n\
         <text x=\"{right}\" y=\"358\" text-anchor=\"end\">{all:.1} s</text>\n\
         <polyline points=\"{created}\" fill=\"none\" stroke=\"#94a3b8\" stroke-width=\"2\"/>\n\
         <polyline points=\"{complete}\" fill=\"none\" stroke=\"#2563eb\" stroke-width=\"2\"/>\n\
         <text x=\"70\" y=\"60\" fill=\"#94a3b8\">created</text><text x=\"70\" y=\"76\" fill=\"#2563eb\">complete</text>\n</svg>\n"
    )
}
