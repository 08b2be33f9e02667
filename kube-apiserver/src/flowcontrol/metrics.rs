//! `apiserver_flowcontrol_*`, under upstream's names and labels. What is counted for every request is resolved once
//! for each pair of FlowSchema and priority level.

use std::sync::{LazyLock, OnceLock, Weak};

use common::telemetry::register;
use parking_lot::Mutex;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{
    queues::Queues,
    timing::{Family, Timing},
};

const LEVEL: &[&str] = &["priority_level"];
const FLOW: &[&str] = &["priority_level", "flow_schema"];
const SECONDS: [f64; 13] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];

/// The ratios of a level's timings.
pub const SEATS: &[f64] = &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];
/// As above, of requests.
pub const REQUESTS: &[f64] = &[0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 1.0];
/// As above, of the seats that could be used.
pub const DEMAND: &[f64] = &[0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0, 2.8, 4.0, 6.0];
const KINDS: &[f64] = &[0.0, 0.001, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];

fn name(rest: &str) -> String {
    format!("apiserver_flowcontrol_{rest}")
}

fn counter(rest: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(IntCounterVec::new(Opts::new(name(rest), help), labels).expect("constant metric"))
}

fn gauge(rest: &str, help: &str, labels: &[&str]) -> GaugeVec {
    register(GaugeVec::new(Opts::new(name(rest), help), labels).expect("constant metric"))
}

fn int_gauge(rest: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(IntGaugeVec::new(Opts::new(name(rest), help), labels).expect("constant metric"))
}

fn histogram(rest: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
    let opts = HistogramOpts::new(name(rest), help).buckets(buckets.to_vec());
    register(HistogramVec::new(opts, labels).expect("constant metric"))
}

struct Flows {
    rejected: IntCounterVec,
    dispatched: IntCounterVec,
    waiting: IntGaugeVec,
    waiting_seats: IntGaugeVec,
    queue_length: HistogramVec,
    executing: IntGaugeVec,
    executing_seats: IntGaugeVec,
    wait: HistogramVec,
    execution: HistogramVec,
    watches: HistogramVec,
    seats: HistogramVec,
    no_accommodation: IntCounterVec,
}

static FLOWS: LazyLock<Flows> = LazyLock::new(|| Flows {
    rejected: counter(
        "rejected_requests_total",
        "Number of requests rejected by API Priority and Fairness subsystem",
        &["priority_level", "flow_schema", "reason"],
    ),
    dispatched: counter(
        "dispatched_requests_total",
        "Number of requests executed by API Priority and Fairness subsystem",
        FLOW,
    ),
    waiting: int_gauge(
        "current_inqueue_requests",
        "Number of requests currently pending in queues of the API Priority and Fairness subsystem",
        FLOW,
    ),
    waiting_seats: int_gauge(
        "current_inqueue_seats",
        "Number of seats currently pending in queues of the API Priority and Fairness subsystem",
        FLOW,
    ),
    queue_length: histogram(
        "request_queue_length_after_enqueue",
        "Length of queue in the API Priority and Fairness subsystem, as seen by each request after it is enqueued",
        FLOW,
        &[0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0],
    ),
    executing: int_gauge(
        "current_executing_requests",
        "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem",
        FLOW,
    ),
    executing_seats: int_gauge(
        "current_executing_seats",
        "Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem",
        FLOW,
    ),
    wait: histogram(
        "request_wait_duration_seconds",
        "Length of time a request spent waiting in its queue",
        &["priority_level", "flow_schema", "execute"],
        &SECONDS,
    ),
    execution: histogram(
        "request_execution_seconds",
        "Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution in the API Priority and Fairness subsystem",
        &["priority_level", "flow_schema", "type"],
        &SECONDS,
    ),
    watches: histogram(
        "watch_count_samples",
        "count of watchers for mutating requests in API Priority and Fairness",
        FLOW,
        &[0.0, 1.0, 10.0, 100.0, 1000.0, 10000.0],
    ),
    seats: histogram(
        "work_estimated_seats",
        "Number of estimated seats (maximum of initial and final seats) associated with requests in API Priority and Fairness",
        FLOW,
        &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0],
    ),
    no_accommodation: counter(
        "request_dispatch_no_accommodation_total",
        "Number of times a dispatch attempt resulted in a non accommodation due to lack of available seats",
        FLOW,
    ),
});

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No seat, and no queue to wait in.
    ConcurrencyLimit,
    /// No place in the queue.
    QueueFull,
    /// It waited too long, or its client left.
    TimeOut,
}

/// The metrics of the requests of one FlowSchema at one priority level.
pub struct Flow {
    /// The schema's name.
    pub schema: String,
    rejected: [OnceLock<IntCounter>; 3],
    no_accommodation: OnceLock<IntCounter>,
    waited: [OnceLock<Histogram>; 2],
    executed: [OnceLock<Histogram>; 2],
    watches: OnceLock<Histogram>,
    labels: [String; 2],
    /// Requests that were executed.
    pub dispatched: IntCounter,
    /// Requests that wait.
    pub waiting: IntGauge,
    /// Seats that they will take.
    pub waiting_seats: IntGauge,
    /// How many waited in the queue that a request joined.
    pub queue_length: Histogram,
    /// Requests that are executed now.
    pub executing: IntGauge,
    /// Seats that they take.
    pub executing_seats: IntGauge,
    /// Estimates.
    pub seats: Histogram,
}

impl Flow {
    /// The metrics of a pair.
    #[must_use]
    pub fn new(level: &str, schema: &str) -> Self {
        let (flows, labels) = (&*FLOWS, &[level, schema]);
        Self {
            schema: schema.to_owned(),
            rejected: Default::default(),
            no_accommodation: OnceLock::new(),
            waited: Default::default(),
            executed: Default::default(),
            watches: OnceLock::new(),
            labels: [level.to_owned(), schema.to_owned()],
            dispatched: flows.dispatched.with_label_values(labels),
            waiting: flows.waiting.with_label_values(labels),
            waiting_seats: flows.waiting_seats.with_label_values(labels),
            queue_length: flows.queue_length.with_label_values(labels),
            executing: flows.executing.with_label_values(labels),
            executing_seats: flows.executing_seats.with_label_values(labels),
            seats: flows.seats.with_label_values(labels),
        }
    }

    fn with<'a>(&'a self, third: &'a str) -> [&'a str; 3] {
        [&self.labels[0], &self.labels[1], third]
    }

    /// Counts a refusal.
    pub fn refused(&self, why: Refusal) {
        let reason = match why {
            Refusal::ConcurrencyLimit => "concurrency-limit",
            Refusal::QueueFull => "queue-full",
            Refusal::TimeOut => "time-out",
        };
        let make = || FLOWS.rejected.with_label_values(&self.with(reason));
        self.rejected[why as usize].get_or_init(make).inc();
    }

    /// Notes how long a request waited, and whether it was executed then.
    pub fn waited(&self, seconds: f64, executed: bool) {
        let make = || FLOWS.wait.with_label_values(&self.with(if executed { "true" } else { "false" }));
        self.waited[usize::from(executed)].get_or_init(make).observe(seconds);
    }

    /// Notes how long a request took.
    pub fn executed(&self, seconds: f64, watch: bool) {
        let make = || FLOWS.execution.with_label_values(&self.with(if watch { "watch" } else { "regular" }));
        self.executed[usize::from(watch)].get_or_init(make).observe(seconds);
    }

    /// Notes how many watch what a request writes.
    pub fn watched(&self, watches: usize) {
        let make = || FLOWS.watches.with_label_values(&[&self.labels[0], &self.labels[1]]);
        self.watches.get_or_init(make).observe(watches as f64);
    }

    /// Counts a request that was next but found too few seats.
    pub fn not_accommodated(&self) {
        let make = || FLOWS.no_accommodation.with_label_values(&[&self.labels[0], &self.labels[1]]);
        self.no_accommodation.get_or_init(make).inc();
    }
}

/// The metrics of one priority level.
pub struct LevelGauges {
    /// Progress of virtual time.
    pub progress: Gauge,
    dispatch: [Gauge; 6],
    limits: [Gauge; 3],
    demand: [Gauge; 4],
    target: Gauge,
    current: Gauge,
}

impl LevelGauges {
    /// The metrics of a level.
    #[must_use]
    pub fn new(level: &str) -> Self {
        static FAMILIES: LazyLock<[GaugeVec; 14]> = LazyLock::new(|| {
            let bound = &["priority_level", "bound"];
            [
                gauge("current_r", "R(time of last change)", LEVEL),
                gauge("dispatch_r", "R(time of last dispatch)", LEVEL),
                gauge("latest_s", "S(most recently dispatched request)", LEVEL),
                gauge("next_s_bounds", "min and max, over queues, of S(oldest waiting request in queue)", bound),
                gauge(
                    "next_discounted_s_bounds",
                    "min and max, over queues, of S(oldest waiting request in queue) - estimated work in progress",
                    bound,
                ),
                gauge(
                    "nominal_limit_seats",
                    "Nominal number of execution seats configured for each priority level",
                    LEVEL,
                ),
                gauge(
                    "lower_limit_seats",
                    "Configured lower bound on number of execution seats available to each priority level",
                    LEVEL,
                ),
                gauge(
                    "upper_limit_seats",
                    "Configured upper bound on number of execution seats available to each priority level",
                    LEVEL,
                ),
                gauge(
                    "demand_seats_high_watermark",
                    "High watermark, over last adjustment period, of demand_seats",
                    LEVEL,
                ),
                gauge(
                    "demand_seats_average",
                    "Time-weighted average, over last adjustment period, of demand_seats",
                    LEVEL,
                ),
                gauge(
                    "demand_seats_stdev",
                    "Time-weighted standard deviation, over last adjustment period, of demand_seats",
                    LEVEL,
                ),
                gauge("demand_seats_smoothed", "Smoothed seat demands", LEVEL),
                gauge("target_seats", "Seat allocation targets", LEVEL),
                gauge(
                    "current_limit_seats",
                    "current derived number of execution seats available to each priority level",
                    LEVEL,
                ),
            ]
        });
        let one = |index: usize| FAMILIES[index].with_label_values(&[level]);
        let bound = |index: usize, bound: &str| FAMILIES[index].with_label_values(&[level, bound]);
        Self {
            progress: one(0),
            dispatch: [one(1), one(2), bound(3, "min"), bound(3, "max"), bound(4, "min"), bound(4, "max")],
            limits: [one(5), one(6), one(7)],
            demand: [one(8), one(9), one(10), one(11)],
            target: one(12),
            current: one(13),
        }
    }

    /// Virtual times at a dispatch: of now, of the chosen queue, bounds, and bounds less the work under way.
    pub fn dispatched(&self, times: [f64; 6]) {
        self.dispatch.iter().zip(times).for_each(|(gauge, time)| gauge.set(time));
    }

    /// The level's seats: nominal, least, most.
    pub fn limits(&self, limits: [u32; 3]) {
        self.limits.iter().zip(limits).for_each(|(gauge, limit)| gauge.set(limit.into()));
    }

    /// What was needed (high watermark, average, deviation, smoothed), what was aimed at, and what it has now.
    pub fn adjusted(&self, demand: [f64; 4], target: f64, current: u32) {
        self.demand.iter().zip(demand).for_each(|(gauge, value)| gauge.set(value));
        self.target.set(target);
        self.current.set(current.into());
    }
}

/// `seat_fair_frac`.
pub fn fair_fraction() -> &'static Gauge {
    static GAUGE: LazyLock<Gauge> = LazyLock::new(|| {
        let help = "Fair fraction of server's concurrency to allocate to each priority level that can use it";
        register(Gauge::with_opts(Opts::new(name("seat_fair_frac"), help)).expect("constant metric"))
    });
    &GAUGE
}

/// Requests that only read, and those that write, waiting and executed.
pub struct Kinds([Mutex<(f64, Timing)>; 4]);

static KIND_TIMINGS: LazyLock<Kinds> =
    LazyLock::new(|| Kinds(std::array::from_fn(|_| Mutex::new((0.0, Timing::new(KINDS, std::time::Instant::now()))))));

/// A request that is counted while this lives.
pub struct Counted(usize);

impl Counted {
    /// Counts a request.
    #[must_use]
    pub fn new(mutating: bool, executing: bool) -> Self {
        let index = usize::from(mutating) * 2 + usize::from(executing);
        Self::add(index, 1.0);
        Self(index)
    }

    fn add(index: usize, delta: f64) {
        let now = std::time::Instant::now();
        let (count, timing) = &mut *KIND_TIMINGS.0[index].lock();
        *count += delta;
        timing.set(now, *count);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        Self::add(self.0, -1.0);
    }
}

/// How many requests can be waiting and executed at all.
pub fn kinds_out_of(waiting: f64, executing: f64) {
    let now = std::time::Instant::now();
    for (index, timing) in KIND_TIMINGS.0.iter().enumerate() {
        timing.lock().1.out_of(now, if index % 2 == 0 { waiting } else { executing });
    }
}

/// The timings of all levels, collected when somebody asks.
struct Timings {
    families: [Family; 4],
}

static LEVELS: Mutex<Vec<Weak<Queues>>> = Mutex::new(Vec::new());

/// Reports the timings of a level from now on.
pub fn report(queues: Weak<Queues>) {
    static REGISTERED: OnceLock<()> = OnceLock::new();
    REGISTERED.get_or_init(|| {
        let families = [
            Family::new("apiserver_flowcontrol_priority_level_seat_utilization", "Observations, at the end of every nanosecond, of utilization of seats for any stage of execution (but only initial stage for WATCHes)", &["priority_level", "phase"]),
            Family::new("apiserver_flowcontrol_priority_level_request_utilization", "Observations, at the end of every nanosecond, of number of requests (as a fraction of the relevant limit) waiting or in any stage of execution (but only initial stage for WATCHes)", &["phase", "priority_level"]),
            Family::new("apiserver_flowcontrol_demand_seats", "Observations, at the end of every nanosecond, of (the number of seats each priority level could use) / (nominal number of seats for that level)", LEVEL),
            Family::new("apiserver_flowcontrol_read_vs_write_current_requests", "Observations, at the end of every nanosecond, of the number of requests (as a fraction of the relevant limit) waiting or in regular stage of execution", &["phase", "request_kind"]),
        ];
        if let Err(error) = common::telemetry::registry().register(Box::new(Timings { families })) {
            tracing::debug!(%error, "timings of flow control not registered");
        }
    });
    let mut levels = LEVELS.lock();
    levels.retain(|level| level.strong_count() > 0);
    levels.push(queues);
}

impl Collector for Timings {
    fn desc(&self) -> Vec<&Desc> {
        self.families.iter().map(Family::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let levels: Vec<_> = LEVELS.lock().iter().filter_map(Weak::upgrade).collect();
        let timings: Vec<_> = levels.iter().map(|queues| (queues.level().to_owned(), queues.timings())).collect();
        let [seats, requests, demand, kinds] = &self.families;
        let labels = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let by_phase = timings.iter().flat_map(|(level, timings)| {
            let [_, waiting, executing, _] = timings.clone();
            [(labels(&["waiting", level]), waiting), (labels(&["executing", level]), executing)]
        });
        let by_kind = KIND_TIMINGS.0.iter().enumerate().map(|(index, timing)| {
            let mut timing = timing.lock().1.clone();
            timing.advance(std::time::Instant::now());
            let phase = if index % 2 == 0 { "waiting" } else { "executing" };
            (labels(&[phase, if index < 2 { "readOnly" } else { "mutating" }]), timing)
        });
        vec![
            seats.collect(timings.iter().map(|(level, timings)| (labels(&[level, "executing"]), timings[0].clone()))),
            requests.collect(by_phase),
            demand.collect(timings.iter().map(|(level, timings)| (labels(&[level]), timings[3].clone()))),
            kinds.collect(by_kind),
        ]
    }
}
