//! Numbers of 32 bits that wrap around: sequence numbers (RFC 9293 section 3.4) and timestamps (RFC 7323 section 5.2) of TCP.
//!
//! Two numbers can be compared if they are less than half the circle apart. At exactly half of it neither is before the
//! other, as RFC 1982 leaves it.

/// Whether `one` is before `other`.
pub const fn is_before(one: u32, other: u32) -> bool {
    distance(one, other) > 0
}

/// The later of the two; `one` if neither is.
pub const fn later(one: u32, other: u32) -> u32 {
    if is_before(one, other) { other } else { one }
}

/// How far `to` is ahead of `from`; negative if it is behind, or exactly half the circle away.
pub const fn distance(from: u32, to: u32) -> i32 {
    to.wrapping_sub(from).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: u32 = 1 << 31;

    #[test]
    fn numbers_are_compared_across_the_wrap() {
        for base in [0, 7, HALF - 1, HALF, u32::MAX - 3, u32::MAX] {
            for ahead in [1, 2, 1_000, HALF - 1] {
                let other = base.wrapping_add(ahead);
                assert!(is_before(base, other) && !is_before(other, base), "{base} {ahead}");
                assert_eq!([later(base, other), later(other, base)], [other; 2]);
                assert_eq!(distance(base, other), ahead.cast_signed());
                assert_eq!(distance(other, base), -ahead.cast_signed());
            }
            let opposite = base.wrapping_add(HALF);
            assert!(!is_before(base, opposite) && !is_before(opposite, base) && !is_before(base, base));
            assert_eq!([distance(base, opposite), distance(opposite, base)], [i32::MIN; 2]);
            assert_eq!((later(base, opposite), later(opposite, base)), (base, opposite));
        }
    }
}
