//! IPv6 prefix translation (RFC 6296): replaces one prefix by another, and changes another word of the address so
//! that no checksum changes.
//! that no checksum does.

use crate::pipeline::params::PrefixParams;
use crate::pipeline::wire::Host;
use std::net::{IpAddr, Ipv6Addr};

/// Words of an address.
const WORDS: usize = 8;

/// A pair of prefixes.
#[derive(Debug)]
pub(super) struct Prefix {
    inside: [u16; WORDS],
    outside: [u16; WORDS],
    length: u8,
}

impl Prefix {
    pub(super) const fn new(params: &PrefixParams) -> Self {
        Self { inside: params.inside.segments(), outside: params.outside.segments(), length: params.length }
    }

    /// The address outside of one inside; `None` if it is not inside, or cannot be translated.
    pub(super) fn outward(&self, address: IpAddr) -> Option<Host> {
        self.translate(address, &self.inside, &self.outside)
    }

    /// The address inside of one outside.
    pub(super) fn inward(&self, address: IpAddr) -> Option<Host> {
        self.translate(address, &self.outside, &self.inside)
    }

    pub(super) fn is_inside(&self, address: IpAddr) -> bool {
        matches!(address, IpAddr::V6(address) if self.has(&address.segments(), &self.inside))
    }

    fn mask(&self, word: usize) -> u16 {
        let bits = usize::from(self.length).saturating_sub(word * 16).min(16);
        !(u32::from(u16::MAX) >> bits) as u16
    }

    fn has(&self, words: &[u16; WORDS], prefix: &[u16; WORDS]) -> bool {
        (0..WORDS).all(|word| (words[word] ^ prefix[word]) & self.mask(word) == 0)
    }

    fn translate(&self, address: IpAddr, from: &[u16; WORDS], to: &[u16; WORDS]) -> Option<Host> {
        let IpAddr::V6(address) = address else { return None };
        let mut words = address.segments();
        if !self.has(&words, from) {
            return None;
        }
        for word in 0..WORDS {
            words[word] = words[word] & !self.mask(word) | to[word];
        }
        // Section 3.4 and 3.5: the word behind a /48, and for longer prefixes the first one of the interface that is not
        // all ones, which has two forms of zero otherwise.
        let candidates = if self.length <= 48 { 3..4 } else { 4..WORDS };
        let at = candidates.into_iter().find(|&word| words[word] != u16::MAX)?;
        let sum = |prefix: &[u16; WORDS]| prefix.iter().fold(0, |sum, word| plus(sum, *word));
        let adjusted = plus(plus(words[at], sum(from)), !sum(to));
        words[at] = if adjusted == u16::MAX { 0 } else { adjusted };
        Some(IpAddr::V6(Ipv6Addr::from(words)).into())
    }
}

/// One's complement addition.
const fn plus(a: u16, b: u16) -> u16 {
    crate::pipeline::wire::checksum::combine(a, b)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::wire::{Version, checksum};

    fn prefix(inside: &str, outside: &str, length: u8) -> Prefix {
        let params =
            PrefixParams { inside: inside.parse().unwrap(), outside: outside.parse().unwrap(), length };
        Prefix::new(&params)
    }

    fn host(text: &str) -> Host {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Section 3.5's example.
    #[test]
    fn rfc_6296_example() {
        let prefix = prefix("fd01:203:405::", "2001:db8:1::", 48);
        let (inside, outside) = ("fd01:203:405:1::1234", "2001:db8:1:d550::1234");
        assert_eq!(prefix.outward(address(inside)), Some(host(outside)));
        assert_eq!(prefix.inward(address(outside)), Some(host(inside)));
        assert_eq!(prefix.outward(address("fd01:203:406:1::1234")), None, "not inside");
        assert_eq!(prefix.outward(address("fd01:203:405:ffff::1")), None, "cannot come back");
    }

    proptest! {
        #[test]
        fn there_and_back_without_a_change_of_sum(bits: u128, a: u128, b: u128, length in 1..=64_u8) {
            let cut = |bits: u128| Ipv6Addr::from(bits & !(u128::MAX >> length));
            let prefix = Prefix::new(&PrefixParams { inside: cut(a), outside: cut(b), length });
            let inside = Ipv6Addr::from(u128::from(cut(a)) | bits & (u128::MAX >> length));
            if let Some(outside) = prefix.outward(inside.into()) {
                let bytes: [u8; 16] = outside.bytes(Version::V6).try_into().unwrap();
                prop_assert_eq!(checksum::sum(&bytes) % 0xffff, checksum::sum(&inside.octets()) % 0xffff);
                let back = prefix.inward(Ipv6Addr::from(bytes).into());
                let words = inside.segments();
                let word = if length <= 48 { 3 } else { (4..8).find(|word| words[*word] != 0xffff).unwrap() };
                // A word of zeros may come back as such only, and never as ones.
                if words[word] != 0xffff {
                    prop_assert_eq!(back, Some(IpAddr::V6(inside).into()));
                }
            }
        }
    }
}
