//! Faults that follow a timetable.

use crate::pipeline::time::{Duration, Instant};

/// Values for successive parts of the time of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Timetable<T> {
    /// The start of each value, in nanoseconds since the start of the run; the first at 0.
    parts: Vec<(u64, T)>,
    /// Begins again after this time; otherwise the last value stays.
    period: Option<u64>,
}

impl<T> Timetable<T> {
    /// Each value for its time; with `repeats` over and over, otherwise the last one stays. `None` if there is none, or one
    /// lasts no time.
    pub fn new(values: Vec<(Duration, T)>, repeats: bool) -> Option<Self> {
        let mut start = 0_u64;
        let mut parts = Vec::with_capacity(values.len());
        for (duration, value) in values {
            if duration.is_zero() {
                return None;
            }
            parts.push((start, value));
            start = start.saturating_add(duration.as_nanos());
        }
        (!parts.is_empty()).then_some(Self { parts, period: repeats.then_some(start) })
    }

    /// One value for ever.
    pub fn constant(value: T) -> Self {
        Self { parts: vec![(0, value)], period: None }
    }

    /// The value of this time.
    #[inline]
    pub fn at(&self, now: Instant) -> &T {
        let now = self.period.map_or(now.as_nanos(), |period| now.as_nanos() % period);
        // The first part begins at 0.
        &self.parts[self.parts.partition_point(|part| part.0 <= now) - 1].1
    }

    /// The values, in order.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &T> {
        self.parts.iter().map(|part| &part.1)
    }

    /// Values that a summary shows.
    pub(crate) const SHOWN: usize = 4;

    /// The first values, formatted by `name`, and what follows the last.
    pub(crate) fn summary(&self, name: impl Fn(&T) -> String) -> String {
        let shown: Vec<String> = self.values().take(Self::SHOWN).map(name).collect();
        let more = if self.parts.len() > Self::SHOWN { ", ..." } else { "" };
        let end = match self.period() {
            Some(period) => format!(", again every {period}"),
            None if self.parts.len() > 1 => ", the last one stays".to_owned(),
            None => String::new(),
        };
        format!("{}{more}{end}", shown.join(", "))
    }

    /// The time after which it begins again, if it does.
    pub fn period(&self) -> Option<Duration> {
        self.period.map(Duration::from_nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_has_its_time() {
        let ms = Duration::from_millis;
        let values = || vec![(ms(10), 'a'), (ms(5), 'b'), (ms(1), 'c')];
        let at = |table: &Timetable<char>, millis| *table.at(Instant::ZERO + ms(millis));
        let once = Timetable::new(values(), false).unwrap();
        assert_eq!(
            [0, 9, 10, 14, 15, 16, 900].map(|millis| at(&once, millis)),
            ['a', 'a', 'b', 'b', 'c', 'c', 'c']
        );
        let again = Timetable::new(values(), true).unwrap();
        assert_eq!([15, 16, 26, 31, 32].map(|millis| at(&again, millis)), ['c', 'a', 'b', 'c', 'a']);
        assert_eq!(at(&Timetable::constant('z'), 7), 'z');
        assert_eq!(Timetable::<char>::new(Vec::new(), false), None);
        assert_eq!(Timetable::new(vec![(ms(1), 'a'), (ms(0), 'b')], false), None);
    }

    #[test]
    fn a_summary_shows_the_first_values_and_what_comes_then() {
        let summary = |count: u64, repeats| {
            let values = (1..=count).map(|value| (Duration::from_millis(value), value)).collect();
            Timetable::new(values, repeats).unwrap().summary(u64::to_string)
        };
        assert_eq!(summary(1, false), "1");
        assert_eq!(summary(2, false), "1, 2, the last one stays");
        assert_eq!(summary(4, false), "1, 2, 3, 4, the last one stays");
        assert_eq!(summary(5, false), "1, 2, 3, 4, ..., the last one stays");
        assert_eq!(summary(2, true), "1, 2, again every 3ms");
    }
}
