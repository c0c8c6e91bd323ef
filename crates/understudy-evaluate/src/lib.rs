//! Metrics, suites and reports.
