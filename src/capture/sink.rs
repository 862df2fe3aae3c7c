//! Writes packets to a pcap or pcapng file, with the same bytes on every machine.

use std::io::Write;
use std::time::Duration;

use crate::capture::bytes::{Order, halves, length32, padded};
use crate::capture::link::LinkType;
use crate::capture::options::{self, COMMENT, EPB_FLAGS, IF_TSOFFSET, IF_TSRESOL, Owner};
use crate::capture::source::{Block, Interface, Notes, block};

/// The longest packet according to the headers of the files.
const SNAPLEN: u32 = 262_144;
/// Nanoseconds, as the value of an interface's option.
const NANO: u8 = 9;

/// A capture format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The classic format, with nanoseconds. A file has one link type.
    Pcap,
    /// The next generation, with several interfaces and comments.
    PcapNg,
}

/// A packet to be written.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Time since 1970.
    pub at: Duration,
    /// Length on the wire, at least that of `data`.
    pub original: u32,
    /// The bytes that the file has of it.
    pub data: &'a [u8],
    /// Interface that it was captured on, as [`crate::capture::Frame::interface`].
    pub interface: u32,
    /// Link type.
    pub number: LinkType,
    /// Metadata from its capture.
    pub notes: Notes<'a>,
    /// An additional comment; pcap files have none.
    pub comment: Option<&'a str>,
}

/// Errors of writing a packet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The output cannot be written.
    #[error("cannot be written: {0}")]
    Write(#[from] std::io::Error),
    /// A second link type.
    #[error(
        "cannot hold link types {0} and {1} both, as every pcap file; name it .pcapng to have one that can"
    )]
    SecondLink(LinkType, LinkType),
    /// The format cannot represent the time.
    #[error("cannot hold a packet {seconds} s after 1970; {1}", seconds = .0.as_secs())]
    Time(Duration, &'static str),
}

/// A capture that is being written.
pub struct Sink<W: Write> {
    output: W,
    writer: Writer,
    /// The next bytes to write.
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum Writer {
    Pcap(LinkType),
    PcapNg(Section),
}

/// The section that is being written.
#[derive(Debug)]
struct Section {
    /// Its byte order; `None` before the first.
    order: Option<Order>,
    /// Interfaces written in it.
    count: u32,
    /// For each interface of the source: its description, and its number in this section.
    interfaces: Vec<(Option<Known>, Option<u32>)>,
}

/// An interface, to be described again in another section.
#[derive(Debug)]
struct Known {
    number: LinkType,
    snaplen: u32,
    order: Order,
    options: Vec<u8>,
}

impl<W: Write> std::fmt::Debug for Sink<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").finish_non_exhaustive()
    }
}

impl Sink<Vec<u8>> {
    /// As [`Self::write`], but without a copy in between. `rest` follows the data of the packet. Only for pcapng.
    ///
    /// # Errors
    /// If the format cannot represent the time of the packet.
    pub(super) fn append(&mut self, record: &Record<'_>, rest: &[u8]) -> Result<(), SinkError> {
        match &mut self.writer {
            Writer::PcapNg(section) => section.packet(&mut self.output, record, rest),
            Writer::Pcap(number) => Err(SinkError::SecondLink(*number, record.number)),
        }
    }
}

impl<W: Write> Sink<W> {
    /// A capture of `format` in `output`. If it is a pcap file, it has link type `number`, with `fcs` bytes of frame check sequence
    /// behind each packet.
    ///
    /// # Errors
    /// If `output` cannot be written.
    pub fn new(output: W, format: Format, number: LinkType, fcs: u8) -> Result<Self, SinkError> {
        let (mut output, buffer) = (output, Vec::new());
        let writer = match format {
            Format::Pcap => {
                output.write_all(&pcap_header(number, fcs))?;
                Writer::Pcap(number)
            }
            Format::PcapNg => Writer::PcapNg(Section { order: None, count: 0, interfaces: Vec::new() }),
        };
        Ok(Self { output, writer, buffer })
    }

    /// Writes one packet; false if the format cannot hold the metadata of the source.
    ///
    /// # Errors
    /// If the output cannot be written, or cannot hold it.
    pub fn write(&mut self, record: &Record<'_>) -> Result<bool, SinkError> {
        self.buffer.clear();
        let kept = match &mut self.writer {
            Writer::Pcap(number) => {
                if *number != record.number {
                    return Err(SinkError::SecondLink(*number, record.number));
                }
                let late = || SinkError::Time(record.at, "name the file .pcapng to have one that can");
                let seconds = u32::try_from(record.at.as_secs()).map_err(|_| late())?;
                let captured = length32(record.data.len());
                for number in [seconds, record.at.subsec_nanos(), captured, record.original] {
                    self.buffer.extend(number.to_le_bytes());
                }
                self.buffer.extend(record.data);
                has_flags_only(record.notes)
            }
            Writer::PcapNg(section) => {
                section.packet(&mut self.buffer, record, &[])?;
                true
            }
        };
        self.output.write_all(&self.buffer)?;
        Ok(kept)
    }

    /// Begins a section as in the source; false if the format cannot hold the metadata of the source.
    ///
    /// # Errors
    /// If the output cannot be written, or cannot hold it.
    pub fn section(&mut self, notes: Notes<'_>) -> Result<bool, SinkError> {
        let Writer::PcapNg(section) = &mut self.writer else { return Ok(notes.options.is_empty()) };
        self.buffer.clear();
        section.begin(&mut self.buffer, notes);
        self.output.write_all(&self.buffer)?;
        Ok(true)
    }

    /// Describes an interface of the source, with times in nanoseconds; false if the format cannot hold the metadata of the source.
    ///
    /// # Errors
    /// If the output cannot be written, or cannot hold it.
    pub fn interface(&mut self, interface: &Interface<'_>) -> Result<bool, SinkError> {
        let Writer::PcapNg(section) = &mut self.writer else {
            let about_times = |code| matches!(code, IF_TSRESOL | IF_TSOFFSET | options::IF_FCSLEN);
            let mut notes = options::each(interface.notes.order, interface.notes.options);
            return Ok(notes.all(|(code, _)| about_times(code)));
        };
        self.buffer.clear();
        let Interface { index, number, snaplen, notes } = *interface;
        let known = Known { number, snaplen, order: notes.order, options: notes.options.to_vec() };
        let seat = section.seat(index);
        *seat = (Some(known), None);
        section.id(&mut self.buffer, index, number);
        self.output.write_all(&self.buffer)?;
        Ok(true)
    }

    /// Copies a block of the source; false if the format cannot hold it.
    ///
    /// # Errors
    /// If the output cannot be written, or cannot hold it.
    pub fn block(&mut self, other: &Block<'_>) -> Result<bool, SinkError> {
        let Writer::PcapNg(section) = &mut self.writer else { return Ok(false) };
        self.buffer.clear();
        let order = section.order(&mut self.buffer);
        let id = other.interface.map(|index| section.id(&mut self.buffer, index, LinkType::RAW));
        let start = open(order, &mut self.buffer, other.kind);
        self.buffer.extend(other.body);
        if let Some(id) = id
            && let Some(place) = self.buffer.get_mut(start + 8..start + 12)
        {
            place.copy_from_slice(&order.bytes32(id));
        }
        close(order, &mut self.buffer, start);
        self.output.write_all(&self.buffer)?;
        Ok(true)
    }

    /// The output.
    pub(super) const fn output(&mut self) -> &mut W {
        &mut self.output
    }

    /// Ends the file.
    ///
    /// # Errors
    /// If what was buffered cannot be written.
    pub fn finish(mut self) -> Result<W, SinkError> {
        if let Writer::PcapNg(section) = &mut self.writer {
            self.buffer.clear();
            section.order(&mut self.buffer);
            self.output.write_all(&self.buffer)?;
        }
        self.output.flush()?;
        Ok(self.output)
    }
}

fn pcap_header(number: LinkType, fcs: u8) -> Vec<u8> {
    let fcs = u32::from(fcs) / 2;
    let fcs = if fcs == 0 { 0 } else { fcs << 28 | 0x0400_0000 };
    let mut header = vec![0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header.extend(SNAPLEN.to_le_bytes());
    header.extend((number.0 | fcs).to_le_bytes());
    header
}

/// True if there are only flags, which say how a packet was received: no user needs them.
fn has_flags_only(notes: Notes<'_>) -> bool {
    notes.options.is_empty() || options::each(notes.order, notes.options).all(|(code, _)| code == EPB_FLAGS)
}

/// Begins a block, and returns its offset.
fn open(order: Order, out: &mut Vec<u8>, kind: u32) -> usize {
    let start = out.len();
    out.extend(order.bytes32(kind));
    out.extend([0; 4]);
    start
}

/// Ends the block that begins at `start`.
fn close(order: Order, out: &mut Vec<u8>, start: usize) {
    out.resize(start + padded(out.len() - start), 0);
    let length = order.bytes32(length32(out.len() - start + 4));
    out.extend(length);
    out[start + 4..start + 8].copy_from_slice(&length);
}

impl Section {
    /// Byte order of the section. Begins a section if there is none.
    fn order(&mut self, out: &mut Vec<u8>) -> Order {
        if let Some(order) = self.order {
            return order;
        }
        self.begin(out, Notes::NONE);
        Notes::NONE.order
    }

    fn begin(&mut self, out: &mut Vec<u8>, notes: Notes<'_>) {
        let order = notes.order;
        (self.order, self.count) = (Some(order), 0);
        for (_, id) in &mut self.interfaces {
            *id = None;
        }
        let start = open(order, out, block::SECTION);
        out.extend(order.bytes32(0x1a2b_3c4d));
        out.extend([order.bytes16(1), order.bytes16(0)].concat());
        // Its length is not known.
        out.extend([0xff; 8]);
        out.extend(notes.options);
        close(order, out, start);
    }

    fn seat(&mut self, index: u32) -> &mut (Option<Known>, Option<u32>) {
        let index = index as usize;
        if self.interfaces.len() <= index {
            self.interfaces.resize_with(index + 1, || (None, None));
        }
        &mut self.interfaces[index]
    }

    /// The number of an interface in this section. Describes the interface if that has not been done.
    fn id(&mut self, out: &mut Vec<u8>, index: u32, number: LinkType) -> u32 {
        if let Some((_, Some(id))) = self.interfaces.get(index as usize) {
            return *id;
        }
        let (order, id) = (self.order(out), self.count);
        self.count += 1;
        let start = open(order, out, block::INTERFACE);
        let (known, seat) = self.seat(index);
        *seat = Some(id);
        let unknown = Known { number, snaplen: SNAPLEN, order, options: Vec::new() };
        let known = known.as_ref().unwrap_or(&unknown);
        out.extend([order.bytes16(u16::try_from(known.number.0).unwrap_or(u16::MAX)), [0; 2]].concat());
        out.extend(order.bytes32(known.snaplen));
        let list = out.len();
        options::put(order, out, IF_TSRESOL, &[NANO]);
        for (code, value) in options::each(known.order, &known.options) {
            if !matches!(code, IF_TSRESOL | IF_TSOFFSET) {
                options::put_in(Owner::Interface, known.order, order, out, code, value);
            }
        }
        options::end(out, list);
        close(order, out, start);
        id
    }

    #[inline]
    fn packet(&mut self, out: &mut Vec<u8>, record: &Record<'_>, rest: &[u8]) -> Result<(), SinkError> {
        let late = || SinkError::Time(record.at, "no capture can");
        let nanos = u64::try_from(record.at.as_nanos()).map_err(|_| late())?;
        let order = self.order(out);
        let id = self.id(out, record.interface, record.number);
        let start = open(order, out, block::ENHANCED);
        let captured = length32(record.data.len() + rest.len());
        let [high, low] = halves(nanos);
        out.extend(
            [id, high, low, captured, record.original].map(|number| order.bytes32(number)).as_flattened(),
        );
        out.extend(record.data);
        out.extend(rest);
        out.resize(start + padded(out.len() - start), 0);
        let list = out.len();
        for (code, value) in options::each(record.notes.order, record.notes.options) {
            options::put_in(Owner::Packet, record.notes.order, order, out, code, value);
        }
        if let Some(comment) = record.comment {
            options::put(order, out, COMMENT, comment.as_bytes());
        }
        options::end(out, list);
        close(order, out, start);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{Frame, Item, Source};

    fn record(interface: u32, number: u32, comment: Option<&str>) -> Record<'_> {
        let at = Duration::new(1_700_000_000, 123_456_789);
        Record {
            at,
            original: 90,
            data: b"0123456789",
            interface,
            number: LinkType(number),
            notes: Notes::NONE,
            comment,
        }
    }

    /// Maps the packets of a file by `each`.
    fn packets<T>(file: &[u8], each: impl Fn(Frame<'_>) -> T) -> Vec<T> {
        let mut source = Source::new(file).unwrap();
        let packet = |item: Item<'_>| match item {
            Item::Packet(frame) => Some(each(frame)),
            _ => None,
        };
        std::iter::from_fn(|| source.next(packet)).filter_map(Result::unwrap).collect()
    }

    #[test]
    fn what_is_written_is_read_again() {
        for format in [Format::Pcap, Format::PcapNg] {
            let mut sink = Sink::new(Vec::new(), format, LinkType::RAW, 0).unwrap();
            sink.write(&record(0, 101, None)).unwrap();
            sink.write(&record(0, 101, Some("why"))).unwrap();
            let file = sink.finish().unwrap();
            let read = packets(&file, |frame| (frame.at, frame.original, frame.data.to_vec()));
            let expected = (record(0, 101, None).at, 90, b"0123456789".to_vec());
            assert_eq!(read, [expected.clone(), expected]);
        }
    }

    #[test]
    fn a_pcap_file_has_one_link_type_and_pcapng_many() {
        let mut pcap = Sink::new(Vec::new(), Format::Pcap, LinkType::RAW, 0).unwrap();
        let error = pcap.write(&record(1, 1, None)).unwrap_err().to_string();
        assert!(error.contains("101 and 1") && error.contains(".pcapng"), "{error}");
        let late = Record { at: Duration::from_secs(1 << 33), ..record(0, 101, None) };
        assert!(matches!(pcap.write(&late), Err(SinkError::Time(..))));
        let mut pcapng = Sink::new(Vec::new(), Format::PcapNg, LinkType::RAW, 0).unwrap();
        for (interface, number) in [(3, 1), (0, 101), (3, 1)] {
            pcapng.write(&record(interface, number, None)).unwrap();
        }
        let file = pcapng.finish().unwrap();
        let links = packets(&file, |frame| (frame.interface, frame.number.0));
        assert_eq!(links, [(0, 1), (1, 101), (0, 1)]);
    }

    /// The expected bytes are constants: they must not depend on the machine.
    #[test]
    fn the_header_is_little_endian_with_nanoseconds() {
        let file = Sink::new(Vec::new(), Format::Pcap, LinkType::ETHERNET, 0).unwrap().finish().unwrap();
        let expected = [0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
        assert_eq!(file, expected);
    }
}
