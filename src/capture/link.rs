//! Link types of captures: the headers before the IP packet.

/// A number of a link type, as capture files have it (`LINKTYPE_...`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkType(pub u32);

impl LinkType {
    /// Ethernet.
    pub const ETHERNET: Self = Self(1);
    /// The IP packet alone.
    pub const RAW: Self = Self(101);
}

impl std::fmt::Display for LinkType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A link type that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// The IP packet alone (`LINKTYPE_RAW` 101, and 12 and 14 of some systems; `LINKTYPE_IPV4` 228, `LINKTYPE_IPV6` 229).
    Raw,
    /// Ethernet (1).
    Ethernet,
    /// Linux "any" device, first version (113).
    Sll,
    /// Linux "any" device, second version (276).
    Sll2,
    /// BSD loopback: four bytes of address family, in either byte order (0 and 108).
    Loopback,
    /// PPP, with or without HDLC framing (9 and 50).
    Ppp,
    /// PPP behind a byte for its direction (204).
    PppWithDirection,
    /// A packet of PPP over Ethernet (51).
    PppOverEthernet,
    /// Cisco's HDLC (104).
    CiscoHdlc,
}

/// Types of Ethernet frames.
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const PPPOE: u16 = 0x8864;
const MPLS: [u16; 2] = [0x8847, 0x8848];
/// VLAN tags: IEEE 802.1Q, 802.1ad, and its predecessor.
const VLAN: [u16; 4] = [0x8100, 0x88a8, 0x9100, 0x9200];
/// Larger numbers in the type field of Ethernet are types, others are lengths.
const LENGTH_MAX: u16 = 1_500;
/// Address families of IPv4, and of IPv6 on Linux, NetBSD, FreeBSD and Darwin.
const FAMILIES: [u32; 5] = [2, 10, 24, 28, 30];

impl Link {
    /// The link type of this number; `None` if it is not known here.
    pub fn of(number: LinkType) -> Option<Self> {
        match number.0 {
            12 | 14 | 101 | 228 | 229 => Some(Self::Raw),
            1 => Some(Self::Ethernet),
            113 => Some(Self::Sll),
            276 => Some(Self::Sll2),
            0 | 108 => Some(Self::Loopback),
            9 | 50 => Some(Self::Ppp),
            204 => Some(Self::PppWithDirection),
            51 => Some(Self::PppOverEthernet),
            104 => Some(Self::CiscoHdlc),
            _ => None,
        }
    }

    /// The offset of the IP packet in `frame`, after any VLAN tags, MPLS labels and headers of PPP; `None` if it has none.
    pub fn ip_offset(self, frame: &[u8]) -> Option<usize> {
        let offset = match self {
            Self::Raw => Some(0),
            Self::Ethernet => ethernet(frame, 12),
            Self::Sll => ethernet(frame, 14),
            Self::Sll2 => behind(frame, half(frame, 0)?, 20),
            Self::Loopback => {
                let family = frame.get(..4)?.try_into().ok()?;
                let known = |family: u32| FAMILIES.contains(&family);
                (known(u32::from_le_bytes(family)) || known(u32::from_be_bytes(family))).then_some(4)
            }
            Self::Ppp => ppp(frame, 0),
            Self::PppWithDirection => ppp(frame, 1),
            Self::PppOverEthernet => ppp(frame, 6),
            Self::CiscoHdlc => behind(frame, half(frame, 2)?, 4),
        }?;
        // The version is checked, too: a frame without an IP packet passes, and does not count as malformed.
        matches!(frame.get(offset)? >> 4, 4 | 6).then_some(offset)
    }
}

fn half(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?))
}

/// The offset of the packet behind the type or length at `at`.
fn ethernet(frame: &[u8], at: usize) -> Option<usize> {
    match half(frame, at)? {
        0..=LENGTH_MAX => llc(frame, at + 2),
        kind => behind(frame, kind, at + 2),
    }
}

/// IEEE 802.2: SNAP with an Ethernet type, or IP's own number.
fn llc(frame: &[u8], at: usize) -> Option<usize> {
    match frame.get(at..at + 3)? {
        [0xaa, 0xaa, 0x03] if frame.get(at + 3..at + 6)? == [0; 3] => {
            behind(frame, half(frame, at + 6)?, at + 8)
        }
        [0x06, 0x06, 0x03] => Some(at + 3),
        _ => None,
    }
}

/// The offset of the packet for a type, whose content begins at `at`.
fn behind(frame: &[u8], mut kind: u16, mut at: usize) -> Option<usize> {
    while VLAN.contains(&kind) {
        kind = half(frame, at + 2)?;
        at += 4;
        if kind <= LENGTH_MAX {
            return llc(frame, at);
        }
    }
    match kind {
        IPV4 | IPV6 => Some(at),
        PPPOE => ppp(frame, at + 6),
        _ if MPLS.contains(&kind) => mpls(frame, at),
        _ => None,
    }
}

/// The offset after the last label; the first digit there shows whether IP follows.
fn mpls(frame: &[u8], mut at: usize) -> Option<usize> {
    while frame.get(at + 2)? & 1 == 0 {
        at += 4;
    }
    Some(at + 4)
}

/// With or without address and control bytes. The protocol has two bytes, or one byte if the first one is odd.
fn ppp(frame: &[u8], mut at: usize) -> Option<usize> {
    if frame.get(at..at + 2)? == [0xff, 0x03] {
        at += 2;
    }
    let first = u16::from(*frame.get(at)?);
    let (kind, next) = if first & 1 == 1 { (first, at + 1) } else { (half(frame, at)?, at + 2) };
    match kind {
        0x21 | 0x57 => Some(next),
        0x281 | 0x283 => mpls(frame, next),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(number: u32) -> Link {
        Link::of(LinkType(number)).unwrap()
    }

    const IP: [u8; 4] = [0x45, 0, 0, 20];

    /// The offset that is found for a packet behind these bytes.
    fn found(number: u32, head: &[u8]) -> Option<usize> {
        link(number).ip_offset(&[head, &IP].concat())
    }

    #[test]
    fn each_link_type_finds_its_packet() {
        for number in [12, 14, 101, 228, 229] {
            assert_eq!(found(number, &[]), Some(0));
        }
        assert_eq!(found(1, &[&[9; 12][..], &[8, 0]].concat()), Some(14));
        assert_eq!(found(113, &[&[0; 14][..], &[8, 0]].concat()), Some(16));
        assert_eq!(found(276, &[&[8, 0][..], &[0; 18]].concat()), Some(20));
        for family in [[2, 0, 0, 0], [0, 0, 0, 2], [30, 0, 0, 0], [0, 0, 0, 28]] {
            assert_eq!(found(0, &family), Some(4));
        }
        for (number, head) in [
            (9, &[0xff, 3, 0, 0x21][..]),
            (9, &[0, 0x57]),
            (9, &[0x21]),
            (50, &[0xff, 3, 0x21]),
            (204, &[1, 0xff, 3, 0, 0x21]),
            (51, &[0x11, 0, 0, 1, 0, 22, 0, 0x21]),
            (104, &[0x0f, 0, 8, 0]),
        ] {
            assert_eq!(found(number, head), Some(head.len()), "{number} {head:?}");
        }
    }

    /// All headers that can be between an Ethernet type and the packet.
    #[test]
    fn tags_labels_and_sessions_are_looked_through() {
        let vlan = [0x81, 0, 0, 2];
        let session = [0x88, 0x64, 0x11, 0, 0, 1, 0, 22, 0, 0x21];
        let labels = [0x88, 0x47, 0, 1, 0, 64, 0, 2, 1, 64];
        let snap = [0, 28, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0];
        for head in [
            [&[0x88, 0xa8, 0, 1][..], &vlan, &[0x86, 0xdd]].concat(),
            [&vlan[..], &vlan, &vlan, &session].concat(),
            session.to_vec(),
            labels.to_vec(),
            [&vlan[..], &labels].concat(),
            snap.to_vec(),
            [&vlan[..], &snap].concat(),
            vec![0, 7, 6, 6, 3],
            [&session[..8], &[0x02, 0x81, 0, 1, 1, 64]].concat(),
        ] {
            for (number, before) in [(1, 12), (113, 14)] {
                let head = [&vec![9; before][..], &head].concat();
                assert_eq!(found(number, &head), Some(head.len()), "{head:02x?}");
            }
        }
    }

    #[test]
    fn what_is_not_ip_has_no_packet() {
        let arp = [&[9; 12][..], &[8, 6], &[0; 28]].concat();
        assert_eq!(link(1).ip_offset(&arp), None);
        assert_eq!(link(1).ip_offset(&arp[..13]), None);
        assert_eq!(link(1).ip_offset(&[&[9; 12][..], &[0x81, 0, 0, 1]].concat()), None);
        assert_eq!(link(1).ip_offset(&[&[9; 12][..], &[0x88, 0x47], &[0; 40]].concat()), None);
        assert_eq!(link(1).ip_offset(&[&[9; 12][..], &[0, 5, 0x42, 0x42, 3, 0, 0]].concat()), None);
        assert_eq!(found(0, &[7, 0, 0, 0]), None);
        assert_eq!(found(9, &[0xc0, 0x21]), None);
        assert_eq!(link(101).ip_offset(&[]), None);
        assert_eq!(link(101).ip_offset(&[0x55]), None);
        assert_eq!(Link::of(LinkType(105)), None);
    }
}
