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
    let packet = |item: Item<'_>| match item {
        Item::Packet(frame) => Some((frame.at, frame.original, frame.data.to_vec(), frame.interface)),
        _ => None,
    };
    loop {
        match source.next(packet) {
            None => return (frames, None),
            Some(Ok(frame)) => frames.extend(frame),
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

    /// Reading ends for any content of a file.
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

/// The content of a file as words.
fn items(file: &[u8]) -> Vec<String> {
    let mut source = Source::new(file).unwrap();
    let word = |item: Item<'_>| match item {
        Item::Packet(frame) => {
            let notes = options::each(frame.notes.order, frame.notes.options);
            let codes: Vec<u16> = notes.map(|(code, _)| code).collect();
            format!("packet {} of {} {codes:?}", String::from_utf8_lossy(frame.data), frame.original)
        }
        Item::Section(_) => "section".to_owned(),
        Item::Interface(interface) => format!("interface {} {}", interface.index, interface.number),
        Item::Block(block) => format!("block {:x}", block.kind),
    };
    std::iter::from_fn(|| source.next(word)).map(Result::unwrap).collect()
}

/// No kind of block is skipped: old and new packets, names, secrets, and unknown blocks.
#[test]
fn every_block_is_told_of() {
    let old = [&[0, 0, 3, 0][..], &[0; 8], &[4, 0, 0, 0], &[9, 0, 0, 0], b"oldp", &[2, 0, 4, 0, 1, 0, 0, 0]]
        .concat();
    let simple = [&[4, 0, 0, 0][..], b"simp"].concat();
    let file = pcapng(&[
        section(),
        interface(1, 6, 0),
        (4, vec![0; 4]),
        (10, vec![0; 8]),
        (2, old),
        (0xbad, vec![0; 4]),
        (3, simple),
        (0x8000_0001, Vec::new()),
        (5, vec![0; 12]),
    ]);
    let expected = [
        "section",
        "interface 0 1",
        "block 4",
        "block a",
        "packet oldp of 9 [4, 2]",
        "block bad",
        "packet simp of 4 []",
        "block 80000001",
        "block 5",
    ];
    assert_eq!(items(&file), expected);
}

/// The upper bits of a pcap file's link type.
#[test]
fn a_frame_check_sequence_is_no_link_type() {
    let file = pcap([0xd4, 0xc3, 0xb2, 0xa1], false, 0x2400_0001, &[(1, 0, b"abcd", 4)]);
    let mut source = Source::new(&file[..]).unwrap();
    assert_eq!(source.peek().unwrap(), (LinkType::ETHERNET, 4));
    assert_eq!(items(&file), ["interface 0 1", "packet abcd of 4 []"]);
}

/// Before version 2.3 the lengths are in the opposite order, and some versions of libpcap have four more numbers before each packet.
#[test]
fn old_and_patched_versions_of_pcap_are_read() {
    let mut file = pcap([0xd4, 0xc3, 0xb2, 0xa1], false, 101, &[(1, 0, b"abcd", 9)]);
    file[6] = 2;
    file[32..40].rotate_left(4);
    assert_eq!(items(&file)[1], "packet abcd of 9 []");
    let mut patched = pcap([0x34, 0xcd, 0xb2, 0xa1], false, 101, &[(1, 0, b"abcd", 9)]);
    patched.splice(40..40, [0; 8]);
    assert_eq!(items(&patched)[1], "packet abcd of 9 []");
}

#[test]
fn unknown_versions_are_refused() {
    let mut old = pcap([0xd4, 0xc3, 0xb2, 0xa1], false, 101, &[(1, 0, b"abcd", 4)]);
    old[4] = 1;
    let error = Source::new(&old[..]).err().unwrap().to_string();
    assert!(error.contains("version 1"), "{error}");
    for (minor, is_read) in [(0, true), (1, false), (2, true), (3, false)] {
        let mut section = section();
        section.1[6] = minor;
        let file = pcapng(&[section, interface(101, 6, 0), enhanced(0, 0, *b"abcd")]);
        assert_eq!(read(&file).0.len(), usize::from(is_read), "1.{minor}");
    }
}

#[test]
fn times_have_any_resolution() {
    let of = |resolution, offset: i64| {
        let mut notes = Vec::new();
        options::put(Order::Big, &mut notes, IF_TSRESOL, &[resolution]);
        options::put(Order::Big, &mut notes, IF_TSOFFSET, &offset.to_be_bytes());
        Description::new(0, LinkType::RAW, 0, Order::Big, &notes)
    };
    assert_eq!(of(0, 5).time(7), Duration::from_secs(12));
    assert_eq!(of(12, 0).time(1_999_999_999_999), Duration::new(1, 999_999_999));
    assert_eq!(of(127, 0).time(u64::MAX), Duration::ZERO);
    assert_eq!(of(0x8a, 0).time(1_536), Duration::from_millis(1_500));
    assert_eq!(of(0xff, 0).time(u64::MAX), Duration::ZERO);
    assert_eq!(of(6, -9).time(8_000_000), Duration::ZERO);
}
