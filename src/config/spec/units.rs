//! Quantities as tc reads them. Where tc takes a bare number it has a meaning: microseconds, bits per second.

use crate::pipeline::time::Duration;
use crate::pipeline::units::{Probability, Rate, Unit, UnitError, parse_with_units, split_number, zero_rate};

/// tc's units of rate in bits per second. In tc, and only there, "bps" is bytes per second.
const TC_RATE: &[Unit] = &[
    ("mbit", 1e6),
    ("kbit", 1e3),
    ("gbit", 1e9),
    ("tbit", 1e12),
    ("bit", 1.0),
    ("kibit", 1_024.0),
    ("mibit", 1_048_576.0),
    ("gibit", 1_073_741_824.0),
    ("tibit", 1_099_511_627_776.0),
    ("bps", 8.0),
    ("kbps", 8e3),
    ("mbps", 8e6),
    ("gbps", 8e9),
    ("tbps", 8e12),
    ("kibps", 8_192.0),
    ("mibps", 8_388_608.0),
    ("gibps", 8_589_934_592.0),
    ("tibps", 8_796_093_022_208.0),
];

/// A time; a bare number is microseconds.
pub(super) fn time(text: &str) -> Result<Duration, UnitError> {
    match split_number(text) {
        Some((_, "")) => format!("{text}us").parse(),
        _ => text.parse(),
    }
}

/// A rate; a bare number is bits per second.
pub(super) fn rate(text: &str) -> Result<Rate, UnitError> {
    let bits = match split_number(text) {
        Some((number, "")) => number,
        _ => parse_with_units(text, "a rate", TC_RATE)?,
    };
    // The cast saturates; a rate beyond 2^64 bit/s is no limit on any machine.
    Rate::from_bits_per_sec(bits.round() as u64).ok_or_else(|| zero_rate(text))
}

/// A percentage, with its sign.
pub(super) fn percent(text: &str) -> Result<Probability, UnitError> {
    text.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `tc` (iproute2 6.1) encodes them for the kernel.
    #[test]
    fn bare_numbers_mean_what_they_mean_to_tc() {
        assert_eq!(time("100").unwrap(), Duration::from_micros(100));
        assert_eq!(time("100us").unwrap(), Duration::from_micros(100));
        assert_eq!(rate("80").unwrap().bits_per_sec(), 80);
    }

    #[test]
    fn bps_is_bytes() {
        assert_eq!(rate("10kbps").unwrap().bits_per_sec(), 80_000);
        assert_eq!(rate("10kbit").unwrap().bits_per_sec(), 10_000);
        assert_eq!(rate("1Mibit").unwrap().bits_per_sec(), 1_048_576);
    }

    #[test]
    fn a_percentage_needs_its_sign() {
        assert_eq!(percent("30").unwrap_err().hint, "try \"30%\"");
    }
}
