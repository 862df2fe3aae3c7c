//! pcapng files: sections of blocks.

use std::time::Duration;

use crate::capture::bytes::{Order, halves, length32, padded};
use crate::capture::input::Input;
use crate::capture::link::LinkType;
use crate::capture::options::{self, EPB_DROPCOUNT, ISB_END, ISB_START};
use crate::capture::source::{Description, Fault, Head, PACKET_MAX, Start, block};

/// Bytes of a block that are not its body.
const AROUND: usize = 12;
/// The value in an old packet block for an unknown number of lost packets.
const UNKNOWN: u16 = u16::MAX;
/// The error for a file that ends within a block.
const SHORT: &str = "the file ends within a block";
/// The first bytes of the body of a section's header, in the byte order of the section.
const MAGIC: u32 = 0x1a2b_3c4d;

/// A file as read so far.
#[derive(Debug)]
pub(super) struct PcapNg {
    order: Order,
    /// Number of the first interface of this section.
    first: u32,
    /// Interfaces of this section.
    count: u32,
    /// Time of the last packet that had one: simple packets have none.
    last: Duration,
    /// Whether the first bytes of the file have been read already.
    magic: bool,
    /// Header of the block that is being read.
    head: Vec<u8>,
    /// Offset of the next block in the file.
    pub(super) offset: u64,
}

impl PcapNg {
    /// A file that begins with `magic`, if that begins a pcapng file.
    pub(super) fn begin(magic: &[u8]) -> Option<Self> {
        (magic == block::SECTION.to_le_bytes()).then_some(Self {
            order: Order::Little,
            first: 0,
            count: 0,
            last: Duration::ZERO,
            magic: true,
            head: Vec::with_capacity(8),
            offset: 0,
        })
    }

    /// The next block, with its body in `data`. `interfaces` has all interfaces so far.
    pub(super) fn next(
        &mut self,
        input: &mut Input<impl std::io::Read>,
        data: &mut Vec<u8>,
        interfaces: &[Description],
    ) -> Result<Option<Head>, Fault> {
        let Some(kind) = self.read(input, data)? else { return Ok(None) };
        let order = self.order;
        let head = match kind {
            block::SECTION => self.section(data)?,
            block::INTERFACE => {
                if data.len() < 8 {
                    return Err(self.broken("an interface's block has no room for it"));
                }
                let number = LinkType(order.u16(data, 0).into());
                self.count += 1;
                Head::Interface(
                    Description::new(
                        length32(interfaces.len()),
                        number,
                        order.u32(data, 4),
                        order,
                        &data[8..],
                    ),
                    8,
                )
            }
            block::ENHANCED => {
                let units = u64::from(order.u32(data, 4)) << 32 | u64::from(order.u32(data, 8));
                let [index, captured, original] = [0, 12, 16].map(|at| order.u32(data, at));
                self.packet(interfaces, index, Some(units), [captured, original], 20, data)?
            }
            block::OLD => self.old(interfaces, data)?,
            block::SIMPLE => {
                let original = order.u32(data, 0);
                let snaplen = interfaces.get(self.first as usize).map_or(0, |interface| interface.snaplen);
                let snaplen = if snaplen == 0 { u32::MAX } else { snaplen };
                let captured = original.min(snaplen).min(length32(data.len().saturating_sub(4)));
                self.packet(interfaces, 0, None, [captured, original], 4, data)?
            }
            block::STATISTICS => {
                let interface = self.interface(interfaces, order.u32(data, 0))?;
                self.in_nanoseconds(&interfaces[interface as usize], data);
                Head::Block { kind, interface: Some(interface) }
            }
            _ => Head::Block { kind, interface: None },
        };
        self.offset += (data.len() + AROUND) as u64;
        Ok(Some(head))
    }

    fn broken(&self, what: impl Into<String>) -> Fault {
        Fault::broken(self.offset, what)
    }

    /// The type of the next block, its body in `data`.
    fn read(
        &mut self,
        input: &mut Input<impl std::io::Read>,
        data: &mut Vec<u8>,
    ) -> Result<Option<u32>, Fault> {
        data.clear();
        let head = &mut self.head;
        head.clear();
        if std::mem::take(&mut self.magic) {
            head.extend(block::SECTION.to_le_bytes());
        }
        input.append(8 - head.len(), head)?;
        match self.head.len() {
            0 => return Ok(None),
            8 => {}
            _ => return Err(self.broken("the file ends within a block's header")),
        }
        // The type of a section's header is the same in both byte orders; the body has the order.
        if self.order.u32(&self.head, 0) == block::SECTION {
            if input.append(4, data)? < 4 {
                return Err(self.broken(SHORT));
            }
            self.order = match data[..] {
                [0x1a, 0x2b, 0x3c, 0x4d] => Order::Big,
                [0x4d, 0x3c, 0x2b, 0x1a] => Order::Little,
                _ => return Err(self.broken("a section has no known byte order")),
            };
        }
        let (kind, length) = (self.order.u32(&self.head, 0), self.order.u32(&self.head, 4));
        if (length as usize) < AROUND + data.len() || length > PACKET_MAX {
            return Err(self.broken(format!("a block of {length} bytes cannot be")));
        }
        // Some writers pad a block and do not count the padding.
        let body = padded(length as usize) - AROUND;
        let missing = body + 4 - data.len();
        if input.append(missing, data)? < missing {
            return Err(self.broken(SHORT));
        }
        let again = self.order.u32(data, body);
        if padded(again as usize) != body + AROUND {
            let what = format!("a block has {length} bytes at its beginning and {again} at its end");
            return Err(self.broken(what));
        }
        data.truncate(body);
        Ok(Some(kind))
    }

    fn section(&mut self, data: &[u8]) -> Result<Head, Fault> {
        debug_assert!(self.order.u32(data, 0) == MAGIC);
        if data.len() < 16 {
            return Err(self.broken("a section's block has no room for it"));
        }
        // Writers with version 1.2 meant 1.0 (draft-ietf-opsawg-pcapng section 4.1).
        let version = (self.order.u16(data, 4), self.order.u16(data, 6));
        if !matches!(version, (1, 0 | 2)) {
            let (major, minor) = version;
            let what = format!("a section has version {major}.{minor}, of which nothing is known");
            return Err(self.broken(what));
        }
        self.first += std::mem::take(&mut self.count);
        Ok(Head::Section { order: self.order, options: 16 })
    }

    /// The number over all sections of an interface of this one.
    fn interface(&self, interfaces: &[Description], index: u32) -> Result<u32, Fault> {
        let number = self.first.checked_add(index);
        let known = number.filter(|&number| index < self.count && (number as usize) < interfaces.len());
        known.ok_or_else(|| self.broken(format!("there is no interface {index}")))
    }

    /// A packet whose bytes begin at `start` of the body.
    fn packet(
        &mut self,
        interfaces: &[Description],
        index: u32,
        units: Option<u64>,
        [captured, original]: [u32; 2],
        start: usize,
        data: &[u8],
    ) -> Result<Head, Fault> {
        let interface = self.interface(interfaces, index)?;
        let end = start + captured as usize;
        if end > data.len() {
            return Err(self.broken(format!("a packet of {captured} bytes does not fit its block")));
        }
        if let Some(units) = units {
            self.last = interfaces[interface as usize].time(units);
        }
        Ok(Head::Packet(Start {
            at: self.last,
            original: original.max(captured),
            interface,
            data: (start, end),
            options: (start + padded(captured as usize)).min(data.len()),
        }))
    }

    /// The obsolete block for packets. Its number of lost packets becomes an option of an enhanced packet block.
    fn old(&mut self, interfaces: &[Description], data: &mut Vec<u8>) -> Result<Head, Fault> {
        let order = self.order;
        let (index, drops) = (order.u16(data, 0), order.u16(data, 2));
        let units = u64::from(order.u32(data, 4)) << 32 | u64::from(order.u32(data, 8));
        let lengths = [12, 16].map(|at| order.u32(data, at));
        let head = self.packet(interfaces, index.into(), Some(units), lengths, 20, data)?;
        if let Head::Packet(start) = &head
            && drops != UNKNOWN
        {
            let mut found = Vec::new();
            options::put(order, &mut found, EPB_DROPCOUNT, &order.bytes64(drops.into()));
            found.extend_from_slice(&data[start.options..]);
            self.offset -= found.len() as u64 - (data.len() - start.options) as u64;
            data.truncate(start.options);
            data.extend(found);
        }
        Ok(head)
    }

    /// Statistics of `interface` with times as they are written: in nanoseconds since 1970.
    fn in_nanoseconds(&self, interface: &Description, data: &mut [u8]) {
        let order = self.order;
        let turn = |data: &mut [u8], at: usize| {
            let units = u64::from(order.u32(data, at)) << 32 | u64::from(order.u32(data, at + 4));
            let nanos = u64::try_from(interface.time(units).as_nanos()).unwrap_or(u64::MAX);
            if let Some(place) = data.get_mut(at..at + 8) {
                let [high, low] = halves(nanos);
                place[..4].copy_from_slice(&order.bytes32(high));
                place[4..].copy_from_slice(&order.bytes32(low));
            }
        };
        turn(data, 4);
        let mut at = 12;
        let mut times = Vec::new();
        for (code, value) in options::each(order, data.get(12..).unwrap_or_default()) {
            if matches!(code, ISB_START | ISB_END) && value.len() == 8 {
                times.push(at + 4);
            }
            at += 4 + padded(value.len());
        }
        for at in times {
            turn(data, at);
        }
    }
}
