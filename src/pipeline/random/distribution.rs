//! Shapes of a jitter as tables: the inverse of a distribution function in steps of equal probability.
//!
//! An entry is a distance from the mean in 1/8192 of the jitter, in 16 bits, as in tc-netem's .dist files.

use std::fmt;

/// Entries of one: the unit in which a table counts.
pub const SCALE: i64 = 8_192;
/// tc takes no more entries than this.
pub const MOST: usize = 16_384;
/// Entries of the tables that are made here, as of tc's.
const ENTRIES: usize = 4_096;
/// Tables with at least this many entries are interpolated between their entries.
const FINE: usize = 256;

/// A shape.
#[derive(Clone, PartialEq, Eq)]
pub struct Table {
    name: String,
    entries: Vec<i16>,
    /// The entries in ascending order: a quantile function.
    sorted: Vec<i16>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({}, {} entries)", self.name, self.entries.len())
    }
}

/// Why a text is not a valid table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotATable {
    /// A word that is no number; the line, counted from 1.
    #[error("line {0}: {1:?} is not a whole number")]
    Word(usize, String),
    /// A number beyond 16 bits.
    #[error("line {0}: {1} does not fit 16 bits (-32768 to 32767)")]
    Size(usize, i64),
    /// No number at all.
    #[error("it has no entry")]
    Empty,
    /// More than 16384 numbers.
    #[error("it has {0} entries, more than {MOST}")]
    TooLong(usize),
}

impl Table {
    /// The table that the text of a .dist file holds: whole numbers, decimal, 0x hexadecimal or 0 octal, as for C; lines
    /// that begin with # do not count.
    ///
    /// # Errors
    /// If the text is not a valid table; with the line. tc would truncate numbers to 16 bits; here larger ones are
    /// refused.
    pub fn parse(name: &str, text: &str) -> Result<Self, NotATable> {
        let mut entries = Vec::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
            for word in line.split_whitespace() {
                let number = number(word).ok_or_else(|| NotATable::Word(index + 1, word.to_owned()))?;
                entries.push(i16::try_from(number).map_err(|_| NotATable::Size(index + 1, number))?);
            }
        }
        match entries.len() {
            0 => Err(NotATable::Empty),
            length if length > MOST => Err(NotATable::TooLong(length)),
            _ => Ok(Self::new(name, entries)),
        }
    }

    fn new(name: &str, entries: Vec<i16>) -> Self {
        let mut sorted = entries.clone();
        sorted.sort_unstable();
        Self { name: name.to_owned(), entries, sorted }
    }

    /// The normal distribution, at the middle of each of 4096 steps.
    pub fn normal() -> Self {
        let entry = |index: usize| round(super::jitter::normal_quantile(middle(index)) * SCALE as f64);
        Self::new("normal", (0..ENTRIES).map(entry).collect())
    }

    /// Pareto's distribution with exponent 3, moved and scaled to mean 0 and a spread of one: ((1-u)^(-1/3) - 3/2) · 4/3.
    pub fn pareto() -> Self {
        let entry = |index: usize| {
            // The upper end of the steps counted from above, of 65536 in steps of 16.
            let above = (65_536 - 16 * index) as f64 / 65_536.0;
            round((above.cbrt().recip() - 1.5) * (4.0 / 3.0) * SCALE as f64)
        };
        Self::new("pareto", (0..ENTRIES).map(entry).collect())
    }

    /// A quarter of the normal distribution and three of Pareto's.
    pub fn paretonormal() -> Self {
        let (normal, pareto) = (Self::normal(), Self::pareto());
        let mix = |(normal, pareto): (&i16, &i16)| ((i32::from(*normal) + 3 * i32::from(*pareto)) / 4) as i16;
        let entries = normal.entries.iter().zip(&pareto.entries).map(mix).collect();
        Self::new("paretonormal", entries)
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its entries.
    pub fn entries(&self) -> &[i16] {
        &self.entries
    }

    /// The entry that the uniform number `word` selects: for independent draws, as netem makes them.
    #[inline]
    pub fn entry(&self, word: u64) -> i16 {
        self.entries[((u128::from(word) * self.entries.len() as u128) >> 64) as usize]
    }

    /// The quantile at the uniform number `word`: a distance from the mean, in nanoseconds for a jitter of `sigma`.
    ///
    /// Unlike [`Self::entry`] it grows with `word`. A table of at least [`FINE`] entries is interpolated linearly, so that
    /// a small step of `word` is a small step of the result. A coarser table has only the values of its entries.
    #[inline]
    pub fn quantile(&self, word: u64, sigma: i64) -> i64 {
        // In entries, with 32 bits behind the point.
        let place = ((u128::from(word) * self.sorted.len() as u128) >> 32) as u64;
        if self.sorted.len() < FINE {
            return Self::scaled(self.sorted[(place >> 32) as usize], sigma);
        }
        // An entry stands in the middle of its step.
        let place = place.saturating_sub(1 << 31);
        let index = (place >> 32) as usize;
        let next = (index + 1).min(self.sorted.len() - 1);
        let [low, high] = [index, next].map(|index| Self::scaled(self.sorted[index], sigma));
        low + ((i128::from(high - low) * i128::from(place & 0xffff_ffff)) >> 32) as i64
    }

    /// The slope of the quantile function over the standard normal quantile, at each step between two entries: in units of
    /// the jitter.
    pub(in crate::pipeline) fn slopes(&self) -> impl Iterator<Item = f64> + '_ {
        let count = self.sorted.len() as f64;
        self.sorted.windows(2).enumerate().map(move |(index, pair)| {
            let x = super::jitter::normal_quantile((index as f64 + 1.0) / count);
            let density = libm::exp(-x * x / 2.0) / (2.0 * std::f64::consts::PI).sqrt();
            f64::from(i32::from(pair[1]) - i32::from(pair[0])) / SCALE as f64 * count * density
        })
    }

    /// Distance from the mean for `entry`, with a jitter of `sigma` nanoseconds: netem's rounding.
    #[inline]
    pub const fn scaled(entry: i16, sigma: i64) -> i64 {
        let entry = entry as i64;
        let part = (sigma % SCALE) * entry;
        let half = if part >= 0 { SCALE / 2 } else { -SCALE / 2 };
        (part + half) / SCALE + (sigma / SCALE) * entry
    }
}

/// The middle of step `index` of [`ENTRIES`].
fn middle(index: usize) -> f64 {
    (index as f64 + 0.5) / ENTRIES as f64
}

fn round(value: f64) -> i16 {
    value.round().clamp(-32_768.0, 32_767.0) as i16
}

/// A number as C's strtol with base 0 reads it.
fn number(word: &str) -> Option<i64> {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    let (base, digits) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(digits) => (16, digits),
        None if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        None => (10, digits),
    };
    let plain = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(base));
    plain.then(|| i64::from_str_radix(digits, base).ok()).flatten().map(|number| sign * number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dist_file_is_read_as_c_reads_numbers() {
        let table = Table::parse("mine", "# of my own\n -32768 0x10 010 +7\n\n\t32767\n").unwrap();
        assert_eq!(table.entries(), [-32_768, 16, 8, 7, 32_767]);
        let refused = |text: &str| Table::parse("x", text).unwrap_err().to_string();
        assert_eq!(refused("1 2\n3 four\n"), "line 2: \"four\" is not a whole number");
        assert_eq!(refused("1\n40000\n"), "line 2: 40000 does not fit 16 bits (-32768 to 32767)");
        assert_eq!(refused("# nothing\n"), "it has no entry");
        assert_eq!(refused(&"1 ".repeat(16_385)), "it has 16385 entries, more than 16384");
        assert!(refused("0x").contains("0x") && refused("09").contains("09"));
    }

    /// By hand: Pareto's lowest is (1 - 1.5) · 4/3 · 8192 = -5461.3, at u = 1 - 1/4096 it is (16 - 1.5) · 4/3 · 8192, cut.
    #[test]
    fn made_tables_have_the_quantiles_of_their_formulas() {
        let pareto = Table::pareto();
        assert_eq!((pareto.entries()[0], pareto.entries()[4_095]), (-5_461, 32_767));
        // u = 7/8: (2 - 1.5) · 4/3 · 8192 = 5461.3.
        assert_eq!(pareto.entries()[3_584], 5_461);
        let normal = Table::normal();
        // u = (2048 + 1/2)/4096 and its mirror; one sigma lies at 0.841345.
        assert_eq!(normal.entries()[2_047], -normal.entries()[2_048]);
        let sigma = normal.entries().partition_point(|&entry| entry < 8_192);
        assert!((sigma as f64 / 4_096.0 - 0.841_345).abs() < 1.0 / 4_096.0);
        let mixed = Table::paretonormal();
        assert_eq!(
            mixed.entries()[2_048],
            ((i32::from(normal.entries()[2_048]) + 3 * i32::from(pareto.entries()[2_048])) / 4) as i16
        );
        for table in [pareto, normal, mixed] {
            assert!(table.entries().is_sorted() && table.entries().len() == 4_096);
        }
    }

    /// netem's arithmetic by hand: (sigma mod 8192) · t, half a unit towards its sign, and the rest.
    #[test]
    fn scaling_rounds_as_netem_does() {
        for (entry, sigma, expected) in [
            (8_192, 1_000_000, 1_000_000),
            (-8_192, 1_000_000, -1_000_000),
            (4_096, 3, 2),
            (-4_096, 3, -2),
            (1, 8_192, 1),
            (32_767, 10_000, 39_999),
            (-5_461, 10_000_000, -6_666_260),
        ] {
            assert_eq!(Table::scaled(entry, sigma), expected, "{entry} {sigma}");
        }
    }

    #[test]
    fn every_entry_is_as_likely() {
        let table = Table::parse("four", "3 1 4 2").unwrap();
        let quarter = 1_u64 << 62;
        assert_eq!(
            [0, quarter - 1, quarter, 3 * quarter, u64::MAX].map(|word| table.entry(word)),
            [3, 3, 1, 2, 2]
        );
        // As a quantile, in ascending order.
        assert_eq!(
            [0, quarter - 1, quarter, 3 * quarter, u64::MAX].map(|word| table.quantile(word, SCALE)),
            [1, 1, 2, 4, 4]
        );
    }

    /// 512 entries, 0, 50, 100 ...: each in the middle of its step, and straight lines between them.
    #[test]
    fn a_fine_table_is_interpolated() {
        let text: Vec<String> = (0..FINE as i64 * 2).map(|entry| (entry * 50).to_string()).collect();
        let table = Table::parse("line", &text.join(" ")).unwrap();
        let step = u64::MAX / (2 * FINE as u64) + 1;
        let at = |steps: u64, part: u64| table.quantile(steps * step + part, SCALE);
        assert_eq!(
            [at(0, 0), at(0, step / 2), at(1, 0), at(1, step / 2), at(9, step / 4)],
            [0, 0, 25, 50, 437]
        );
        assert_eq!(table.quantile(u64::MAX, SCALE), 511 * 50);
    }

    /// The normal shape itself has the slope 1 everywhere. Entries are rounded, so a mean over many steps.
    #[test]
    fn the_slopes_of_the_normal_shape_are_one() {
        let table = Table::normal();
        let slopes: Vec<f64> = table.slopes().collect();
        for share in [0.1, 0.3, 0.5, 0.7, 0.9] {
            let at = (share * slopes.len() as f64) as usize;
            let mean = slopes[at - 100..at + 100].iter().sum::<f64>() / 200.0;
            assert!((mean - 1.0).abs() < 0.02, "{share}: {mean}");
        }
    }
}
