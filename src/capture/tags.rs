//! The surroundings of a packet in its capture. The packet carries a number for them through the core.
//!
//! Link-layer headers are few: one for each pair of hosts, direction and VLAN. So are the lengths that packets were cut to.
//! Each is stored once for the whole run. Metadata of a single packet (a comment), and surroundings for which no number is left,
//! are stored by the packet's flow and its number in the flow, until the packet is gone and for some time after: copies leave
//! later.

use std::collections::{HashMap, VecDeque};

use crate::capture::bytes::{Order, length32};
use crate::capture::link::LinkType;
use crate::capture::options::{self, EPB_FLAGS};
use crate::capture::source::{Frame, Notes};
use crate::pipeline::packet::Packet;

/// Longest link-layer padding that many packets share; Ethernet's is at most 46 bytes.
const TRAILER_MAX: usize = 64;
/// The number for surroundings of a single packet.
const OWN: u16 = u16::MAX;
/// Most packets that are remembered after they have left, for copies and fragments that leave later.
const REMEMBERED: usize = 1 << 16;

/// The surroundings of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Surroundings {
    pub(super) interface: u32,
    pub(super) number: LinkType,
    /// Link-layer header.
    pub(super) header: Vec<u8>,
    /// The bytes after the IP packet, except a correct frame check sequence.
    pub(super) trailer: Vec<u8>,
    /// The frame was cut to this many bytes.
    pub(super) cut: Option<u32>,
    /// Bytes after the IP packet that were cut off.
    pub(super) hidden: u32,
    /// Its header had no length; this is the length of its frame.
    pub(super) untold: Option<u32>,
    /// A correct frame check sequence followed it.
    pub(super) has_fcs: bool,
    /// Metadata that it shares with many others.
    order: Order,
    options: Vec<u8>,
}

/// Metadata of a single packet.
#[derive(Debug)]
struct Own {
    /// Its surroundings, if there was no number left for them.
    surroundings: Option<Surroundings>,
    /// The metadata of the capture about it.
    order: Order,
    options: Vec<u8>,
}

/// The place of the packet in its frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Offset of the packet.
    pub(super) offset: usize,
    /// Length of the packet in bytes.
    pub(super) length: usize,
    /// Whether its header has no length.
    pub(super) is_untold: bool,
    /// Bytes of a correct frame check sequence at the end of the frame.
    pub(super) fcs: usize,
}

/// All surroundings so far.
#[derive(Debug, Default)]
pub(super) struct Tags {
    known: Vec<Surroundings>,
    numbers: HashMap<Vec<u8>, u16>,
    key: Vec<u8>,
    last: (Vec<u8>, u16),
    /// Metadata of single packets, by flow and number.
    own: HashMap<(u64, u64), Own>,
    /// The packets among them that have left, the latest last.
    gone: VecDeque<(u64, u64)>,
    /// Metadata of the packet that enters next.
    entering: Option<Own>,
}

impl Tags {
    /// The number of the surroundings of the packet at `place` in `frame`.
    pub(super) fn of(&mut self, frame: &Frame<'_>, place: Place) -> u16 {
        self.entering = None;
        let end = frame.data.len() - place.fcs;
        let trailer = frame.data.get(place.offset + place.length..end).unwrap_or_default();
        let cut = (frame.data.len() < frame.original as usize).then_some(length32(frame.data.len()));
        let known = place.offset + place.length + trailer.len() + place.fcs;
        let hidden = frame.original.saturating_sub(length32(known));
        let untold = place.is_untold.then_some(length32(place.length));
        let is_common = is_common(frame.notes);
        let common = if is_common { frame.notes.options } else { &[] };
        let own = |surroundings| {
            let options = if is_common { &[] } else { frame.notes.options };
            Some(Own { surroundings, order: frame.notes.order, options: options.to_vec() })
        };
        if !is_common {
            self.entering = own(None);
        }
        let surroundings = || Surroundings {
            interface: frame.interface,
            number: frame.number,
            header: frame.data[..place.offset].to_vec(),
            trailer: trailer.to_vec(),
            cut,
            hidden,
            untold,
            has_fcs: place.fcs > 0,
            order: frame.notes.order,
            options: common.to_vec(),
        };
        let key = &mut self.key;
        key.clear();
        let numbers = [
            frame.interface,
            cut.unwrap_or(u32::MAX),
            hidden,
            untold.unwrap_or(0),
            length32(place.fcs),
            length32(place.offset),
        ];
        for number in numbers {
            key.extend(number.to_le_bytes());
        }
        key.extend(length32(trailer.len()).to_le_bytes());
        key.extend(&frame.data[..place.offset]);
        key.extend(trailer);
        key.extend(common);
        if trailer.len() > TRAILER_MAX {
            self.entering = own(Some(surroundings()));
            return OWN;
        }
        if *key == self.last.0 {
            return self.last.1;
        }
        let number = if let Some(number) = self.numbers.get(key) {
            *number
        } else if let Some(number) = u16::try_from(self.known.len()).ok().filter(|&number| number != OWN) {
            self.known.push(surroundings());
            self.numbers.insert(key.clone(), number);
            number
        } else {
            self.entering = own(Some(surroundings()));
            return OWN;
        };
        self.last.0.clone_from(key);
        self.last.1 = number;
        number
    }

    /// Says that the packet has entered its flow: from now on it is found by flow and number.
    pub(super) fn entered(&mut self, packet: &Packet) {
        if let Some(own) = self.entering.take() {
            self.own.insert((packet.flow.identity, packet.index), own);
        }
    }

    /// The surroundings of a packet that has entered, and the metadata of the capture about it.
    #[inline]
    pub(super) fn get(&self, packet: &Packet) -> (&Surroundings, Notes<'_>) {
        if let Some(around) = self.known.get(usize::from(packet.tag))
            && self.own.is_empty()
        {
            return (around, Notes { order: around.order, options: &around.options });
        }
        let own = self.own.get(&(packet.flow.identity, packet.index));
        let alone = own.and_then(|own| own.surroundings.as_ref());
        // A copy that leaves after tens of thousands of other packets has none: then every header would be a guess.
        let common = self.known.get(usize::from(packet.tag)).or_else(|| self.known.first());
        let around = alone.or(common).unwrap_or(&FORGOTTEN);
        match own {
            Some(own) if !own.options.is_empty() => {
                (around, Notes { order: own.order, options: &own.options })
            }
            _ => (around, Notes { order: around.order, options: &around.options }),
        }
    }

    /// Says that the packet has left or was dropped.
    #[inline]
    pub(super) fn left(&mut self, packet: &Packet) {
        let key = (packet.flow.identity, packet.index);
        if self.own.is_empty() || packet.lineage != 0 || !self.own.contains_key(&key) {
            return;
        }
        self.gone.push_back(key);
        if self.gone.len() > REMEMBERED
            && let Some(oldest) = self.gone.pop_front()
        {
            self.own.remove(&oldest);
        }
    }
}

/// The surroundings of a packet whose own ones are forgotten.
static FORGOTTEN: Surroundings = Surroundings {
    interface: 0,
    number: LinkType::RAW,
    header: Vec::new(),
    trailer: Vec::new(),
    cut: None,
    hidden: 0,
    untold: None,
    has_fcs: false,
    order: Order::Little,
    options: Vec::new(),
};

/// Whether many packets share this metadata: none, or only flags.
fn is_common(notes: Notes<'_>) -> bool {
    notes.options.is_empty() || options::each(notes.order, notes.options).all(|(code, _)| code == EPB_FLAGS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::link::Link;

    /// An ACK of 40 bytes in an Ethernet frame that is padded to 60, cut behind the padding's second byte, and behind the packet.
    #[test]
    fn padding_that_was_cut_off_counts_in_the_length_of_the_frame() {
        let mut whole = [0; 60];
        whole[12..14].copy_from_slice(&[8, 0]);
        whole[14..18].copy_from_slice(&[0x45, 0, 0, 40]);
        for shown in [60, 56, 54, 50] {
            let cut = Frame {
                at: std::time::Duration::ZERO,
                original: 60,
                data: &whole[..shown],
                interface: 0,
                number: LinkType::ETHERNET,
                link: Some(Link::Ethernet),
                fcs: 0,
                notes: Notes::NONE,
            };
            let mut packet = whole[14..].to_vec();
            let mut tags = Tags::default();
            let place = Place::find(&cut, 14, &mut packet);
            let number = tags.of(&cut, place);
            let mut out = Vec::new();
            let around = &tags.known[usize::from(number)];
            assert_eq!(around.frame(&packet[..40], &mut out), (60, shown));
            // A packet that has grown keeps its padding, as whole frames do.
            assert_eq!(around.frame(&[0x45; 44], &mut out).0, 64, "{shown}");
        }
    }
}
