//! Quantities with their units: probabilities, rates, sizes and times, and how people write them.
//!
//! A quantity is a decimal number and a unit, with or without a space: `1.5 ms`, `100 Mbit/s`, `64 KiB`, `0.1%`. Upper
//! and lower case are the same. A number without a unit is refused, because its meaning could only be guessed.

use std::fmt;
use std::str::FromStr;

use crate::pipeline::time::Duration;

/// A probability as a fixed-point fraction of 2^64; `u64::MAX` is certainty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Probability(u64);

impl Probability {
    /// Never.
    pub const ZERO: Self = Self(0);
    /// Always.
    pub const ONE: Self = Self(u64::MAX);

    /// The probability nearest to `p`, if 0 ≤ p ≤ 1.
    pub fn new(p: f64) -> Option<Self> {
        // 2^64 as f64 is exact; the cast saturates, so 1.0 becomes certainty.
        (0.0..=1.0).contains(&p).then_some(Self((p * 18_446_744_073_709_551_616.0) as u64))
    }

    /// The probability whose binary digits after the point are `bits`; all ones is certainty.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The binary digits after the point, first digit in the highest bit.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The probability that the event does not happen.
    #[must_use]
    pub const fn complement(self) -> Self {
        match self.0 {
            0 => Self::ONE,
            u64::MAX => Self::ZERO,
            bits => Self(bits.wrapping_neg()),
        }
    }

    /// As a fraction.
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / 18_446_744_073_709_551_616.0
    }
}

/// A data rate in bits per second, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(std::num::NonZeroU64);

impl Rate {
    /// `bits` per second, unless that is zero.
    pub fn from_bits_per_sec(bits: u64) -> Option<Self> {
        std::num::NonZeroU64::new(bits).map(Self)
    }

    /// Bits per second.
    pub const fn bits_per_sec(self) -> u64 {
        self.0.get()
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub u64);

/// Why a text is not the quantity it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} ({hint})")]
pub struct UnitError {
    /// What is wrong with the text, which it quotes.
    pub what: String,
    /// What would be right.
    pub hint: String,
}

impl UnitError {
    /// `what` is wrong; `hint` says what would be right.
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }
}

/// A unit: how it is written (lower case) and how many of the base unit it is.
pub type Unit = (&'static str, f64);

/// Units of time, in nanoseconds. The first is the one to suggest.
const TIME: &[Unit] = &[
    ("ms", 1e6),
    ("s", 1e9),
    ("us", 1e3),
    ("µs", 1e3),
    ("ns", 1.0),
    ("m", 6e10),
    ("min", 6e10),
    ("h", 3.6e12),
    ("sec", 1e9),
    ("secs", 1e9),
    ("msec", 1e6),
    ("msecs", 1e6),
    ("usec", 1e3),
    ("usecs", 1e3),
];

/// Units of rate, in bits per second; `/s` may follow.
const RATE: &[Unit] = &[
    ("mbit", 1e6),
    ("kbit", 1e3),
    ("gbit", 1e9),
    ("tbit", 1e12),
    ("bit", 1.0),
    ("kibit", 1_024.0),
    ("mibit", 1_048_576.0),
    ("gibit", 1_073_741_824.0),
];

/// Units of size, in bytes.
const SIZE: &[Unit] = &[
    ("kb", 1e3),
    ("mb", 1e6),
    ("gb", 1e9),
    ("b", 1.0),
    ("byte", 1.0),
    ("bytes", 1.0),
    ("kib", 1_024.0),
    ("mib", 1_048_576.0),
    ("gib", 1_073_741_824.0),
];

/// Splits a text into its leading decimal number (digits, point, exponent; no sign) and the rest without spaces
/// around it. `None` if it starts with no finite number.
pub fn split_number(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut end = digits(0);
    if bytes.get(end) == Some(&b'.') {
        end += 1 + digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(end + 1 + sign);
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    let number: f64 = text[..end].parse().ok()?;
    number.is_finite().then(|| (number, text[end..].trim_start()))
}

/// Reads `text` as a number with one of `units`, in multiples of the base unit.
///
/// # Errors
/// If it is not a number, has no unit, or one that is not in `units`; `kind` names the quantity ("a rate").
pub fn parse_with_units(text: &str, kind: &str, units: &[Unit]) -> Result<f64, UnitError> {
    let example = units.first().map_or("", |unit| unit.0);
    let Some((number, suffix)) = split_number(text) else {
        return Err(UnitError::new(format!("\"{text}\" is not {kind}"), format!("try \"10{example}\"")));
    };
    let suffix = suffix.to_lowercase();
    if let Some(&(_, scale)) = units.iter().find(|unit| unit.0 == suffix) {
        return Ok(number * scale);
    }
    if suffix.is_empty() {
        let what = format!("\"{text}\" has no unit");
        return Err(UnitError::new(what, format!("try \"{number}{example}\"")));
    }
    let alike = units.iter().find(|unit| unit.0.chars().next() == suffix.chars().next());
    let unit = alike.map_or(example, |unit| unit.0);
    Err(UnitError::new(format!("\"{text}\" has no known unit"), format!("try \"{number}{unit}\"")))
}

/// `value` without its fraction: 0 if it is negative or not a number, at most `u64::MAX`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casts of floats saturate")]
pub const fn saturating(value: f64) -> u64 {
    value as u64
}

/// `value` as a whole number of base units, rounded, if it fits.
fn whole(text: &str, value: f64) -> Result<u64, UnitError> {
    // 2^63 leaves room for sums; the cast of a float below it is exact but for the fraction.
    if value >= 9.2e18 {
        return Err(UnitError::new(format!("\"{text}\" is too large"), "a smaller number"));
    }
    Ok(value.round() as u64)
}

impl FromStr for Duration {
    type Err = UnitError;

    /// `10ms`, `1.5 s`, `200us`, `5m`, `1h`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        whole(text, parse_with_units(text, "a time", TIME)?).map(Self::from_nanos)
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    /// `10mbit`, `100 Mbit/s`, `1.5 Gbit/s`. A unit that ends in "bps" is refused: it may mean bits or bytes.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let lower = text.trim().to_lowercase();
        if lower.ends_with("bps") {
            let what = format!("\"{text}\" may mean bits or bytes");
            return Err(UnitError::new(what, "write \"Mbit/s\"; 1 byte/s is 8 bit/s"));
        }
        let bits = parse_with_units(text.trim().strip_suffix("/s").unwrap_or(text), "a rate", RATE).map_err(
            |error| UnitError { what: error.what.replace(text.trim_end_matches("/s"), text), ..error },
        )?;
        Self::from_bits_per_sec(whole(text, bits)?).ok_or_else(|| zero_rate(text))
    }
}

/// The error for a rate of zero: a line without a rate is down.
pub fn zero_rate(text: &str) -> UnitError {
    UnitError::new(format!("\"{text}\" is less than 1 bit/s"), "for a link that is down use a blackout stage")
}

impl FromStr for Bytes {
    type Err = UnitError;

    /// `1500 B`, `10kB` (1,000), `64 KiB` (1,024).
    fn from_str(text: &str) -> Result<Self, UnitError> {
        whole(text, parse_with_units(text, "a size", SIZE)?).map(Self)
    }
}

impl FromStr for Probability {
    type Err = UnitError;

    /// A percentage, `1%` or `0.01 %`, from 0 to 100.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let Some((number, suffix)) = split_number(text) else {
            return Err(UnitError::new(format!("\"{text}\" is not a percentage"), "try \"1%\""));
        };
        match suffix {
            "%" => Self::new(number / 100.0).ok_or_else(|| {
                UnitError::new(format!("\"{text}\" is more than 100%"), "a probability is \"0%\" to \"100%\"")
            }),
            "" => Err(UnitError::new(format!("\"{text}\" has no %"), percent_hint(number))),
            _ => Err(UnitError::new(format!("\"{text}\" is not a percentage"), format!("try \"{number}%\""))),
        }
    }
}

/// What a number without a percent sign may have meant.
fn percent_hint(number: f64) -> String {
    if number > 0.0 && number < 1.0 {
        format!(
            "\"{}%\" if that is a fraction, \"{number}%\" if it is a percentage",
            significant(number * 100.0)
        )
    } else {
        format!("try \"{number}%\"")
    }
}

/// Nine significant digits: the further digits of a binary fraction are noise to a reader.
fn significant(value: f64) -> f64 {
    format!("{value:.8e}").parse().unwrap_or(value)
}

/// As people write it: `0.01%`.
impl fmt::Display for Probability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", significant(self.as_f64() * 100.0))
    }
}

/// In the largest unit that divides well: `1.5 Mbit/s`.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] = [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k"), (1, "")];
        let bits = self.bits_per_sec();
        let (scale, prefix) = UNITS.into_iter().find(|&(scale, _)| bits >= scale).unwrap_or((1, ""));
        write!(f, "{} {prefix}bit/s", significant(bits as f64 / scale as f64))
    }
}

/// In binary units where they divide evenly, else in bytes: `64 KiB`, `1500 B`.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        let even = |&(scale, _): &(u64, &str)| self.0 >= scale && self.0.is_multiple_of(scale);
        let (scale, unit) = UNITS.into_iter().find(even).unwrap_or((1, "B"));
        write!(f, "{} {unit}", self.0 / scale)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal<T: FromStr<Err = UnitError> + fmt::Debug>(text: &str) -> String {
        text.parse::<T>().unwrap_err().to_string()
    }

    #[test]
    fn times_are_read_with_every_unit() {
        for (text, nanos) in [
            ("10ms", 10_000_000),
            ("1.5s", 1_500_000_000),
            ("200us", 200_000),
            ("200 µs", 200_000),
            ("5m", 300_000_000_000),
            ("1h", 3_600_000_000_000),
            ("0ms", 0),
            ("1e3ms", 1_000_000_000),
            (".5s", 500_000_000),
            ("7ns", 7),
        ] {
            assert_eq!(text.parse::<Duration>().unwrap().as_nanos(), nanos, "{text}");
        }
    }

    #[test]
    fn rates_are_bits_per_second() {
        for (text, bits) in [
            ("10mbit", 10_000_000),
            ("100 Mbit/s", 100_000_000),
            ("1.5 gbit", 1_500_000_000),
            ("500kbit/s", 500_000),
            ("9600 bit/s", 9_600),
            ("1 Mibit", 1_048_576),
        ] {
            assert_eq!(text.parse::<Rate>().unwrap().bits_per_sec(), bits, "{text}");
        }
    }

    #[test]
    fn sizes_are_decimal_or_binary_as_written() {
        for (text, bytes) in [("1500 B", 1_500), ("10kB", 10_000), ("64 KiB", 65_536), ("1 byte", 1)] {
            assert_eq!(text.parse::<Bytes>().unwrap().0, bytes, "{text}");
        }
    }

    #[test]
    fn percentages_are_probabilities() {
        assert_eq!("100%".parse(), Ok(Probability::ONE));
        assert_eq!("0%".parse(), Ok(Probability::ZERO));
        assert_eq!("50 %".parse(), Ok(Probability::new(0.5).unwrap()));
        assert_eq!("0.01%".parse::<Probability>().unwrap().to_string(), "0.01%");
    }

    #[test]
    fn a_refusal_says_what_would_be_right() {
        assert_eq!(refusal::<Rate>("10mb"), r#""10mb" has no known unit (try "10mbit")"#);
        assert_eq!(refusal::<Rate>("10mb/s"), r#""10mb/s" has no known unit (try "10mbit")"#);
        assert_eq!(refusal::<Rate>("10"), r#""10" has no unit (try "10mbit")"#);
        assert_eq!(refusal::<Rate>("fast"), r#""fast" is not a rate (try "10mbit")"#);
        assert!(refusal::<Rate>("10 Mbps").contains("bits or bytes"));
        assert!(refusal::<Rate>("0bit").contains("blackout"));
        assert_eq!(refusal::<Duration>("10"), r#""10" has no unit (try "10ms")"#);
        assert_eq!(refusal::<Duration>("-1ms"), r#""-1ms" is not a time (try "10ms")"#);
        assert_eq!(refusal::<Duration>("10 d"), r#""10 d" has no known unit (try "10ms")"#);
        assert!(refusal::<Duration>("1e30s").contains("too large"));
        assert_eq!(refusal::<Bytes>("64k"), r#""64k" has no known unit (try "64kb")"#);
        assert_eq!(refusal::<Probability>("30"), r#""30" has no % (try "30%")"#);
        assert_eq!(
            refusal::<Probability>("0.01"),
            r#""0.01" has no % ("1%" if that is a fraction, "0.01%" if it is a percentage)"#
        );
        assert!(refusal::<Probability>("101%").contains("more than 100%"));
        assert!(refusal::<Probability>("often").contains("not a percentage"));
    }

    #[test]
    fn quantities_print_as_people_write_them() {
        assert_eq!("100 Mbit/s".parse::<Rate>().unwrap().to_string(), "100 Mbit/s");
        assert_eq!("1500kbit".parse::<Rate>().unwrap().to_string(), "1.5 Mbit/s");
        assert_eq!(Bytes(65_536).to_string(), "64 KiB");
        assert_eq!(Bytes(1_500).to_string(), "1500 B");
        assert_eq!(Probability::ONE.to_string(), "100%");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,12}") {
            let _ = (text.parse::<Rate>(), text.parse::<Duration>(), text.parse::<Bytes>(), text.parse::<Probability>());
        }

        #[test]
        fn a_printed_rate_reads_back(bits in 1u64..1_000_000_000_000) {
            let rate = Rate::from_bits_per_sec(bits).unwrap();
            let back: Rate = rate.to_string().parse().unwrap();
            // Nine significant digits are printed.
            prop_assert!((back.bits_per_sec() as f64 / bits as f64 - 1.0).abs() < 1e-8);
        }
    }
}
