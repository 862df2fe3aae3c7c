//! The options of pcapng blocks, as bytes: a list of (code, value), each padded to four bytes.
//!
//! They are kept unchanged. Numbers in them have the byte order of their section.

use crate::capture::bytes::{Order, padded};

/// A comment, of any block.
pub(super) const COMMENT: u16 = 1;
/// Of an interface: its name.
pub(super) const IF_NAME: u16 = 2;
/// Of an interface: its description.
pub(super) const IF_DESCRIPTION: u16 = 3;
/// Of an interface: the resolution of its times.
pub(super) const IF_TSRESOL: u16 = 9;
/// Of an interface: bytes of frame check sequence behind each packet.
pub(super) const IF_FCSLEN: u16 = 13;
/// Of an interface: seconds to add to its times.
pub(super) const IF_TSOFFSET: u16 = 14;
/// Of a packet: its flags.
pub(super) const EPB_FLAGS: u16 = 2;
/// Of a packet: packets lost before it.
pub(super) const EPB_DROPCOUNT: u16 = 4;
/// Of a packet: its number, the same wherever it was seen.
pub(super) const EPB_PACKETID: u16 = 5;
/// Of a packet: the verdict about it.
pub(super) const EPB_VERDICT: u16 = 7;
/// Of statistics: packets that found no room.
pub(super) const ISB_DROPPED: u16 = 5;
/// Of statistics: when the capture began.
pub(super) const ISB_START: u16 = 2;
/// Of statistics: when the capture ended.
pub(super) const ISB_END: u16 = 3;

/// The options in `bytes`, up to the end of the list or to one that is not whole.
pub(super) fn each(order: Order, mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (code, length) = (order.u16(bytes, 0), usize::from(order.u16(bytes, 2)));
        if code == 0 {
            return None;
        }
        let value = bytes.get(4..4 + length)?;
        bytes = bytes.get(4 + padded(length)..).unwrap_or_default();
        Some((code, value))
    })
}

/// Appends an option.
pub(super) fn put(order: Order, out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend(order.bytes16(code));
    // An option holds 65,535 bytes at most, and a longer value is cut. Values from captures fit, and our own are short.
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    let value = &value[..length.into()];
    out.extend(order.bytes16(length));
    out.extend(value);
    out.resize(out.len() + padded(value.len()) - value.len(), 0);
}

/// Appends the end of a list, if there is a list since `start`.
pub(super) fn end(out: &mut Vec<u8>, start: usize) {
    if out.len() > start {
        out.extend([0; 4]);
    }
}

/// The kind of block that options belong to: the meaning of a code depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Interface,
    Packet,
}

/// Appends an option of a section in byte order `from` to one in `to`.
pub(super) fn put_in(owner: Owner, from: Order, to: Order, out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let start = out.len() + 4;
    put(to, out, code, value);
    if from == to {
        return;
    }
    let number = match (owner, code) {
        // Custom options begin with the number of their organisation.
        (_, 2988 | 2989 | 19372 | 19373) | (Owner::Interface, 10) | (Owner::Packet, EPB_FLAGS | 6) => 4,
        (Owner::Interface, 8 | IF_TSOFFSET | 16 | 17) | (Owner::Packet, EPB_DROPCOUNT | 5) => 8,
        _ => 0,
    };
    if let Some(number) = out.get_mut(start..start + number).filter(|_| value.len() >= number) {
        number.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_end_where_they_are_not_whole() {
        let mut list = Vec::new();
        put(Order::Big, &mut list, COMMENT, b"hello");
        put(Order::Big, &mut list, EPB_FLAGS, &[1, 2, 3, 4]);
        let whole = list.len();
        end(&mut list, 0);
        assert_eq!(each(Order::Big, &list).collect::<Vec<_>>(), [(1, &b"hello"[..]), (2, &[1, 2, 3, 4])]);
        assert_eq!(each(Order::Big, &list[..whole]).count(), 2);
        assert_eq!(each(Order::Big, &list[..whole - 1]).count(), 1);
        assert_eq!(each(Order::Big, &list[..3]).count(), 0);
    }

    #[test]
    fn numbers_are_turned_round_with_their_section() {
        let mut list = Vec::new();
        put_in(Owner::Packet, Order::Big, Order::Little, &mut list, EPB_FLAGS, &[1, 2, 3, 4]);
        put_in(Owner::Packet, Order::Big, Order::Little, &mut list, COMMENT, b"same");
        let found: Vec<_> = each(Order::Little, &list).collect();
        assert_eq!(found, [(EPB_FLAGS, &[4, 3, 2, 1][..]), (COMMENT, b"same")]);
    }
}
