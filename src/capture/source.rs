//! Packets out of a pcap or pcapng file, one at a time.

use std::error::Error;
use std::io::{Cursor, ErrorKind, Read};
use std::time::Duration;

use pcap_file::DataLink;
use pcap_file::pcap::{PcapReader, PcapTsResolution};
use pcap_file::pcapng::{Block, PcapNgReader};

use crate::capture::link::Link;

/// A packet as it stands in a capture.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Time since 1970.
    pub at: Duration,
    /// Length on the wire in bytes, at least that of `data`.
    pub original: u32,
    /// What was captured, link-layer header first.
    pub data: &'a [u8],
    /// The interface it was captured on, counted from 0 over all sections of the file.
    pub interface: u32,
    /// Its link type as the file has it.
    pub number: DataLink,
    /// Its link type.
    pub link: Link,
}

/// Why a file is no capture, or no longer one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[source] std::io::Error),
    /// It does not begin as a capture does.
    #[error("is not a capture: it begins with {0}; pcap and pcapng files can be read")]
    NotACapture(String),
    /// It ends too early or contains what cannot be.
    #[error("is broken after packet {packets}{}: {what}", at(*offset))]
    Broken {
        /// Packets before.
        packets: u64,
        /// Byte at which it is broken, where that is known.
        offset: Option<u64>,
        /// How.
        what: String,
    },
    /// Its packets do not come any more: not for its own fault.
    #[error("was read up to packet {packets} only: {what}")]
    Unread {
        /// Packets before.
        packets: u64,
        /// Why.
        what: String,
    },
    /// A link type that cannot be read.
    #[error(
        "interface {interface} has link type {number}, which cannot be read; known are raw IP (101, 228, 229), Ethernet \
         (1), Linux cooked (113, 276) and loopback (0, 108)"
    )]
    UnknownLink {
        /// The interface.
        interface: u32,
        /// The number of the link type.
        number: u32,
    },
}

fn at(offset: Option<u64>) -> String {
    offset.map_or(String::new(), |offset| format!(" (byte {offset})"))
}

type Input<R> = std::io::Chain<Cursor<Vec<u8>>, R>;

/// A capture that is being read.
#[derive(Debug)]
pub struct Source<R: Read> {
    reader: Reader<R>,
    packets: u64,
    /// Time of the last packet that had one: simple packets have none.
    last: Duration,
    /// The packet that was read ahead.
    ahead: Option<(Vec<u8>, Frame<'static>)>,
}

#[derive(Debug)]
enum Reader<R: Read> {
    /// And the byte at which the next packet begins.
    Pcap(Box<PcapReader<Input<R>>>, u64),
    /// And the number of interfaces of earlier sections.
    PcapNg(Box<PcapNgReader<Input<R>>>, u32),
}

/// Bytes of a pcap file's header, and of a packet's in it.
const PCAP_HEADER: u64 = 24;
const PCAP_PACKET: u64 = 16;

impl<R: Read> Source<R> {
    /// A capture in `input`, whose first bytes tell its format.
    ///
    /// # Errors
    /// If it is none, or of a link type that cannot be read.
    pub fn new(mut input: R) -> Result<Self, SourceError> {
        let mut magic = Vec::with_capacity(4);
        (&mut input).take(4).read_to_end(&mut magic).map_err(SourceError::Read)?;
        let first = magic.clone();
        let chained = Cursor::new(magic).chain(input);
        let wrong =
            |error: &dyn Error| SourceError::Broken { packets: 0, offset: Some(0), what: reasons(error) };
        let reader = match *first.as_slice() {
            [0xd4, 0xc3, 0xb2, 0xa1]
            | [0xa1, 0xb2, 0xc3, 0xd4]
            | [0x4d, 0x3c, 0xb2, 0xa1]
            | [0xa1, 0xb2, 0x3c, 0x4d] => {
                let reader = PcapReader::new(chained).map_err(|error| wrong(&error))?;
                known(0, reader.header().datalink)?;
                Reader::Pcap(Box::new(reader), PCAP_HEADER)
            }
            [0x0a, 0x0d, 0x0d, 0x0a] => {
                Reader::PcapNg(Box::new(PcapNgReader::new(chained).map_err(|error| wrong(&error))?), 0)
            }
            [] => return Err(SourceError::NotACapture("nothing: it is empty".to_owned())),
            _ => return Err(SourceError::NotACapture(format!("the bytes {first:02x?}"))),
        };
        Ok(Self { reader, packets: 0, last: Duration::ZERO, ahead: None })
    }

    /// Whether it is a pcapng file.
    pub const fn is_pcapng(&self) -> bool {
        matches!(self.reader, Reader::PcapNg(..))
    }

    /// Reads the first packet ahead; its link type, or if there is none that of the file. [`Self::next`] gives the packet.
    ///
    /// # Errors
    /// If the file is broken before the first packet is whole, or that is of a link type that cannot be read.
    pub fn peek(&mut self) -> Result<DataLink, SourceError> {
        if self.ahead.is_none() {
            let ahead = self.next(|frame| (frame.data.to_vec(), Frame { data: &[], ..frame }));
            self.ahead = ahead.transpose()?;
        }
        Ok(match (&self.ahead, &self.reader) {
            (Some((_, frame)), _) => frame.number,
            (None, Reader::Pcap(reader, _)) => reader.header().datalink,
            (None, Reader::PcapNg(..)) => DataLink::RAW,
        })
    }

    /// Packets read so far.
    pub const fn packets(&self) -> u64 {
        self.packets
    }

    /// Gives the next packet to `each`; `None` at the end of the file.
    ///
    /// # Errors
    /// If the file cannot be read or is broken here. It must not be asked again after that.
    pub fn next<T>(&mut self, each: impl FnOnce(Frame<'_>) -> T) -> Option<Result<T, SourceError>> {
        if let Some((data, frame)) = self.ahead.take() {
            return Some(Ok(each(Frame { data: &data, ..frame })));
        }
        let packets = self.packets;
        let broken = |offset, what| SourceError::Broken { packets, offset, what };
        let failed = |offset, error: &(dyn Error + 'static)| match unread(error) {
            Some(error) => SourceError::Unread { packets, what: error.to_string() },
            None => broken(offset, reasons(error)),
        };
        match &mut self.reader {
            Reader::Pcap(reader, offset) => {
                let header = reader.header();
                let raw = match reader.next_raw_packet()? {
                    Ok(raw) => raw,
                    Err(error) => return Some(Err(failed(Some(*offset), &error))),
                };
                let unit = match header.ts_resolution {
                    PcapTsResolution::MicroSecond => 1_000,
                    PcapTsResolution::NanoSecond => 1,
                };
                let Some(nanos) = raw.ts_frac.checked_mul(unit).filter(|nanos| *nanos < 1_000_000_000) else {
                    let what = format!("{} is no fraction of a second", raw.ts_frac);
                    return Some(Err(broken(Some(*offset), what)));
                };
                let link = match known(0, header.datalink) {
                    Ok(link) => link,
                    Err(error) => return Some(Err(error)),
                };
                self.packets += 1;
                *offset += PCAP_PACKET + u64::from(raw.incl_len);
                let frame = Frame {
                    at: Duration::new(raw.ts_sec.into(), nanos),
                    original: raw.orig_len.max(raw.incl_len),
                    data: &raw.data,
                    interface: 0,
                    number: header.datalink,
                    link,
                };
                Some(Ok(each(frame)))
            }
            Reader::PcapNg(reader, earlier) => loop {
                let interfaces = reader.interfaces().len() as u32;
                let (block, state) = match reader.next_block()? {
                    Ok(next) => next,
                    Err(error) => return Some(Err(failed(None, &error))),
                };
                let (index, at, original, data) = match block {
                    Block::SectionHeader(_) => {
                        *earlier += interfaces;
                        continue;
                    }
                    Block::EnhancedPacket(packet) => {
                        (packet.interface_id, packet.timestamp, packet.original_len, packet.data)
                    }
                    Block::SimplePacket(packet) => (0, self.last, packet.original_len, packet.data),
                    _ => continue,
                };
                let Some(description) = state.interfaces().get(index as usize) else {
                    return Some(Err(broken(None, format!("there is no interface {index}"))));
                };
                let interface = *earlier + index;
                let link = match known(interface, description.linktype) {
                    Ok(link) => link,
                    Err(error) => return Some(Err(error)),
                };
                self.packets += 1;
                self.last = at;
                let number = description.linktype;
                return Some(Ok(each(Frame { at, original, data: &data, interface, number, link })));
            },
        }
    }
}

fn known(interface: u32, number: DataLink) -> Result<Link, SourceError> {
    Link::of(number).ok_or_else(|| SourceError::UnknownLink { interface, number: number.into() })
}

/// The failure to read at all that caused this error; that a file ends too early is none.
fn unread<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a std::io::Error> {
    std::iter::successors(Some(error), |&error| error.source())
        .find_map(|error| error.downcast_ref::<std::io::Error>())
        .filter(|error| error.kind() != ErrorKind::UnexpectedEof)
}

/// An error and what caused it.
fn reasons(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A pcap file of raw IP by hand: `magic`, then packets of (seconds, fraction, captured, original).
    fn pcap(magic: [u8; 4], big: bool, link: u32, packets: &[(u32, u32, &[u8], u32)]) -> Vec<u8> {
        let word = |value: u32| if big { value.to_be_bytes() } else { value.to_le_bytes() };
        let half = |value: u16| if big { value.to_be_bytes() } else { value.to_le_bytes() };
        let mut file = [&magic[..], &half(2), &half(4), &word(0), &word(0), &word(96), &word(link)].concat();
        for (seconds, fraction, data, original) in packets {
            let head = [word(*seconds), word(*fraction), word(data.len() as u32), word(*original)].concat();
            file.extend([&head[..], data].concat());
        }
        file
    }

    /// Time, length on the wire, bytes, interface.
    type Read = (Duration, u32, Vec<u8>, u32);

    fn read(file: &[u8]) -> (Vec<Read>, Option<String>) {
        let mut source = match Source::new(file) {
            Ok(source) => source,
            Err(error) => return (Vec::new(), Some(error.to_string())),
        };
        let mut frames = Vec::new();
        loop {
            match source.next(|frame| (frame.at, frame.original, frame.data.to_vec(), frame.interface)) {
                None => return (frames, None),
                Some(Ok(frame)) => frames.push(frame),
                Some(Err(error)) => return (frames, Some(error.to_string())),
            }
        }
    }

    #[test]
    fn both_byte_orders_and_resolutions_are_read() {
        let packets: [(u32, u32, &[u8], u32); 2] = [(7, 999_999, b"abc", 3), (8, 1, b"defg", 90)];
        for (magic, big, nanos) in [
            ([0xd4, 0xc3, 0xb2, 0xa1], false, 999_999_000),
            ([0xa1, 0xb2, 0xc3, 0xd4], true, 999_999_000),
            ([0x4d, 0x3c, 0xb2, 0xa1], false, 999_999),
            ([0xa1, 0xb2, 0x3c, 0x4d], true, 999_999),
        ] {
            let (frames, error) = read(&pcap(magic, big, 101, &packets));
            assert_eq!(error, None);
            assert_eq!(frames[0], (Duration::new(7, nanos), 3, b"abc".to_vec(), 0));
            assert_eq!((frames[1].1, frames.len()), (90, 2));
        }
    }

    #[test]
    fn a_file_that_ends_early_gives_what_was_whole_and_says_where() {
        let file = pcap([0xd4, 0xc3, 0xb2, 0xa1], false, 101, &[(1, 0, b"abcd", 4), (2, 0, b"efgh", 4)]);
        let (frames, error) = read(&file[..file.len() - 1]);
        let error = error.unwrap();
        assert_eq!(frames.len(), 1);
        assert!(error.contains("after packet 1 (byte 44)"), "{error}");
    }

    #[test]
    fn what_is_no_capture_is_refused() {
        for (file, word) in [
            (&b""[..], "it is empty"),
            (b"hello, world, this is no capture", "not a capture"),
            (&[0xd4, 0xc3, 0xb2, 0xa1, 2, 0], "broken"),
        ] {
            let (frames, error) = read(file);
            assert!(frames.is_empty() && error.clone().unwrap().contains(word), "{error:?}");
        }
        let wifi = pcap([0xd4, 0xc3, 0xb2, 0xa1], false, 105, &[]);
        let error = read(&wifi).1.unwrap();
        assert!(error.contains("link type 105") && error.contains("Ethernet"), "{error}");
    }

    /// A pcapng file by hand, little-endian: blocks of a type and a body.
    fn pcapng(blocks: &[(u32, Vec<u8>)]) -> Vec<u8> {
        let block = |(kind, body): &(u32, Vec<u8>)| {
            let length = (12 + body.len()).to_le_bytes();
            [&kind.to_le_bytes()[..], &length[..4], body, &length[..4]].concat()
        };
        blocks.iter().flat_map(block).collect()
    }

    fn section() -> (u32, Vec<u8>) {
        let body = [&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat();
        (0x0a0d_0d0a, body)
    }

    /// With times in units of 10^-`resolution` s after `offset` s.
    fn interface(link: u16, resolution: u8, offset: i64) -> (u32, Vec<u8>) {
        let head = [&link.to_le_bytes()[..], &[0, 0], &[0; 4]].concat();
        let options =
            [&[9, 0, 1, 0, resolution, 0, 0, 0][..], &[14, 0, 8, 0], &offset.to_le_bytes(), &[0; 4]].concat();
        (1, [head, options].concat())
    }

    fn enhanced(interface: u32, units: u64, data: [u8; 4]) -> (u32, Vec<u8>) {
        let words = [interface, (units >> 32) as u32, units as u32, 4, 60];
        let head: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        (6, [&head[..], &data].concat())
    }

    #[test]
    fn a_pcapng_file_has_interfaces_with_times_of_their_own() {
        let file = pcapng(&[
            section(),
            interface(1, 6, 0),
            interface(101, 9, 100),
            enhanced(0, 5_000_001, *b"aaaa"),
            (0xbad, vec![0; 8]),
            enhanced(1, 7, *b"bbbb"),
            (3, [&4_u32.to_le_bytes()[..], b"cccc"].concat()),
            section(),
            interface(113, 3, -2),
            enhanced(0, 3_500, *b"dddd"),
        ]);
        let (frames, error) = read(&file);
        assert_eq!(error, None);
        let times: Vec<_> = frames.iter().map(|frame| (frame.0, frame.3)).collect();
        let expected = [
            (Duration::from_micros(5_000_001), 0),
            (Duration::from_secs(100) + Duration::from_nanos(7), 1),
            (Duration::from_secs(100) + Duration::from_nanos(7), 0),
            (Duration::from_millis(1_500), 2),
        ];
        assert_eq!(times, expected);
        let (frames, error) = read(&pcapng(&[section(), enhanced(0, 1, *b"aaaa")]));
        assert!(frames.is_empty() && error.is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever stands in a file, reading it ends.
        #[test]
        fn no_file_panics(start in 0..3_usize, noise in proptest::collection::vec(any::<u8>(), 0..300), flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..6)) {
            let mut file = match start {
                0 => pcap([0xd4, 0xc3, 0xb2, 0xa1], false, 101, &[(1, 0, b"abcd", 4)]),
                1 => pcapng(&[section(), interface(1, 6, 0), enhanced(0, 5, *b"aaaa")]),
                _ => Vec::new(),
            };
            for (at, byte) in flips {
                if !file.is_empty() {
                    let at = at % file.len();
                    file[at] = byte;
                }
            }
            file.extend(noise);
            read(&file);
        }
    }
}
