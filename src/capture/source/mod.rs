//! Reads a pcap or pcapng file, compressed or not: packets one at a time, and all metadata.

mod pcap;
mod pcapng;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::Read;
use std::time::Duration;

use crate::capture::bytes::Order;
use crate::capture::input::{Failure, Input, unpacker};
use crate::capture::link::{Link, LinkType};
use crate::capture::options::{self, IF_FCSLEN, IF_TSOFFSET, IF_TSRESOL};
use crate::capture::source::pcap::Pcap;
use crate::capture::source::pcapng::PcapNg;

/// Longest packet or block that is read, as in Wireshark. A longer length counts as damage.
const PACKET_MAX: u32 = 128 << 20;

/// Types of pcapng blocks.
pub(super) mod block {
    pub(in crate::capture) const SECTION: u32 = 0x0a0d_0d0a;
    pub(in crate::capture) const INTERFACE: u32 = 1;
    pub(in crate::capture) const OLD: u32 = 2;
    pub(in crate::capture) const SIMPLE: u32 = 3;
    pub(in crate::capture) const STATISTICS: u32 = 5;
    pub(in crate::capture) const ENHANCED: u32 = 6;
    /// A custom block that programs must not copy if they do not know it.
    pub(in crate::capture) const PRIVATE: u32 = 0x4000_0bad;
}

/// A packet of a capture.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Time since 1970.
    pub at: Duration,
    /// Length on the wire in bytes, at least that of `data`.
    pub original: u32,
    /// The captured bytes, link-layer header first.
    pub data: &'a [u8],
    /// The interface it was captured on, counted from 0 over all sections of the file.
    pub interface: u32,
    /// The number of its link type in the file.
    pub number: LinkType,
    /// Its link type; `None` if it cannot be read.
    pub link: Option<Link>,
    /// Bytes of frame check sequence at the end of the packet on the wire, if the file says that they were captured.
    pub fcs: u8,
    /// The file's metadata about it.
    pub notes: Notes<'a>,
}

/// The metadata of a capture about a packet: the options of its block.
#[derive(Debug, Clone, Copy)]
pub struct Notes<'a> {
    pub(super) order: Order,
    pub(super) options: &'a [u8],
}

impl Notes<'_> {
    /// No metadata.
    pub const NONE: Self = Notes { order: Order::Little, options: &[] };
}

/// An item of a capture.
#[derive(Debug, Clone, Copy)]
pub enum Item<'a> {
    /// A packet.
    Packet(Frame<'a>),
    /// The beginning of a section of a pcapng file: later items belong to it.
    Section(Notes<'a>),
    /// An interface, before its first packet.
    Interface(Interface<'a>),
    /// Any other block of a pcapng file.
    Block(Block<'a>),
}

/// An interface that packets were captured on.
#[derive(Debug, Clone, Copy)]
pub struct Interface<'a> {
    /// Its number, from 0 over all sections of the file.
    pub index: u32,
    /// Its link type.
    pub number: LinkType,
    /// Longest packet that was captured whole; 0: any.
    pub snaplen: u32,
    /// The file's metadata about it.
    pub notes: Notes<'a>,
}

/// A block that is no packet.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// Its type.
    pub kind: u32,
    /// The interface that it is about, counted over all sections, if it is a block of statistics. Its times are in nanoseconds.
    pub interface: Option<u32>,
    /// Its body, in the byte order of its section.
    pub body: &'a [u8],
}

impl Block<'_> {
    /// Whether programs that do not know its content must not copy it.
    pub const fn is_private(&self) -> bool {
        self.kind == block::PRIVATE
    }
}

/// Errors of reading a capture.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[source] std::io::Error),
    /// It does not begin like a capture.
    #[error("is not a capture: it begins with {0}; pcap and pcapng files can be read")]
    NotACapture(String),
    /// It ends too early, or has invalid content.
    #[error("is broken after packet {packets}{}: {what}", at(*offset))]
    Broken {
        /// Number of packets before.
        packets: u64,
        /// Offset of the damage in bytes, if it is known.
        offset: Option<u64>,
        /// Description of the damage.
        what: String,
    },
    /// Reading failed; the content of the file was not the cause.
    #[error("was read up to packet {packets} only: {what}")]
    Unread {
        /// Number of packets before.
        packets: u64,
        /// The reason.
        what: String,
    },
    /// A link type that cannot be read.
    #[error(
        "has link type {0}, which cannot be read; known are raw IP (101, 228, 229), Ethernet (1), Linux cooked (113, 276), \
         loopback (0, 108), PPP (9, 50, 204), PPPoE (51) and Cisco HDLC (104)"
    )]
    UnknownLink(LinkType),
}

fn at(offset: Option<u64>) -> String {
    offset.map_or(String::new(), |offset| format!(" (byte {offset})"))
}

/// The reason for the end of reading.
#[derive(Debug)]
enum Fault {
    Read(std::io::Error),
    Broken { offset: u64, what: String },
}

impl Fault {
    fn broken(offset: u64, what: impl Into<String>) -> Self {
        Self::Broken { offset, what: what.into() }
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::Read(error)
    }
}

/// The description of an interface, as far as it is needed.
#[derive(Debug, Clone, Copy)]
struct Description {
    /// Its number over all sections.
    index: u32,
    number: LinkType,
    link: Option<Link>,
    snaplen: u32,
    fcs: u8,
    /// The value of the option: a power of ten, or with the highest bit a power of two.
    resolution: u8,
    /// Offset in seconds.
    offset: i64,
}

impl Description {
    fn new(index: u32, number: LinkType, snaplen: u32, order: Order, notes: &[u8]) -> Self {
        let link = Link::of(number);
        let mut description = Self { index, number, link, snaplen, fcs: 0, resolution: 6, offset: 0 };
        for (code, value) in options::each(order, notes) {
            match (code, value) {
                (IF_TSRESOL, &[resolution]) => description.resolution = resolution,
                (IF_FCSLEN, &[fcs]) => description.fcs = fcs,
                (IF_TSOFFSET, value) if value.len() == 8 => {
                    description.offset = order.u64(value, 0).cast_signed();
                }
                _ => {}
            }
        }
        description
    }

    /// The time since 1970 for a number of units. Earlier times become 1970.
    #[inline]
    fn time(&self, units: u64) -> Duration {
        const NANOS: u128 = 1_000_000_000;
        let exponent = u32::from(self.resolution & 0x7f);
        let nanos = if self.resolution & 0x80 != 0 {
            (u128::from(units) * NANOS) >> exponent
        } else if exponent <= 9 {
            u128::from(units) * 10_u128.pow(9 - exponent)
        } else {
            10_u128.checked_pow(exponent - 9).map_or(0, |parts| u128::from(units) / parts)
        };
        let seconds = i128::try_from(nanos / NANOS).unwrap_or(i128::MAX).saturating_add(self.offset.into());
        let nanos = u32::try_from(nanos % NANOS).unwrap_or_default();
        u64::try_from(seconds).map_or(Duration::ZERO, |seconds| Duration::new(seconds, nanos))
    }
}

/// An item that was read, with offsets into a separate buffer.
#[derive(Debug, Clone, Copy)]
enum Head {
    Packet(Start),
    /// The interface, and the offset of its options. The next variant has the same fields.
    Section {
        order: Order,
        options: usize,
    },
    Interface(Description, usize),
    Block {
        kind: u32,
        interface: Option<u32>,
    },
}

/// A packet, with offsets into a separate buffer.
#[derive(Debug, Clone, Copy)]
struct Start {
    at: Duration,
    original: u32,
    interface: u32,
    data: (usize, usize),
    options: usize,
}

#[derive(Debug)]
enum Reader {
    Pcap(Pcap),
    PcapNg(PcapNg),
}

/// A capture that is being read.
#[derive(Debug)]
pub struct Source<R: Read> {
    input: Input<R>,
    failure: Failure,
    reader: Reader,
    interfaces: Vec<Description>,
    /// Byte order of the section.
    order: Order,
    packets: u64,
    /// The last item.
    data: Vec<u8>,
    /// Items that were read ahead.
    ahead: VecDeque<(Head, Order, Vec<u8>)>,
}

impl<R: Read> Source<R> {
    /// A capture in `input`. Its first bytes show its format.
    ///
    /// # Errors
    /// If it is no capture, or a pcap file with a link type that cannot be read.
    pub fn new(input: R) -> Result<Self, SourceError> {
        let (mut input, failure) = Input::new(input).map_err(SourceError::Read)?;
        let told = |fault| told(fault, &failure, 0);
        let mut magic = Vec::with_capacity(4);
        input.append(4, &mut magic).map_err(|error| told(error.into()))?;
        let reader = if let Some(reader) = PcapNg::begin(&magic) {
            Reader::PcapNg(reader)
        } else if let Some(reader) = Pcap::begin(&magic, &mut input).map_err(told)? {
            Reader::Pcap(reader)
        } else {
            let found = match (magic.is_empty(), unpacker(&magic)) {
                (true, _) => "nothing: it is empty".to_owned(),
                (_, Some(unpacker)) => format!("compressed data; unpack it first, with {unpacker}"),
                _ => format!("the bytes {magic:02x?}"),
            };
            return Err(SourceError::NotACapture(found));
        };
        let mut source = Self {
            input,
            failure,
            reader,
            interfaces: Vec::new(),
            order: Order::Little,
            packets: 0,
            data: Vec::new(),
            ahead: VecDeque::new(),
        };
        if matches!(source.reader, Reader::Pcap(_)) {
            // Its only interface.
            source.read_ahead()?;
            let number = source.interfaces.first().map_or(LinkType::RAW, |interface| interface.number);
            Link::of(number).ok_or(SourceError::UnknownLink(number))?;
        }
        Ok(source)
    }

    /// Whether it is a pcapng file.
    pub const fn is_pcapng(&self) -> bool {
        matches!(self.reader, Reader::PcapNg(..))
    }

    /// Reads ahead up to the first packet, and returns its link type and the length of its frame check sequence; those of the first
    /// interface if there is no packet. [`Self::next`] returns the items later.
    ///
    /// # Errors
    /// If the file is broken before the first packet is whole.
    pub fn peek(&mut self) -> Result<(LinkType, u8), SourceError> {
        let is_packet = |item: &(Head, Order, Vec<u8>)| matches!(item.0, Head::Packet(_));
        while !self.ahead.iter().any(is_packet) {
            if !self.read_ahead()? {
                break;
            }
        }
        let first = self.ahead.iter().find_map(|(head, ..)| match head {
            Head::Packet(start) => Some(start.interface),
            _ => None,
        });
        let described = self.interfaces.get(first.unwrap_or(0) as usize);
        Ok(described.map_or((LinkType::RAW, 0), |described| (described.number, described.fcs)))
    }

    /// False at the end.
    fn read_ahead(&mut self) -> Result<bool, SourceError> {
        let Some(head) = self.read() else { return Ok(false) };
        self.ahead.push_back((head?, self.order, std::mem::take(&mut self.data)));
        Ok(true)
    }

    /// Packets read so far.
    pub const fn packets(&self) -> u64 {
        self.packets
    }

    /// Calls `each` with the next item; `None` at the end of the file.
    ///
    /// # Errors
    /// If the file cannot be read, or is damaged here. It must not be called again after an error.
    pub fn next<T>(&mut self, each: impl FnOnce(Item<'_>) -> T) -> Option<Result<T, SourceError>> {
        if let Some((head, order, data)) = self.ahead.pop_front() {
            return Some(Ok(each(item(&head, order, &data, &self.interfaces))));
        }
        match self.read()? {
            Ok(head) => Some(Ok(each(item(&head, self.order, &self.data, &self.interfaces)))),
            Err(error) => Some(Err(error)),
        }
    }

    #[inline]
    fn read(&mut self) -> Option<Result<Head, SourceError>> {
        let read = match &mut self.reader {
            Reader::Pcap(reader) => reader.next(&mut self.input, &mut self.data),
            Reader::PcapNg(reader) => reader.next(&mut self.input, &mut self.data, &self.interfaces),
        };
        let head = match read {
            Ok(head) => head?,
            Err(fault) => return Some(Err(told(fault, &self.failure, self.packets))),
        };
        match head {
            Head::Packet(_) => self.packets += 1,
            Head::Section { order, .. } => self.order = order,
            Head::Interface(description, _) => self.interfaces.push(description),
            Head::Block { .. } => {}
        }
        Some(Ok(head))
    }
}

/// The item that was read, with its bytes.
#[inline]
fn item<'a>(head: &Head, order: Order, data: &'a [u8], interfaces: &[Description]) -> Item<'a> {
    let notes = |start: usize| Notes { order, options: &data[start..] };
    match *head {
        Head::Packet(start) => {
            let interface = &interfaces[start.interface as usize];
            Item::Packet(Frame {
                at: start.at,
                original: start.original,
                data: &data[start.data.0..start.data.1],
                interface: start.interface,
                number: interface.number,
                link: interface.link,
                fcs: interface.fcs,
                notes: notes(start.options),
            })
        }
        Head::Section { options, .. } => Item::Section(notes(options)),
        Head::Interface(description, options) => Item::Interface(Interface {
            index: description.index,
            number: description.number,
            snaplen: description.snaplen,
            notes: notes(options),
        }),
        Head::Block { kind, interface } => Item::Block(Block { kind, interface, body: data }),
    }
}

fn told(fault: Fault, failure: &Failure, packets: u64) -> SourceError {
    if let Some(what) = failure.borrow().clone() {
        return SourceError::Unread { packets, what };
    }
    match fault {
        Fault::Read(error) => SourceError::Broken { packets, offset: None, what: error.to_string() },
        Fault::Broken { offset, what } => SourceError::Broken { packets, offset: Some(offset), what },
    }
}
