//! Classic pcap files: a header, then packets.

use crate::capture::bytes::Order;
use crate::capture::input::Input;
use crate::capture::link::LinkType;
use crate::capture::options::{self, IF_FCSLEN};
use crate::capture::source::{Description, Fault, Head, PACKET_MAX, Start};

/// Bytes of the header of the file, of a packet, and of a packet in the files of some patched versions of libpcap, which have four more
/// numbers.
const HEADER: usize = 24;
const PACKET: usize = 16;
const PACKET_PATCHED: usize = 24;

/// A file as its header describes it.
#[derive(Debug)]
pub(super) struct Pcap {
    order: Order,
    /// Nanoseconds in a unit of time.
    unit: u32,
    header: usize,
    swapped: Swapped,
    number: LinkType,
    fcs: u8,
    /// Whether the interface has been returned.
    told: bool,
    /// Offset of the next packet in the file.
    pub(super) offset: u64,
}

/// Whether captured and original length are in the opposite order, as before version 2.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Swapped {
    Never,
    /// If the captured length would otherwise be the longer one.
    Perhaps,
    Always,
}

impl Pcap {
    /// Reads the rest of the header of a file that begins with `magic`, if that begins a pcap file.
    pub(super) fn begin(magic: &[u8], input: &mut Input<impl std::io::Read>) -> Result<Option<Self>, Fault> {
        let (order, unit, header) = match magic {
            [0xd4, 0xc3, 0xb2, 0xa1] => (Order::Little, 1_000, PACKET),
            [0xa1, 0xb2, 0xc3, 0xd4] => (Order::Big, 1_000, PACKET),
            [0x4d, 0x3c, 0xb2, 0xa1] => (Order::Little, 1, PACKET),
            [0xa1, 0xb2, 0x3c, 0x4d] => (Order::Big, 1, PACKET),
            [0x34, 0xcd, 0xb2, 0xa1] => (Order::Little, 1_000, PACKET_PATCHED),
            [0xa1, 0xb2, 0xcd, 0x34] => (Order::Big, 1_000, PACKET_PATCHED),
            _ => return Ok(None),
        };
        let mut head = magic.to_vec();
        input.append(HEADER - magic.len(), &mut head)?;
        if head.len() < HEADER {
            return Err(Fault::broken(0, "the file ends within its header"));
        }
        let major = order.u16(&head, 4);
        if major != 2 {
            return Err(Fault::broken(
                0,
                format!("its format has version {major}, of which nothing is known"),
            ));
        }
        let swapped = match (order.u16(&head, 4), order.u16(&head, 6)) {
            (2, 0..=2) => Swapped::Always,
            (2, 3) => Swapped::Perhaps,
            _ => Swapped::Never,
        };
        // The upper bits have the number of 16-bit words of frame check sequence behind each packet, and whether it is known.
        let link = order.u32(&head, 20);
        let fcs = if link & 0x0400_0000 == 0 { 0 } else { (link >> 28) as u8 * 2 };
        let number = LinkType(link & 0x03ff_ffff);
        let offset = HEADER as u64;
        Ok(Some(Self { order, unit, header, swapped, number, fcs, told: false, offset }))
    }

    /// The next packet, with its bytes in `data`; before the first the interface.
    #[inline]
    pub(super) fn next(
        &mut self,
        input: &mut Input<impl std::io::Read>,
        data: &mut Vec<u8>,
    ) -> Result<Option<Head>, Fault> {
        data.clear();
        if !std::mem::replace(&mut self.told, true) {
            return Ok(Some(self.interface(data)));
        }
        let broken = |what: &str| Fault::broken(self.offset, what);
        match input.append(self.header, data)? {
            0 => return Ok(None),
            length if length < self.header => return Err(broken("the file ends within a packet's header")),
            _ => {}
        }
        let [seconds, fraction, mut captured, mut original] =
            [0, 4, 8, 12].map(|at| self.order.u32(data, at));
        if self.swapped == Swapped::Always || self.swapped == Swapped::Perhaps && captured > original {
            std::mem::swap(&mut captured, &mut original);
        }
        if captured > PACKET_MAX {
            return Err(broken(&format!("a packet of {captured} bytes is longer than any")));
        }
        data.clear();
        if input.append(captured as usize, data)? < captured as usize {
            return Err(broken("the file ends within a packet"));
        }
        self.offset += self.header as u64 + u64::from(captured);
        let nanos = u64::from(fraction) * u64::from(self.unit);
        Ok(Some(Head::Packet(Start {
            at: std::time::Duration::from_secs(seconds.into()) + std::time::Duration::from_nanos(nanos),
            original: original.max(captured),
            interface: 0,
            data: (0, captured as usize),
            options: data.len(),
        })))
    }

    fn interface(&self, data: &mut Vec<u8>) -> Head {
        if self.fcs > 0 {
            options::put(self.order, data, IF_FCSLEN, &[self.fcs]);
        }
        Head::Interface(Description::new(0, self.number, 0, self.order, data), 0)
    }
}
