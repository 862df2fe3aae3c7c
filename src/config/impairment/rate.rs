//! The keys of a rate: how fast, and what happens to packets above it.

use std::path::Path;
use std::sync::Arc;

use crate::config::reader::{Table, Value};
use crate::config::share;
use crate::config::spec::{self, DEFAULT_QUEUE, MTU, Speed, Word};
use crate::config::trace;
use crate::pipeline::link::capacity::RateSteps;
use crate::pipeline::params::{
    BottleneckParams, CoDelParams, Discipline, Excess, ImpairmentParams, PeakParams, PieParams, RateParams,
    RedParams, ServiceParams, Trigger, Way,
};
use crate::pipeline::time::Duration;
use crate::pipeline::units::{Bytes, Probability, Rate};

/// `trace FILE [once]`: a Mahimahi trace, relative to the working directory.
pub(super) const TRACE: Word = Word {
    name: "trace",
    options: &["once"],
    usage: "trace FILE [once] (a Mahimahi trace)",
    read: |arguments| {
        let file = arguments.file("a file", "trace uplink.trace")?;
        if Path::new(file.text).extension().is_some_and(|end| end == "json") {
            let what = format!("{} is not a trace of Mahimahi", file.text);
            return Err(
                file.problem(what, "a rate stage of a file takes bandwidth models: trace = \"FILE.json\"")
            );
        }
        let repeats = !arguments.flag("once");
        let times = trace::read(Path::new(file.text), repeats);
        let times =
            times.map_err(|what| file.problem(what, "a trace has one time in whole milliseconds a line"))?;
        Ok(spec::stage("trace", trace::unlimited(times)))
    },
};

/// Default for the bytes that leave at once at a peak rate: one packet.
const PEAK_MTU: u32 = 1_500;

/// Limits and discipline of a queue.
struct Queue {
    packets: Option<u64>,
    bytes: Option<u64>,
    time: Option<Duration>,
    discipline: Discipline,
}

/// Reads the keys of a stage of type rate.
pub(super) fn rate(table: &mut Table<'_>, _trigger: &Trigger) -> Option<ImpairmentParams> {
    let service = service(table);
    let overhead = table.integer("overhead", -65_535..=65_535).unwrap_or(0);
    let share = table.value("share").and_then(|value| share::read(&value, Way::Only));
    let (queue, police) = (table.value("queue"), table.value("police"));
    if let (Some(_), Some(police)) = (&queue, &police) {
        police.problem("a rate has a queue or polices, not both", "remove queue or police");
        return None;
    }
    if let Some(police) = police {
        let burst = burst(&police);
        let ServiceParams::Rate(rate) = service? else {
            police.problem(
                "only a constant rate can police",
                "write rate instead of trace or steps, or a queue",
            );
            return None;
        };
        return Some(ImpairmentParams::Rate(RateParams {
            rate,
            excess: Excess::Police { burst: burst? },
            overhead,
            share,
        }));
    }
    let usual =
        Queue { packets: Some(DEFAULT_QUEUE), bytes: None, time: None, discipline: Discipline::TailDrop };
    let limits = queue.as_ref().map_or(Some(usual), queue_of);
    let burst = table.value("burst");
    let (mut service, Queue { packets, bytes, time, discipline }) = (service?, limits?);
    if let Some(value) = burst {
        let burst = at_least_a_packet(&value)?;
        let ServiceParams::Rate(rate) = service else {
            value.problem(
                "only a constant rate has a bucket",
                "write rate instead of trace or steps, or remove burst",
            );
            return None;
        };
        service = ServiceParams::Bucket(rate, burst, peak(table, rate));
    } else if let Some(value) = table.value("peakrate").or_else(|| table.value("mtu")) {
        value.problem("peakrate has no effect without burst", "write burst = \"30 kB\" as well");
        return None;
    }
    if let (ServiceParams::Rate(rate), Discipline::TailDrop) = (&service, discipline) {
        let excess = Excess::Queue { packets, bytes, time };
        return Some(ImpairmentParams::Rate(RateParams { rate: *rate, excess, overhead, share }));
    }
    if let (Some(_), Some(queue)) = (time, &queue) {
        queue.problem(
            "a time can limit only a tail-drop queue at a constant rate",
            "limit packets or bytes instead",
        );
        return None;
    }
    let own = if matches!(service, ServiceParams::Opportunities(_)) { trace::MAHIMAHI_OVERHEAD } else { 0 };
    let overhead = overhead + own;
    let params = BottleneckParams { service, overhead, packets, bytes, discipline, share };
    Some(ImpairmentParams::Bottleneck(Box::new(params)))
}

/// The peak rate for bursts above `rate`, if there is one. Problems are reported.
fn peak(table: &mut Table<'_>, rate: Rate) -> Option<PeakParams> {
    let (peak, mtu) = (table.value("peakrate"), table.value("mtu"));
    if let (None, Some(mtu)) = (&peak, &mtu) {
        mtu.problem("mtu has no effect without peakrate", "write peakrate = \"20 Mbit/s\" as well");
    }
    let peak = peak?;
    let peak_rate: Rate = peak.quantity()?;
    if peak_rate <= rate {
        peak.problem(
            format!("{peak_rate} is not above the rate of {rate}"),
            "peakrate is the rate of the burst",
        );
    }
    let mtu = mtu.map_or(Some(PEAK_MTU), |value| value.integer(MTU))?;
    Some(PeakParams { rate: peak_rate, mtu: mtu.into() })
}

/// One of `rate`, `trace` and `steps`.
fn service(table: &mut Table<'_>) -> Option<ServiceParams> {
    let (rate, trace, steps) = (table.value("rate"), table.value("trace"), table.value("steps"));
    let repeat = table.value("repeat");
    if let (Some(repeat), None, None) = (&repeat, &trace, &steps) {
        repeat.problem("repeat has no effect without trace or steps", "remove repeat");
    }
    let repeats = repeat.as_ref().and_then(Value::flag);
    match (rate, trace, steps) {
        (Some(rate), None, None) => Some(ServiceParams::Rate(rate.quantity()?)),
        (None, Some(file), None) => trace::service(&file, repeats),
        (whole, None, Some(steps)) => {
            let whole = match &whole {
                Some(value) => Some(value.quantity()?),
                None => None,
            };
            let steps = self::steps(&steps, repeats.unwrap_or(false), whole)?;
            Some(ServiceParams::Steps(Arc::new(steps)))
        }
        (None, None, None) => {
            table.problem("no rate is given", "write rate = \"10 Mbit/s\", trace = \"FILE\" or steps");
            None
        }
        (_, Some(extra), _) => {
            extra.problem("a trace excludes rate and steps", "keep the trace, or the others");
            None
        }
    }
}

/// Reads steps; a share in them refers to `whole`.
fn steps(value: &Value<'_>, repeats: bool, whole: Option<Rate>) -> Option<RateSteps> {
    let read = |item: &Value<'_>| {
        let mut table = item.table()?;
        let length = table.required("for", "\"10s\"").and_then(|value| super::positive(&value));
        let speed = table.required("rate", "\"5 Mbit/s\"").and_then(|value| step(&value, whole).ok());
        table.finish();
        Some((length?, speed?))
    };
    let steps: Vec<Option<_>> = value.items().iter().map(read).collect();
    let steps: Vec<(Duration, Option<Rate>)> = steps.into_iter().collect::<Option<_>>()?;
    let table = RateSteps::new(&steps, repeats);
    if table.is_none() {
        value.problem(
            "would block all packets at the end",
            "end with a rate, or write repeat = true and one rate",
        );
    }
    table
}

/// How fast one step is: a rate, a share of `whole`, or `stopped`.
fn step(value: &Value<'_>, whole: Option<Rate>) -> Result<Option<Rate>, ()> {
    let Some(text) = value.as_text() else { return value.quantity::<Rate>().map(Some).ok_or(()) };
    let speed = spec::speed(text, str::parse).map_err(|error| value.problem(error.what, error.hint))?;
    if matches!(speed, Speed::Rate(_)) && whole.is_some() {
        let hint = "write shares, such as \"50%\", or remove rate";
        value.problem("rate and steps in rates exclude each other", hint);
        return Err(());
    }
    let no_whole =
        || value.problem("is a share, but no rate is given", "write rate = \"10 Mbit/s\" beside steps");
    speed.of(whole).map_err(|()| no_whole())
}

fn queue_of(value: &Value<'_>) -> Option<Queue> {
    let mut table = value.table()?;
    let packets = table.integer("packets", 1..=u64::from(u32::MAX));
    let bytes = table.quantity::<Bytes>("bytes").map(|bytes| bytes.0);
    let time = table.quantity("time");
    let discipline = discipline(&mut table);
    if (packets, bytes, time) == (None, None, None) {
        table.problem("no limit of the queue is set", "write queue = { packets = 100 }, bytes or time");
    }
    table.finish();
    Some(Queue { packets, bytes, time, discipline: discipline? })
}

fn discipline(table: &mut Table<'_>) -> Option<Discipline> {
    const KINDS: &[(&str, u8)] = &[("tail-drop", 0), ("head-drop", 1), ("codel", 2), ("pie", 3), ("red", 4)];
    let Some(kind) = table.value("discipline") else { return Some(Discipline::TailDrop) };
    Some(match kind.choice(KINDS)? {
        0 => Discipline::TailDrop,
        1 => Discipline::HeadDrop,
        2 => {
            let usual = CoDelParams::default();
            Discipline::CoDel(CoDelParams {
                target: time(table, "target").unwrap_or(usual.target),
                interval: time(table, "interval").unwrap_or(usual.interval),
                ecn: table.flag("ecn", false),
            })
        }
        3 => {
            let usual = PieParams::default();
            Discipline::Pie(PieParams {
                target: time(table, "target").unwrap_or(usual.target),
                update: time(table, "update").unwrap_or(usual.update),
                burst: table.quantity("burst").unwrap_or(usual.burst),
                ecn: table.flag("ecn", false),
            })
        }
        _ => Discipline::Red(red(table)?),
    })
}

/// A time above zero.
fn time(table: &mut Table<'_>, key: &'static str) -> Option<Duration> {
    table.value(key).and_then(|value| super::positive(&value))
}

fn red(table: &mut Table<'_>) -> Option<RedParams> {
    let (min, max) = (table.required("min", "5"), table.required("max", "15"));
    let probability: Option<Probability> = table.quantity("probability");
    let weight = table.value("weight");
    let ecn = table.flag("ecn", false);
    let packets = |value: &Value<'_>| {
        let number = value.number().filter(|number| (0.0..=1e6).contains(number));
        if number.is_none() {
            value.problem("is not a number of packets", "allowed: 0 to 1000000");
        }
        number
    };
    let (low, high) = (min.as_ref().and_then(packets), max.as_ref().and_then(packets));
    let share = weight.as_ref().map_or(Some(0.002), |value| {
        let number = value.number().filter(|number| *number > 0.0 && *number <= 1.0);
        if number.is_none() {
            value.problem("is not the weight of a sample", "above 0, at most 1; 0.002 is usual");
        }
        number
    });
    let (low, high) = (low?, high?);
    if let Some(max) = max
        && high <= low
    {
        max.problem("is not above min", "three times min is usual");
        return None;
    }
    let usual = RedParams::between(low, high);
    Some(RedParams { probability: probability.unwrap_or(usual.probability), weight: share?, ecn, ..usual })
}

fn burst(value: &Value<'_>) -> Option<u64> {
    let mut table = value.table()?;
    let burst = table.required("burst", "\"15 kB\"").and_then(|value| at_least_a_packet(&value));
    table.finish();
    burst
}

fn at_least_a_packet(value: &Value<'_>) -> Option<u64> {
    let burst = value.quantity::<Bytes>()?.0;
    if burst < u64::from(*MTU.start()) {
        value.problem(format!("{} is less than a packet", Bytes(burst)), "at least the largest packet");
        return None;
    }
    Some(burst)
}
