//! Metrics, in the text format of Prometheus.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{Unit, describe_gauge, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use smtpd_tower::{BoxError, server::Handle};
use tokio::{task, time};

/// How often the samples of histograms are added up, so that they take no memory where nobody asks for metrics.
const UPKEEP: Duration = Duration::from_secs(5);

/// Seconds, from what a command takes to what a session may take.
const DURATIONS: [f64; 12] = [
    0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0, 600.0,
];

/// Bytes.
const SIZES: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];

/// All metrics of this process: those below, and whatever the framework and its services record.
#[derive(Clone)]
pub(crate) struct Metrics {
    all: PrometheusHandle,
    server: Handle,
}

impl Metrics {
    /// Returns what the recorder has, and the state of the server.
    pub(crate) fn new(all: PrometheusHandle, server: Handle) -> Self {
        Self { all, server }
    }

    /// Returns all metrics as they are now.
    pub(crate) fn text(&self) -> String {
        gauge!("smtpd.sessions").set(self.server.sessions() as f64);
        self.all.render()
    }
}

/// Starts to record, before there is anything that registers a metric.
///
/// # Errors
/// Fails if there is a recorder already.
pub(crate) fn record() -> Result<PrometheusHandle, BoxError> {
    let recorder = PrometheusBuilder::new()
        .with_recommended_naming(true)
        .set_buckets(&DURATIONS)?
        .set_buckets_for_metric(Matcher::Suffix("size".to_owned()), &SIZES)?
        .set_buckets_for_metric(Matcher::Suffix("size_bytes".to_owned()), &SIZES)?
        .build_recorder();
    let all = recorder.handle();
    metrics::set_global_recorder(recorder)?;
    describe();
    let upkeep = all.clone();
    task::spawn(async move {
        loop {
            time::sleep(UPKEEP).await;
            upkeep.run_upkeep();
        }
    });
    Ok(all)
}

fn describe() {
    describe_gauge!("smtpd.build.info", "1, with the version as a label");
    gauge!("smtpd.build.info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    describe_gauge!(
        "process.start.time",
        Unit::Seconds,
        "When the process started, since 1970"
    );
    let started = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    gauge!("process.start.time").set(started.as_secs_f64());
    describe_gauge!("smtpd.sessions", "Sessions at the moment");
}
