//! What surrounded a packet in its capture, by a number that the packet carries through the core.
//!
//! Link-layer headers are few: one for each pair of hosts, direction and VLAN. So are the lengths that packets were cut to.

use std::collections::HashMap;

use pcap_file::DataLink;

use crate::capture::source::Frame;

/// Longest link-layer padding that is kept; Ethernet's is at most 46 bytes.
const TRAILER_MAX: usize = 64;

/// The surroundings of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Surroundings {
    pub(super) interface: u32,
    pub(super) number: DataLink,
    /// Link-layer header.
    pub(super) header: Vec<u8>,
    /// What stood behind the IP packet.
    pub(super) trailer: Vec<u8>,
    /// The packet was cut to this many bytes.
    pub(super) cut: Option<u32>,
}

/// The surroundings met so far.
#[derive(Debug, Default)]
pub(super) struct Tags {
    known: Vec<Surroundings>,
    numbers: HashMap<Vec<u8>, u16>,
    key: Vec<u8>,
    last: (Vec<u8>, u16),
}

/// There are more surroundings than numbers.
#[derive(Debug)]
pub(super) struct TooMany;

impl Tags {
    /// The number of the surroundings of a packet of `length` bytes at `offset` in `frame`.
    pub(super) fn of(&mut self, frame: &Frame<'_>, offset: usize, length: usize) -> Result<u16, TooMany> {
        let trailer = frame.data.get(offset + length..).filter(|trailer| trailer.len() <= TRAILER_MAX);
        let trailer = trailer.unwrap_or_default();
        let cut = (frame.data.len() < frame.original as usize).then_some(frame.data.len() as u32);
        let key = &mut self.key;
        key.clear();
        key.extend(frame.interface.to_le_bytes());
        key.extend(cut.unwrap_or(u32::MAX).to_le_bytes());
        key.extend((offset as u32).to_le_bytes());
        key.extend(&frame.data[..offset]);
        key.extend(trailer);
        if *key == self.last.0 {
            return Ok(self.last.1);
        }
        let number = if let Some(number) = self.numbers.get(key) {
            *number
        } else {
            let number = u16::try_from(self.known.len()).map_err(|_| TooMany)?;
            self.known.push(Surroundings {
                interface: frame.interface,
                number: frame.number,
                header: frame.data[..offset].to_vec(),
                trailer: trailer.to_vec(),
                cut,
            });
            self.numbers.insert(key.clone(), number);
            number
        };
        self.last.0.clone_from(key);
        self.last.1 = number;
        Ok(number)
    }

    /// The surroundings of a packet with this number.
    pub(super) fn get(&self, number: u16) -> &Surroundings {
        &self.known[usize::from(number)]
    }
}
