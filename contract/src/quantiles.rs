//! Summaries of distributions in status reports.

use serde::{Deserialize, Serialize};

/// Distribution of durations, ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MillisecondQuantiles {
    /// Median, ms.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Maximum, ms.
    pub max: f64,
}

/// Distribution of durations in whole units (µs or ns: the field name says which).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CountedQuantiles {
    /// Number of samples.
    pub count: u64,
    /// Median of the samples.
    pub p50: u64,
    /// 99th percentile.
    pub p99: u64,
    /// Maximum of the samples.
    pub max: u64,
}
