//! Link types of captures: what is in front of the IP packet.

use pcap_file::DataLink;

/// A link type that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// The IP packet alone (`LINKTYPE_RAW` 101, and 12 and 14 of some systems; `LINKTYPE_IPV4` 228, `LINKTYPE_IPV6` 229).
    Raw,
    /// Ethernet, with or without VLAN tags (1).
    Ethernet,
    /// Linux "any" device, first version (113).
    Sll,
    /// Linux "any" device, second version (276).
    Sll2,
    /// BSD loopback: four bytes of address family, in either byte order (0 and 108).
    Loopback,
}

/// The types of Ethernet frames that hold IPv4 and IPv6.
const IP: [u16; 2] = [0x0800, 0x86dd];
/// Types of VLAN tags: IEEE 802.1Q, 802.1ad, and what came before that.
const VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];
/// Address families of IPv4, and of IPv6 on Linux, NetBSD, FreeBSD and Darwin.
const FAMILIES: [u32; 5] = [2, 10, 24, 28, 30];

impl Link {
    /// The link type of this number; `None` if it is not known here.
    pub fn of(number: DataLink) -> Option<Self> {
        match u32::from(number) {
            12 | 14 | 101 | 228 | 229 => Some(Self::Raw),
            1 => Some(Self::Ethernet),
            113 => Some(Self::Sll),
            276 => Some(Self::Sll2),
            0 | 108 => Some(Self::Loopback),
            _ => None,
        }
    }

    /// Where in `frame` its IP packet starts; `None` if it has none.
    pub fn ip_offset(self, frame: &[u8]) -> Option<usize> {
        let offset = match self {
            Self::Raw => Some(0),
            Self::Ethernet => ethernet(frame),
            Self::Sll => is_ip(frame, 14).then_some(16),
            Self::Sll2 => is_ip(frame, 0).then_some(20),
            Self::Loopback => {
                let family = frame.get(..4)?.try_into().ok()?;
                let known = |family: u32| FAMILIES.contains(&family);
                (known(u32::from_le_bytes(family)) || known(u32::from_be_bytes(family))).then_some(4)
            }
        }?;
        // The version is looked at too: an IP packet that is none is passed by, not called malformed.
        matches!(frame.get(offset)? >> 4, 4 | 6).then_some(offset)
    }
}

fn half(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?))
}

fn is_ip(frame: &[u8], at: usize) -> bool {
    half(frame, at).is_some_and(|kind| IP.contains(&kind))
}

fn ethernet(frame: &[u8]) -> Option<usize> {
    let mut at = 12;
    while VLAN.contains(&half(frame, at)?) {
        at += 4;
    }
    is_ip(frame, at).then_some(at + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(number: u32) -> Link {
        Link::of(DataLink::from(number)).unwrap()
    }

    #[test]
    fn each_link_type_finds_its_packet() {
        let ip = [0x45, 0, 0, 20];
        let behind = |head: &[u8]| [head, &ip].concat();
        for number in [12, 14, 101, 228, 229] {
            assert_eq!(link(number).ip_offset(&ip), Some(0));
        }
        assert_eq!(link(1).ip_offset(&behind(&[&[9; 12][..], &[8, 0]].concat())), Some(14));
        let tagged = [&[9; 12][..], &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 0x86, 0xdd]].concat();
        assert_eq!(link(1).ip_offset(&behind(&tagged)), Some(22));
        assert_eq!(link(113).ip_offset(&behind(&[&[0; 14][..], &[8, 0]].concat())), Some(16));
        assert_eq!(link(276).ip_offset(&behind(&[&[8, 0][..], &[0; 18]].concat())), Some(20));
        for family in [[2, 0, 0, 0], [0, 0, 0, 2], [30, 0, 0, 0], [0, 0, 0, 28]] {
            assert_eq!(link(0).ip_offset(&behind(&family)), Some(4));
        }
    }

    #[test]
    fn what_is_not_ip_has_no_packet() {
        let arp = [&[9; 12][..], &[8, 6], &[0; 28]].concat();
        assert_eq!(link(1).ip_offset(&arp), None);
        assert_eq!(link(1).ip_offset(&arp[..13]), None);
        assert_eq!(link(1).ip_offset(&[&[9; 12][..], &[0x81, 0, 0, 1]].concat()), None);
        assert_eq!(link(0).ip_offset(&[7, 0, 0, 0, 0x45]), None);
        assert_eq!(link(101).ip_offset(&[]), None);
        assert_eq!(link(101).ip_offset(&[0x55]), None);
        assert_eq!(Link::of(DataLink::from(105)), None);
    }
}
