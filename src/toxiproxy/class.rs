//! Which connections are hit by a toxic whose toxicity is less than 1.
//!
//! Each connection has a class, drawn from the seed, the proxy and its number among the proxy's connections. A toxic
//! hits a share of the classes, chosen by the seed, the proxy and the toxic's name. The source address of a
//! connection in the near namespace encodes its class. So the stages can select by address the same connections that
//! the relays select by class.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::pipeline::random::rng::StageKey;

/// The number of classes: toxicity is rounded to thousandths.
pub(super) const CLASSES: u16 = 1000;

/// The prefix of the classes' addresses: all of it is local in the near namespace.
pub(super) const PREFIX: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 76, 0, 0), 16);

/// The class of connection `number`, from 0.
pub(super) fn of_connection(key: StageKey, number: u64) -> u16 {
    let unit = key.stream(0, 0).unit(number, 0);
    ((unit * f64::from(CLASSES)) as u16).min(CLASSES - 1)
}

/// The source address of a class.
pub(super) fn address(class: u16) -> IpAddr {
    // No address ends in 0 or 255.
    let (high, low) = (class / 250, class % 250);
    Ipv4Addr::new(10, 76, 1 + high as u8, 1 + low as u8).into()
}

/// The classes that a toxic of this toxicity hits, in order. A higher toxicity hits these classes and further ones.
pub(super) fn hit(key: StageKey, toxicity: f32) -> Vec<u16> {
    let count = (f64::from(toxicity).clamp(0.0, 1.0) * f64::from(CLASSES)).round() as usize;
    let stream = key.stream(0, 0);
    let mut classes: Vec<u16> = (0..CLASSES).collect();
    classes.sort_by_key(|&class| stream.word(class.into(), 0));
    classes.truncate(count);
    classes.sort_unstable();
    classes
}

/// The addresses of these classes, as few prefixes as possible.
pub(super) fn prefixes(classes: &[u16]) -> Vec<IpNet> {
    let nets: Vec<IpNet> = classes.iter().map(|&class| address(class).into()).collect();
    IpNet::aggregate(&nets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> StageKey {
        StageKey::new(7, name)
    }

    #[test]
    fn a_share_of_the_classes_is_hit_and_a_higher_toxicity_hits_more() {
        let [tenth, half, all] = [0.1, 0.5, 1.0].map(|toxicity| hit(key("a"), toxicity));
        assert_eq!([tenth.len(), half.len(), all.len()], [100, 500, 1000]);
        assert!(tenth.iter().all(|class| half.contains(class)));
        assert!(hit(key("a"), 0.0).is_empty() && hit(key("a"), -1.0).is_empty());
        assert_eq!(hit(key("a"), 2.0).len(), 1000);
        // Of two toxics, a quarter is hit by both: 500 draws without replacement of 1000, half of them hits: mean 250, deviation 7.9.
        let other = hit(key("b"), 0.5);
        let both = half.iter().filter(|class| other.contains(class)).count();
        assert!((200..300).contains(&both), "{both}");
    }

    #[test]
    fn connections_are_spread_over_the_classes() {
        // 10,000 connections, half of the classes: mean 5000, deviation 50.
        let half = hit(key("a"), 0.5);
        let hits = (0..10_000).filter(|&number| half.contains(&of_connection(key("c"), number))).count();
        assert!((4700..5300).contains(&hits), "{hits}");
    }

    #[test]
    fn prefixes_hold_exactly_the_addresses_of_their_classes() {
        let half = hit(key("a"), 0.5);
        let prefixes = prefixes(&half);
        for class in 0..CLASSES {
            let address = address(class);
            assert!(PREFIX.contains(&match address {
                IpAddr::V4(address) => address,
                IpAddr::V6(_) => unreachable!("built here"),
            }));
            let is_in = prefixes.iter().any(|prefix| prefix.contains(&address));
            assert_eq!(is_in, half.contains(&class), "{class}");
        }
    }
}
