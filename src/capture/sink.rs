//! Packets into a pcap or pcapng file, the same bytes on every machine.

use std::borrow::Cow;
use std::io::Write;
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapTsResolution, PcapWriter, RawPcapPacket};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
};
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::blocks::section_header::SectionHeaderBlock;
use pcap_file::{DataLink, Endianness};

/// Longest packet that the files announce.
const SNAPLEN: u32 = 262_144;

/// A capture format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The classic one, with nanoseconds. One link type a file.
    Pcap,
    /// The next generation: several interfaces, comments.
    PcapNg,
}

/// A packet to be written.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Time since 1970.
    pub at: Duration,
    /// Length on the wire, at least that of `data`.
    pub original: u32,
    /// What stands in the file.
    pub data: &'a [u8],
    /// Interface that it was captured on, as [`crate::capture::Frame::interface`].
    pub interface: u32,
    /// Link type.
    pub number: DataLink,
    /// What to say about it; pcap files say nothing.
    pub comment: Option<&'a str>,
}

/// Why a packet cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The file does not take it.
    #[error("cannot be written: {0}")]
    Write(String),
    /// A second link type.
    #[error(
        "cannot hold link types {0} and {1} both, as every pcap file; name it .pcapng to have one that can"
    )]
    SecondLink(u32, u32),
    /// A time that the format has no bits for.
    #[error("cannot hold a packet {} s after 1970, as every pcap file; name it .pcapng to have one that can", .0.as_secs())]
    Time(Duration),
}

/// A capture that is being written.
pub struct Sink<W: Write> {
    writer: Writer<W>,
}

enum Writer<W: Write> {
    Pcap(PcapWriter<W>, DataLink),
    /// And for each interface of the source its number here.
    PcapNg(PcapNgWriter<W>, Vec<Option<u32>>),
}

impl<W: Write> std::fmt::Debug for Sink<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").finish_non_exhaustive()
    }
}

impl<W: Write> Sink<W> {
    /// A capture of `format` in `output`, of link type `number` if it is a pcap file.
    ///
    /// # Errors
    /// If `output` cannot be written.
    pub fn new(output: W, format: Format, number: DataLink) -> Result<Self, SinkError> {
        let writer = match format {
            Format::Pcap => {
                let header = PcapHeader {
                    version_major: 2,
                    version_minor: 4,
                    ts_correction: 0,
                    ts_accuracy: 0,
                    snaplen: SNAPLEN,
                    datalink: number,
                    ts_resolution: PcapTsResolution::NanoSecond,
                    endianness: Endianness::Little,
                };
                Writer::Pcap(PcapWriter::with_header(output, header).map_err(failed)?, number)
            }
            Format::PcapNg => {
                let section = SectionHeaderBlock {
                    endianness: Endianness::Little,
                    major_version: 1,
                    minor_version: 0,
                    section_length: -1,
                    options: Vec::new(),
                };
                Writer::PcapNg(
                    PcapNgWriter::with_section_header(output, section).map_err(failed)?,
                    Vec::new(),
                )
            }
        };
        Ok(Self { writer })
    }

    /// Writes one packet.
    ///
    /// # Errors
    /// If the file does not take it.
    pub fn write(&mut self, record: &Record<'_>) -> Result<(), SinkError> {
        match &mut self.writer {
            Writer::Pcap(writer, number) => {
                if *number != record.number {
                    return Err(SinkError::SecondLink((*number).into(), record.number.into()));
                }
                let raw = RawPcapPacket {
                    ts_sec: u32::try_from(record.at.as_secs()).map_err(|_| SinkError::Time(record.at))?,
                    ts_frac: record.at.subsec_nanos(),
                    incl_len: record.data.len() as u32,
                    orig_len: record.original,
                    data: Cow::Borrowed(record.data),
                };
                writer.write_raw_packet(&raw).map_err(failed)?;
            }
            Writer::PcapNg(writer, interfaces) => {
                let interface_id = interface(writer, interfaces, record)?;
                let comment = |text| EnhancedPacketOption::Common(CommonOption::Comment(Cow::Borrowed(text)));
                let block = EnhancedPacketBlock {
                    interface_id,
                    timestamp: record.at,
                    original_len: record.original,
                    data: Cow::Borrowed(record.data),
                    options: record.comment.map(comment).into_iter().collect(),
                };
                writer.write_pcapng_block(block).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// If what was buffered cannot be written.
    pub fn finish(self) -> Result<W, SinkError> {
        let mut output = match self.writer {
            Writer::Pcap(writer, _) => writer.into_inner(),
            Writer::PcapNg(writer, _) => writer.into_inner(),
        };
        output.flush().map_err(|error| SinkError::Write(error.to_string()))?;
        Ok(output)
    }
}

/// The number here of the record's interface, which is described before its first packet.
fn interface<W: Write>(
    writer: &mut PcapNgWriter<W>,
    interfaces: &mut Vec<Option<u32>>,
    record: &Record<'_>,
) -> Result<u32, SinkError> {
    let index = record.interface as usize;
    if let Some(Some(number)) = interfaces.get(index) {
        return Ok(*number);
    }
    let description = InterfaceDescriptionBlock {
        linktype: record.number,
        snaplen: SNAPLEN,
        options: vec![InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO)],
    };
    let number = writer.interfaces().len() as u32;
    writer.write_pcapng_block(description).map_err(failed)?;
    if interfaces.len() <= index {
        interfaces.resize(index + 1, None);
    }
    interfaces[index] = Some(number);
    Ok(number)
}

fn failed(error: impl std::error::Error) -> SinkError {
    let cause = error.source().map_or(String::new(), |cause| format!(": {cause}"));
    SinkError::Write(format!("{error}{cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Source;

    fn record(interface: u32, number: u32, comment: Option<&str>) -> Record<'_> {
        let at = Duration::new(1_700_000_000, 123_456_789);
        Record { at, original: 90, data: b"0123456789", interface, number: DataLink::from(number), comment }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for format in [Format::Pcap, Format::PcapNg] {
            let mut sink = Sink::new(Vec::new(), format, DataLink::RAW).unwrap();
            sink.write(&record(0, 101, None)).unwrap();
            sink.write(&record(0, 101, Some("why"))).unwrap();
            let file = sink.finish().unwrap();
            let mut source = Source::new(&file[..]).unwrap();
            for _ in 0..2 {
                let same = source.next(|frame| {
                    (frame.at, frame.original, frame.data.to_vec())
                        == (record(0, 101, None).at, 90, b"0123456789".to_vec())
                });
                assert!(same.unwrap().unwrap());
            }
            assert!(source.next(|_| ()).is_none());
        }
    }

    #[test]
    fn a_pcap_file_has_one_link_type_and_pcapng_many() {
        let mut pcap = Sink::new(Vec::new(), Format::Pcap, DataLink::RAW).unwrap();
        let error = pcap.write(&record(1, 1, None)).unwrap_err().to_string();
        assert!(error.contains("101 and 1") && error.contains(".pcapng"), "{error}");
        let late = Record { at: Duration::from_secs(1 << 33), ..record(0, 101, None) };
        assert!(matches!(pcap.write(&late), Err(SinkError::Time(_))));
        let mut pcapng = Sink::new(Vec::new(), Format::PcapNg, DataLink::RAW).unwrap();
        for (interface, number) in [(3, 1), (0, 101), (3, 1)] {
            pcapng.write(&record(interface, number, None)).unwrap();
        }
        let file = pcapng.finish().unwrap();
        let mut source = Source::new(&file[..]).unwrap();
        let links: Vec<_> =
            std::iter::from_fn(|| source.next(|frame| (frame.interface, u32::from(frame.number))))
                .map(Result::unwrap)
                .collect();
        assert_eq!(links, [(0, 1), (1, 101), (0, 1)]);
    }

    /// The first bytes by hand: they must not depend on the machine.
    #[test]
    fn the_header_is_little_endian_with_nanoseconds() {
        let file = Sink::new(Vec::new(), Format::Pcap, DataLink::ETHERNET).unwrap().finish().unwrap();
        let expected = [0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
        assert_eq!(file, expected);
    }
}
