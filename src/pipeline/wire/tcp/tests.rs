use proptest::prelude::*;

use super::*;
use crate::pipeline::wire::samples;

/// A segment with these option bytes (padded to 4) and a checksum made by etherparse.
fn segment(options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut header = etherparse::TcpHeader::new(443, 50_000, 0x0102_0304, 0x1000);
    header.set_options_raw(options).unwrap();
    header.checksum = header.calc_checksum_ipv4_raw([10, 0, 0, 1], [10, 0, 0, 2], payload).unwrap();
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

/// Whether etherparse finds the checksum right.
fn valid(bytes: &[u8]) -> bool {
    let (header, payload) = etherparse::TcpHeader::from_slice(bytes).unwrap();
    header.checksum == header.calc_checksum_ipv4_raw([10, 0, 0, 1], [10, 0, 0, 2], payload).unwrap()
}

#[test]
fn fields_of_a_captured_syn() {
    let packet = super::super::Ipv4::new(samples::SYN_V4).unwrap();
    let syn = Tcp::new(packet.payload()).unwrap();
    assert_eq!((syn.source_port(), syn.destination_port()), samples::SYN_V4_PORTS);
    assert_eq!((syn.flags(), syn.header_len(), syn.acknowledgement()), (flag::SYN, 40, 0));
    assert_eq!(syn.mss(), Some(1460));
    let kinds: Vec<u8> = syn.options().map(|option| option.unwrap().kind).collect();
    assert_eq!(
        kinds,
        [option::MSS, option::SACK_PERMITTED, option::TIMESTAMPS, option::NOP, option::WINDOW_SCALE]
    );
    assert!(syn.payload().is_empty());
}

#[test]
fn every_setter_keeps_a_right_checksum_right() {
    // The NOP puts the MSS value at an odd offset, which no alignment rule forbids.
    let options = [1, 2, 4, 0x05, 0xb4, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
    let mut bytes = segment(&options, b"payload");
    assert!(valid(&bytes));
    let mut tcp = Tcp::new(&mut bytes).unwrap();
    assert_eq!((tcp.mss(), tcp.timestamps()), (Some(1460), Some((0x0102_0304, 0x0506_0708))));
    assert!(tcp.set_mss(536, Update::Incremental));
    assert!(tcp.set_timestamps(0xffff_0000, 0x1234_ff00, Update::Incremental));
    tcp.set_sequence(0xfeed_beef, Update::Incremental);
    tcp.set_flags(flag::SYN | flag::ECE, Update::Incremental);
    assert!(valid(&bytes));
    let (header, _) = etherparse::TcpHeader::from_slice(&bytes).unwrap();
    assert!(header.syn && header.ece && !header.ack);
    assert_eq!(header.sequence_number, 0xfeed_beef);
    let options: Vec<_> = header.options_iterator().map(Result::unwrap).collect();
    assert!(options.contains(&etherparse::TcpOptionElement::MaximumSegmentSize(536)));
    assert!(options.contains(&etherparse::TcpOptionElement::Timestamp(0xffff_0000, 0x1234_ff00)));
}

#[test]
fn leaving_the_checksum_leaves_it() {
    let mut bytes = segment(&[2, 4, 5, 0xb4], &[]);
    let mut tcp = Tcp::new(&mut bytes).unwrap();
    let before = tcp.checksum();
    assert!(tcp.set_mss(1000, Update::Leave));
    assert_eq!((tcp.checksum(), tcp.mss()), (before, Some(1000)));
    assert!(!tcp.set_timestamps(1, 2, Update::Leave));
}

#[test]
fn malformed_options_end_the_walk_once() {
    for options in [[2, 5, 0, 0], [2, 1, 0, 0], [2, 0, 0, 0], [1, 1, 1, 2]] {
        let bytes = segment(&options, &[]);
        let tcp = Tcp::new(&bytes).unwrap();
        let errors: Vec<_> = tcp.options().filter_map(Result::err).collect();
        assert_eq!(errors, [Malformed::BadOptions], "{options:?}");
        assert_eq!(tcp.options().last(), Some(Err(Malformed::BadOptions)));
        assert_eq!(tcp.mss(), None);
    }
}

#[test]
fn option_of_a_wrong_length_is_not_read_as_mss() {
    let bytes = segment(&[2, 3, 5, 0], &[]);
    assert_eq!(Tcp::new(&bytes).unwrap().mss(), None);
}

#[test]
fn lying_data_offsets_are_refused() {
    let mut bytes = segment(&[], &[]);
    assert_eq!(Tcp::new(&bytes[..19]).unwrap_err(), Malformed::Truncated);
    bytes[12] = 0x40;
    assert_eq!(Tcp::new(&bytes).unwrap_err(), Malformed::BadHeaderLength);
    bytes[12] = 0x60;
    assert_eq!(Tcp::new(&bytes).unwrap_err(), Malformed::BadHeaderLength);
}

proptest! {
    #[test]
    fn any_bytes_are_safe(mut bytes in proptest::collection::vec(any::<u8>(), 0..90), mss: u16) {
        if let Ok(tcp) = Tcp::new(&bytes[..]) {
            prop_assert_eq!(tcp.payload().len() + tcp.header_len(), bytes.len());
            let mut end = 20;
            for option in tcp.options().map_while(Result::ok) {
                prop_assert_eq!(option.range.start, end);
                end = option.range.end;
                prop_assert!(end <= tcp.header_len() && !option.range.is_empty());
            }
            let mut tcp = Tcp::new(&mut bytes).unwrap();
            if tcp.set_mss(mss, Update::Incremental) {
                prop_assert_eq!(tcp.mss(), Some(mss));
            }
            tcp.set_timestamps(1, 2, Update::Incremental);
        }
    }

    /// The raw bytes of options, walked by etherparse as well.
    #[test]
    fn mss_agrees_with_etherparse(value: u16, pad in 0_usize..4) {
        let mut options = vec![1; pad];
        options.extend_from_slice(&[2, 4]);
        options.extend_from_slice(&value.to_be_bytes());
        prop_assert_eq!(Tcp::new(&segment(&options, &[])).unwrap().mss(), Some(value));
    }
}

#[test]
fn options_end_where_they_say() {
    // Window scale 7; then the end, and what looks like an MSS behind it.
    let bytes = segment(&[3, 3, 7, 0, 2, 4, 5, 180], &[]);
    let tcp = Tcp::new(&bytes[..]).unwrap();
    assert_eq!((tcp.window_scale(), tcp.mss()), (Some(7), None));
    assert_eq!(tcp.options().count(), 1);
    let bytes = segment(&[2, 4, 5, 180], &[]);
    assert_eq!(Tcp::new(&bytes[..]).unwrap().window_scale(), None);
}

#[test]
fn the_urgent_pointer_is_read() {
    let mut bytes = segment(&[], &[]);
    bytes[18..20].copy_from_slice(&[0x12, 0x34]);
    assert_eq!(Tcp::new(&bytes[..]).unwrap().urgent(), 0x1234);
}
