//! Quantities as tc reads them. Numbers without a unit have tc's meaning: microseconds, bits per second.

use crate::pipeline::time::Duration;
use crate::pipeline::units::{
    Probability, Rate, Unit, UnitError, parse_with_units, saturating, split_number, zero_rate,
};

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
pub(in crate::config) fn time(text: &str) -> Result<Duration, UnitError> {
    match split_number(text) {
        Some((_, "")) => format!("{text}us").parse(),
        _ => text.parse(),
    }
}

/// Whether a word is a number without a unit.
pub(super) fn is_bare(text: &str) -> bool {
    matches!(split_number(text), Some((_, "")))
}

/// Whether a word is a unit without a number.
pub(super) fn is_unit(text: &str) -> bool {
    let behind = format!("1{text}");
    let has_number = text.starts_with(|first: char| first.is_ascii_digit() || ".+-".contains(first));
    !has_number
        && !is_bare(&behind)
        && (behind.parse::<Duration>().is_ok() || rate(&behind).is_ok() || percent(&behind).is_ok())
}

/// A time greater than zero.
pub(in crate::config) fn span(text: &str) -> Result<Duration, UnitError> {
    let time = time(text)?;
    if time.is_zero() {
        return Err(UnitError::new(format!("\"{text}\" is too short"), "more than 0s"));
    }
    Ok(time)
}

/// A rate; a bare number is bits per second.
pub(in crate::config) fn rate(text: &str) -> Result<Rate, UnitError> {
    let bits = match split_number(text) {
        Some((number, "")) => number,
        _ => parse_with_units(text, "a rate", TC_RATE)?,
    };
    // A rate beyond 2^64 bit/s does not limit any machine.
    Rate::from_bits_per_sec(saturating(bits.round())).ok_or_else(|| zero_rate(text))
}

/// A whole number of packets or bytes, which tc reads as a size: with units of 1024, or of 1024 bits.
pub(super) fn size(text: &str) -> Result<u64, UnitError> {
    const UNITS: &[Unit] = &[
        ("b", 1.0),
        ("k", 1_024.0),
        ("kb", 1_024.0),
        ("kbit", 128.0),
        ("m", 1_048_576.0),
        ("mb", 1_048_576.0),
        ("mbit", 131_072.0),
        ("g", 1_073_741_824.0),
        ("gb", 1_073_741_824.0),
        ("gbit", 134_217_728.0),
    ];
    let number = match split_number(text) {
        Some((number, "")) => number,
        _ => parse_with_units(text, "a number", UNITS)?,
    };
    if number.fract() != 0.0 {
        return Err(UnitError::new(format!("\"{text}\" is not a whole number"), "as in \"limit 1000\""));
    }
    Ok(saturating(number))
}

/// Whether a rate is in bytes although its unit is often used for bits.
pub(super) fn is_in_bytes(text: &str) -> bool {
    text.to_lowercase().ends_with("bps")
}

/// A percentage, with its sign.
pub(in crate::config) fn percent(text: &str) -> Result<Probability, UnitError> {
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
    fn a_unit_alone_is_known() {
        for unit in ["ms", "us", "s", "%", "mbit", "Kbit", "bps"] {
            assert!(is_unit(unit), "{unit}");
        }
        for word in ["", "5ms", "mss", "loss", "-5", "e5", "normal"] {
            assert!(!is_unit(word), "{word}");
        }
        assert!(is_bare("5") && is_bare("1.5") && !is_bare("5ms") && !is_bare("ms"));
    }

    #[test]
    fn bps_is_bytes() {
        assert_eq!(rate("10kbps").unwrap().bits_per_sec(), 80_000);
        assert_eq!(rate("10kbit").unwrap().bits_per_sec(), 10_000);
        assert_eq!(rate("1Mibit").unwrap().bits_per_sec(), 1_048_576);
    }

    #[test]
    fn a_size_has_units_of_1024() {
        for (text, bytes) in
            [("7", 7), ("1k", 1_024), ("2Kb", 2_048), ("1kbit", 128), ("1.5m", 1_572_864), ("1gbit", 1 << 27)]
        {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        assert!(size("1.5").is_err() && size("1x").is_err() && size("").is_err());
    }

    #[test]
    fn a_percentage_needs_its_sign() {
        assert_eq!(percent("30").unwrap_err().hint, "try \"30%\"");
    }
}
