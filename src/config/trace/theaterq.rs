//! Tables in TheaterQ's format: comma-separated values, one row for each part of the time.
//!
//! Simple: `KEEP,LATENCY,RATE,LOSS,LIMIT`. Extended: `KEEP,LATENCY,JITTER,RATE,LOSS,LIMIT,DUP_PROB,DUP_DELAY,ROUTE_ID` and
//! perhaps `QUEUE_ID`, which is not used here. KEEP is in microseconds, LATENCY, JITTER and `DUP_DELAY` in nanoseconds, RATE
//! in bits per second (-1: none), LOSS and `DUP_PROB` in parts of 2^32 - 1, LIMIT in packets.

use crate::pipeline::params::ReplayRow;
use crate::pipeline::time::Duration;
use crate::pipeline::units::{Probability, Rate};

/// Longest time in a table, and of a whole table: half of the type's range, so that the sum of two times fits.
const LONGEST: Duration = Duration::from_nanos(u64::MAX / 2);

fn years(span: Duration) -> String {
    format!("{} years", span.as_nanos() / 1_000_000_000 / 86_400 / 365)
}

/// The rows of `text` and their total duration; or the line that is wrong, and what is wrong.
pub(super) fn parse(text: &str) -> Result<(Vec<ReplayRow>, Duration), (usize, String)> {
    let mut rows = Vec::new();
    let mut from = Duration::ZERO;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        let is_title = rows.is_empty() && line.to_uppercase().starts_with("KEEP");
        if line.is_empty() || line.starts_with('#') || is_title {
            continue;
        }
        let (keep, row) = row(line, from).map_err(|what| (index + 1, what))?;
        rows.push(row);
        from = from + keep;
        if from > LONGEST {
            return Err((index + 1, format!("the rows last longer than {}", years(LONGEST))));
        }
    }
    if rows.is_empty() {
        return Err((1, "there is no row".to_owned()));
    }
    Ok((rows, from))
}

fn row(line: &str, from: Duration) -> Result<(Duration, ReplayRow), String> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let number = |index: usize, name: &str| -> Result<u64, String> {
        fields[index].parse().map_err(|_| format!("{name} is {:?}, not a whole number", fields[index]))
    };
    let share = |index: usize, name: &str| -> Result<Probability, String> {
        let parts = number(index, name)?;
        let share = Probability::new(parts as f64 / f64::from(u32::MAX));
        share.ok_or_else(|| format!("{name} is {parts}, more than {} (which is 100%)", u32::MAX))
    };
    let rate = |index: usize| -> Result<Option<Rate>, String> {
        if fields[index] == "-1" {
            return Ok(None);
        }
        let rate = Rate::from_bits_per_sec(number(index, "RATE")?);
        rate.map(Some)
            .ok_or_else(|| "RATE is 0: write -1 for no limit, or LOSS 4294967295 for a dead link".to_owned())
    };
    let extended = match fields.len() {
        5 => false,
        9 | 10 => true,
        count => return Err(format!("has {count} values; a row has 5 (simple), 9 or 10 (extended)")),
    };
    let span = |index: usize, name: &str, unit: u64| -> Result<Duration, String> {
        let span = number(index, name)?.saturating_mul(unit);
        let span = Some(Duration::from_nanos(span)).filter(|span| *span <= LONGEST);
        span.ok_or_else(|| format!("{name} is {}, longer than {}", fields[index], years(LONGEST)))
    };
    let keep = span(0, "KEEP", 1_000)?;
    if keep.is_zero() {
        return Err("KEEP is 0: a row has to last".to_owned());
    }
    let nanos = |index: usize, name: &str| span(index, name, 1);
    let route = |index: usize| -> Result<u32, String> {
        let route = number(index, "ROUTE_ID")?;
        u32::try_from(route).map_err(|_| format!("ROUTE_ID is {route}, more than {}", u32::MAX))
    };
    // Where the columns of the simple form are in the extended one.
    let [rate_at, loss_at, limit_at] = if extended { [3, 4, 5] } else { [2, 3, 4] };
    let row = ReplayRow {
        from,
        latency: nanos(1, "LATENCY")?,
        jitter: if extended { nanos(2, "JITTER")? } else { Duration::ZERO },
        rate: rate(rate_at)?,
        loss: share(loss_at, "LOSS")?,
        limit: Some(number(limit_at, "LIMIT")?).filter(|limit| *limit > 0),
        duplicate: if extended { share(6, "DUP_PROB")? } else { Probability::ZERO },
        duplicate_delay: if extended { nanos(7, "DUP_DELAY")? } else { Duration::ZERO },
        route: if extended { route(8)? } else { 1 },
    };
    Ok((keep, row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let (rows, period) =
            parse("KEEP,LATENCY,RATE,LOSS,LIMIT\n1000,20000000,1000000,0,100\n500, 5, -1, 4294967295, 0\n")
                .unwrap();
        assert_eq!(period, Duration::from_micros(1_500));
        assert_eq!((rows[0].latency, rows[0].limit), (Duration::from_millis(20), Some(100)));
        assert_eq!(
            (rows[1].from, rows[1].rate, rows[1].loss, rows[1].limit),
            (Duration::from_millis(1), None, Probability::ONE, None)
        );
        let (rows, _) = parse("# extended\n10,1,2,3000,0,5,2147483648,7,4,0\n").unwrap();
        let row = rows[0];
        assert_eq!(
            (row.jitter, row.duplicate_delay, row.route),
            (Duration::from_nanos(2), Duration::from_nanos(7), 4)
        );
        assert!((row.duplicate.as_f64() - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_flaw_has_its_line() {
        for (text, line, word) in [
            ("", 1, "no row"),
            ("1,2,3,4\n", 1, "4 values"),
            ("1,2,3,4,5\n0,2,3,4,5\n", 2, "KEEP is 0"),
            ("1,x,3,4,5\n", 1, "LATENCY is \"x\""),
            ("1,2,0,4,5\n", 1, "RATE is 0"),
            ("1,2,3,4294967296,5\n", 1, "LOSS is 4294967296"),
            ("18446744073709552,2,3,4,5\n", 1, "KEEP is 18446744073709552, longer than 292 years"),
            ("9223372036854776,2,3,4,5\n", 1, "KEEP is 9223372036854776, longer"),
            ("9000000000000000,2,3,4,5\n300000000000000,2,3,4,5\n", 2, "the rows last longer than 292 years"),
            ("1,9223372036854775808,3,4,5\n", 1, "LATENCY is 9223372036854775808, longer"),
            ("1,2,9223372036854775808,3,4,5,6,7,8\n", 1, "JITTER is"),
            ("1,2,3,4,5,6,7,9223372036854775808,8\n", 1, "DUP_DELAY is"),
            ("1,2,3,4,5,6,7,8,4294967296\n", 1, "ROUTE_ID is 4294967296, more than"),
            ("1,2,18446744073709551616,4,5\n", 1, "RATE is"),
        ] {
            let (at, what) = parse(text).unwrap_err();
            assert!(at == line && what.contains(word), "{text:?}: {at} {what}");
        }
    }
}
