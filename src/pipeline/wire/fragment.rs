//! IPv4 fragmentation by a router (RFC 791 section 3.2, RFC 1812 section 4.2.2.7). IPv6 routers never fragment.

use super::ipv4::{self, Ipv4};
use super::{Layout, Version, put16};

/// Why a packet cannot be cut to fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CannotFragment {
    /// The packet forbids it.
    #[error("\"don't fragment\" is set")]
    DontFragment,
    /// Not even 8 bytes of payload fit behind the header.
    #[error("MTU is too small for the header and 8 bytes")]
    MtuTooSmall,
    /// Only the sender of an IPv6 packet may fragment it.
    #[error("IPv6 is not fragmented on the way")]
    Ipv6,
    /// The packet is itself a fragment and reaches beyond 65,535 bytes, so no offset field can say where its end
    /// belongs.
    #[error("fragment reaches beyond the longest datagram")]
    TooLong,
}

/// One fragment to be written by [`write_fragment`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentSpec {
    /// Where its payload starts in the payload of the packet that is cut, in bytes; a multiple of 8.
    pub offset: usize,
    /// Length of its payload in bytes.
    pub len: usize,
    /// Length of its header in bytes.
    pub header_len: usize,
    /// Whether another one of the same packet follows.
    pub more: bool,
}

impl FragmentSpec {
    /// Length of the fragment as an IP packet.
    #[inline]
    pub const fn total_len(&self) -> usize {
        self.header_len + self.len
    }
}

/// The fragments of one packet, in order.
#[derive(Debug, Clone)]
pub struct Fragments {
    mtu: usize,
    /// Header of the first fragment, then of all others.
    header: usize,
    later_header: usize,
    payload: usize,
    at: usize,
    done: bool,
}

impl Fragments {
    /// Plans how a packet goes through a link that takes IP packets of at most `mtu` bytes; one fragment, the packet
    /// itself, if it fits.
    ///
    /// # Errors
    /// [`CannotFragment`] if it does not fit and cannot be cut.
    pub fn plan(packet: &[u8], layout: Layout, mtu: usize) -> Result<Self, CannotFragment> {
        let ip = match layout.version() {
            Version::V6 => return Err(CannotFragment::Ipv6),
            // A layout exists of well-formed packets only.
            Version::V4 => Ipv4::new(packet).map_err(|_| CannotFragment::MtuTooSmall)?,
        };
        let (header, payload) = (ip.header_len(), ip.payload().len());
        let whole = Self { mtu, header, later_header: header, payload, at: 0, done: false };
        if ip.total_len() <= mtu {
            return Ok(whole);
        }
        if ip.dont_fragment() {
            return Err(CannotFragment::DontFragment);
        }
        if mtu < header + 8 {
            return Err(CannotFragment::MtuTooSmall);
        }
        if ip.fragment_offset() + payload > usize::from(u16::MAX) {
            return Err(CannotFragment::TooLong);
        }
        let later_header = ipv4::MIN_HEADER + copied_options(ip.options()).1;
        Ok(Self { later_header, ..whole })
    }
}

impl Iterator for Fragments {
    type Item = FragmentSpec;

    #[inline]
    fn next(&mut self) -> Option<FragmentSpec> {
        if self.done {
            return None;
        }
        let left = self.payload - self.at;
        let header_len = if self.at == 0 { self.header } else { self.later_header };
        let room = self.mtu - header_len;
        let len = if left <= room { left } else { room & !7 };
        let spec = FragmentSpec { offset: self.at, len, header_len, more: len < left };
        self.at += len;
        self.done = !spec.more;
        Some(spec)
    }
}

/// The options that go into every fragment (copied flag set), padded to a multiple of 4, and their length. What stands
/// behind a malformed option cannot be told apart and is left out.
fn copied_options(options: &[u8]) -> ([u8; 40], usize) {
    let mut copied = [0; 40];
    let (mut at, mut end) = (0, 0);
    while let Some(&kind) = options.get(at) {
        let length = match kind {
            0 => break,
            1 => 1,
            _ => options.get(at + 1).map_or(0, |&length| usize::from(length)),
        };
        if length == 0 || length == 1 && kind != 1 || at + length > options.len() {
            break;
        }
        if kind & 0x80 != 0 {
            copied[end..end + length].copy_from_slice(&options[at..at + length]);
            end += length;
        }
        at += length;
    }
    (copied, end.next_multiple_of(4))
}

/// Writes one fragment of `packet` to the start of `out` and returns its length, [`FragmentSpec::total_len`]. None, and
/// nothing of use written, if `out` is shorter than that or the plan is not one of this packet.
///
/// The transport checksum must be complete: a fragment cannot carry a pseudo-header sum for the device to finish.
#[inline]
pub fn write_fragment(packet: &[u8], spec: FragmentSpec, out: &mut [u8]) -> Option<usize> {
    let ip = Ipv4::new(packet).ok()?;
    let payload = ip.payload().get(spec.offset..spec.offset + spec.len)?;
    let out = out.get_mut(..spec.total_len())?;
    let (header, body) = out.split_at_mut_checked(spec.header_len)?;
    body.copy_from_slice(payload);
    if spec.offset == 0 {
        header.copy_from_slice(packet.get(..spec.header_len)?);
    } else {
        let (fixed, options) = header.split_at_mut_checked(ipv4::MIN_HEADER)?;
        fixed.copy_from_slice(&packet[..ipv4::MIN_HEADER]);
        options.copy_from_slice(copied_options(ip.options()).0.get(..options.len())?);
        header[ipv4::field::VERSION_IHL] = 0x40 | (spec.header_len / 4) as u8;
    }
    put16(header, ipv4::field::TOTAL_LENGTH, spec.total_len() as u16);
    let old = ip.flags_offset();
    let more = if spec.more { ipv4::MORE_FRAGMENTS } else { old & ipv4::MORE_FRAGMENTS };
    let offset = (old & ipv4::OFFSET_MASK).wrapping_add((spec.offset / 8) as u16) & ipv4::OFFSET_MASK;
    let flags = old & !(ipv4::MORE_FRAGMENTS | ipv4::OFFSET_MASK);
    put16(header, ipv4::field::FLAGS_OFFSET, flags | more | offset);
    if spec.offset != 0 || spec.more {
        ipv4::fill_header_checksum(header);
    }
    Some(spec.total_len())
}

#[cfg(test)]
mod tests {
    use etherparse::Ipv4Header;
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::wire::samples;

    fn cut(packet: &[u8], mtu: usize) -> Result<Vec<Vec<u8>>, CannotFragment> {
        let layout = Layout::parse(packet).unwrap().0;
        Ok(Fragments::plan(packet, layout, mtu)?
            .map(|spec| {
                let mut out = vec![0xee; mtu];
                let length = write_fragment(packet, spec, &mut out).unwrap();
                out.truncate(length);
                out
            })
            .collect())
    }

    /// By etherparse: a UDP-like packet with these options and payload.
    fn packet(options: &[u8], payload: &[u8], offset: u16, more: bool) -> Vec<u8> {
        let mut header =
            Ipv4Header::new(0, 64, etherparse::ip_number::UDP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
        header.options = options.try_into().unwrap();
        header.set_payload_len(payload.len()).unwrap();
        header.dont_fragment = false;
        header.identification = 0x4242;
        header.fragment_offset = offset.try_into().unwrap();
        header.more_fragments = more;
        header.header_checksum = header.calc_header_checksum();
        [&header.to_bytes()[..], payload].concat()
    }

    /// Puts fragments together by what etherparse reads in their headers; the payload, and where it starts and whether
    /// more was announced behind it.
    fn reassemble(fragments: &[Vec<u8>]) -> (Vec<u8>, usize, bool) {
        let headers: Vec<_> = fragments.iter().map(|bytes| Ipv4Header::from_slice(bytes).unwrap()).collect();
        let start = usize::from(headers[0].0.fragment_offset.byte_offset());
        let mut payload = Vec::new();
        for (index, (header, rest)) in headers.iter().enumerate() {
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(header.identification, 0x4242);
            assert_eq!(usize::from(header.total_len), fragments[index].len());
            assert_eq!(usize::from(header.fragment_offset.byte_offset()), start + payload.len());
            assert!(header.more_fragments || index + 1 == headers.len());
            payload.extend_from_slice(rest);
        }
        (payload, start, headers.last().unwrap().0.more_fragments)
    }

    #[test]
    fn mtu_1000_makes_996_and_524_of_1500() {
        let payload: Vec<u8> = (0..1480_u32).map(|at| (at * 7) as u8).collect();
        let fragments = cut(&packet(&[], &payload, 0, false), 1000).unwrap();
        assert_eq!(fragments.iter().map(Vec::len).collect::<Vec<_>>(), [996, 524]);
        assert_eq!(reassemble(&fragments), (payload, 0, false));
    }

    /// What the kernel sent as fragments of an MTU of 1,500 was one packet of 1,628 bytes.
    #[test]
    fn cuts_where_the_kernel_cuts() {
        let [first, later] =
            [&samples::padded(samples::FRAGMENT_V4_FIRST_HEAD)[..], samples::FRAGMENT_V4_LATER];
        let mut whole = [first, &later[20..]].concat();
        whole[2..4].copy_from_slice(&1628_u16.to_be_bytes());
        whole[6..8].copy_from_slice(&[0, 0]);
        Ipv4::new(&mut whole).unwrap().fill_checksum();
        assert_eq!(cut(&whole, 1500).unwrap(), [first, later]);
    }

    #[test]
    fn only_copied_options_are_in_later_fragments() {
        // Record route (not copied), NOP, router alert (copied), end of list.
        let options = [7, 7, 4, 1, 2, 3, 4, 1, 148, 4, 0, 0, 0, 0, 0, 0];
        let fragments = cut(&packet(&options, &[9; 100], 0, false), 76).unwrap();
        assert_eq!(fragments[0][20..36], options);
        assert_eq!(fragments[1][0], 0x46);
        assert_eq!(fragments[1][20..24], [148, 4, 0, 0]);
        assert_eq!(reassemble(&fragments), (vec![9; 100], 0, false));
    }

    #[test]
    fn a_fragment_is_cut_further_and_keeps_its_place() {
        let fragments = cut(&packet(&[], &[5; 800], 100, true), 300).unwrap();
        assert_eq!(reassemble(&fragments), (vec![5; 800], 800, true));
        let fragments = cut(&packet(&[], &[5; 803], 100, false), 300).unwrap();
        assert_eq!(reassemble(&fragments), (vec![5; 803], 800, false));
    }

    #[test]
    fn what_fits_stays_as_it_is() {
        for whole in [samples::SYN_V4, samples::FRAGMENT_V4_LATER, &packet(&[], &[], 0, false)] {
            assert_eq!(cut(whole, whole.len()).unwrap(), [whole]);
        }
    }

    #[test]
    fn refusals() {
        assert_eq!(cut(samples::SYN_V4, 59), Err(CannotFragment::DontFragment));
        assert_eq!(cut(samples::SYN_V6, 1280), Err(CannotFragment::Ipv6));
        let whole = packet(&[], &[0; 100], 0, false);
        assert_eq!(cut(&whole, 27), Err(CannotFragment::MtuTooSmall));
        assert_eq!(cut(&whole, 28).unwrap().len(), 13);
        assert_eq!(cut(&packet(&[], &[0; 100], 8180, false), 60), Err(CannotFragment::TooLong));
    }

    #[test]
    fn a_short_buffer_or_foreign_plan_writes_nothing() {
        let whole = packet(&[], &[0; 100], 0, false);
        let layout = Layout::parse(&whole).unwrap().0;
        let spec = Fragments::plan(&whole, layout, 60).unwrap().last().unwrap();
        assert_eq!(write_fragment(&whole, spec, &mut vec![0; spec.total_len() - 1]), None);
        assert_eq!(write_fragment(&whole[..20], spec, &mut [0; 100]), None);
        assert_eq!(write_fragment(samples::SYN_V4, spec, &mut [0; 100]), None);
    }

    proptest! {
        #[test]
        fn fragments_reassemble_to_the_same_bytes(
            options in prop::collection::vec(any::<u8>(), 0..=10),
            payload in prop::collection::vec(any::<u8>(), 0..3000),
            mtu in 68_usize..1600, offset in 0_u16..7000, more: bool,
        ) {
            let options: Vec<u8> = options.iter().flat_map(|&byte| [byte, 3, 0, 1]).collect();
            // All but the last fragment of a datagram carry a multiple of 8.
            let payload = if more { &payload[..payload.len() & !7] } else { &payload[..] };
            let whole = packet(&options, payload, offset, more);
            let fragments = cut(&whole, mtu).unwrap();
            prop_assert!(fragments.iter().all(|bytes| bytes.len() <= mtu));
            prop_assert_eq!(reassemble(&fragments), (payload.to_vec(), usize::from(offset) * 8, more));
        }

        #[test]
        fn any_bytes_are_safe(bytes in samples::hostile(4), mtu in 0_usize..300) {
            if let Ok((layout, length)) = Layout::parse(&bytes)
                && layout.version() == Version::V4
                && let Ok(fragments) = Fragments::plan(&bytes[..length], layout, mtu)
            {
                for spec in fragments {
                    prop_assert!(spec.total_len() <= mtu);
                    let written = write_fragment(&bytes, spec, &mut [0; 300]);
                    prop_assert_eq!(written, Some(spec.total_len()));
                }
            }
        }
    }
}
