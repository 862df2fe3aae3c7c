use super::*;
use crate::capture::bytes::Order;
use crate::capture::options::COMMENT;
use crate::capture::sink::Format;
use crate::config::spec;
use crate::pipeline::params::{PathParams, PortParams};
use crate::pipeline::testing::{Run as Memory, Spec};

fn router(faults: &str, seed: u64) -> RouterParams {
    let port = |name: &str| PortParams {
        name: name.to_owned(),
        mtu: u32::MAX,
        addresses: Vec::new(),
        router: Vec::new(),
    };
    let stages = spec::parse(faults).unwrap().stages;
    RouterParams {
        ports: vec![port("a"), port("b")],
        paths: vec![PathParams::new(0, 1, stages)],
        nats: Vec::new(),
        ..Memory::params(seed, Vec::new())
    }
}

fn replay(faults: &str) -> Replay {
    Replay { router: router(faults, 1), path: 0, only_from: Vec::new() }
}

/// A capture of frames of (microseconds, bytes, length on the wire).
fn capture(number: LinkType, frames: &[(u64, Vec<u8>, usize)]) -> Vec<u8> {
    let mut sink = Sink::new(Vec::new(), Format::PcapNg, number, 0).unwrap();
    for (micros, data, original) in frames {
        let at = Duration::from_secs(1_700_000_000) + Duration::from_micros(*micros);
        let original = *original as u32;
        sink.write(&Record { at, original, data, interface: 0, number, notes: Notes::NONE, comment: None })
            .unwrap();
    }
    sink.finish().unwrap()
}

type Written = Vec<(u64, Vec<u8>, u32)>;

/// The outcome, the packets that were sent, and the whole file of dropped packets.
fn through(replay: &Replay, file: &[u8]) -> (Outcome, Written, Vec<u8>) {
    let (mut sent, mut dropped) = (Vec::new(), Vec::new());
    let number = LinkType::RAW;
    let outputs = Outputs {
        sent: Sink::new(&mut sent, Format::PcapNg, number, 0).unwrap(),
        dropped: Some(Sink::new(&mut dropped, Format::PcapNg, number, 0).unwrap()),
        answers: None,
        log: None,
    };
    let outcome = replay.run(&mut Source::new(file).unwrap(), outputs).unwrap();
    assert!(outcome.report.is_conserved());
    (outcome, read(&sent), dropped)
}

fn read(file: &[u8]) -> Written {
    let mut source = Source::new(file).unwrap();
    let base = Duration::from_secs(1_700_000_000);
    let frame = |frame: Frame<'_>| {
        (frame.at.saturating_sub(base).as_nanos() as u64, frame.data.to_vec(), frame.original)
    };
    let packet = |item: Item<'_>| match item {
        Item::Packet(packet) => Some(frame(packet)),
        _ => None,
    };
    std::iter::from_fn(|| source.next(packet)).filter_map(Result::unwrap).collect()
}

fn packet(payload: usize) -> Vec<u8> {
    Spec::tcp(payload).frame().bytes
}

#[test]
fn a_clean_path_changes_no_byte_and_no_time() {
    let mut padded = vec![9; 12];
    padded.extend([8, 0]);
    padded.extend(packet(1));
    padded.extend([7, 7, 7]);
    let arp = [vec![9; 12], vec![8, 6], vec![0; 28]].concat();
    let tagged = [vec![9; 12], vec![0x81, 0, 0, 5, 8, 0], packet(900)].concat();
    let cut = tagged[..96].to_vec();
    let length = |data: &Vec<u8>| data.len();
    let frames = [
        (5, padded.clone(), length(&padded)),
        (6, arp.clone(), length(&arp)),
        (6, tagged.clone(), length(&tagged)),
        (9, cut, length(&tagged)),
    ];
    let (outcome, sent, dropped) = through(&replay(""), &capture(LinkType::ETHERNET, &frames));
    let expected: Written =
        frames.iter().map(|(at, data, length)| (at * 1_000, data.clone(), *length as u32)).collect();
    assert_eq!(sent, expected);
    assert_eq!((outcome.packets, outcome.not_ip, outcome.cut, outcome.backwards), (4, 1, 1, 0));
    assert!(read(&dropped).is_empty());
}

#[test]
fn packets_leave_in_the_order_of_their_times() {
    let long = packet(1_000);
    let frames = [(0, packet(60), 100), (10, long.clone(), 1_040), (20, packet(60), 100)];
    let file = capture(LinkType::RAW, &frames);
    let (_, sent, _) = through(&replay("delay 1ms rate 8mbit"), &file);
    let times: Vec<_> = sent.iter().map(|frame| frame.0).collect();
    assert_eq!(times, [1_100_000, 2_140_000, 2_240_000]);
}

#[test]
fn a_time_before_an_earlier_one_is_that_ones() {
    let frames = [(100, packet(60), 100), (40, packet(61), 101), (200, packet(62), 102)];
    let (outcome, sent, _) = through(&replay("delay 1us"), &capture(LinkType::RAW, &frames));
    let times: Vec<_> = sent.iter().map(|frame| frame.0).collect();
    assert_eq!((times, outcome.backwards), (vec![101_000, 101_000, 201_000], 1));
}

#[test]
fn what_is_dropped_is_written_with_the_reason() {
    let frames = [(0, packet(60), 100), (1, packet(900), 940), (2, vec![0x45, 0, 0, 9], 4)];
    let (outcome, sent, dropped) = through(&replay("mtu 500 drop"), &capture(LinkType::RAW, &frames));
    assert_eq!(sent.len(), 1);
    assert_eq!(outcome.report.counters.drops.of(Reason::Malformed).packets, 1);
    assert_eq!(read(&dropped).iter().map(|frame| frame.1.len()).collect::<Vec<_>>(), [940, 4]);
    let text = String::from_utf8_lossy(&dropped);
    assert!(text.contains("dropped by mtu: mtu_silent") && text.contains("dropped: malformed"), "{text}");
}

#[test]
fn only_packets_from_the_prefix_take_the_path() {
    let mut back = packet(60);
    back[12..20].rotate_left(4);
    let frames = [(0, packet(60), 100), (1, back, 100)];
    let only_from = vec!["10.0.1.0/24".parse().unwrap()];
    let replay = Replay { only_from, ..replay("loss 100%") };
    let (outcome, sent, _) = through(&replay, &capture(LinkType::RAW, &frames));
    assert_eq!((sent.len(), outcome.elsewhere), (1, 1));
}

/// The same packets at the same times through the router as it runs on devices: the same verdicts and times.
#[test]
fn offline_is_online() {
    let faults =
        "mss 1000 delay 3ms 2ms loss 10% 25% duplicate 5% corrupt 3% reorder 5% rate 50mbit limit 40";
    let stages = spec::parse(faults).unwrap().stages;
    let mut online = Memory::seeded(1, stages);
    let mut frames = Vec::new();
    for number in 0..600_u64 {
        let spec = Spec::tcp((number * 37 % 1_400) as usize).with_source_port(40_000 + (number % 5) as u16);
        let bytes = spec.frame().bytes;
        online
            .feed(Instant::ZERO + crate::pipeline::time::Duration::from_micros(number * 150), &spec.frame());
        frames.push((number * 150, bytes.clone(), bytes.len()));
    }
    online.finish();
    let (_, sent, _) = through(&replay(faults), &capture(LinkType::RAW, &frames));
    let online: Vec<_> = online.wires().into_iter().map(|wire| (wire.at.as_nanos(), wire.bytes)).collect();
    assert!(online.len() > 400 && online.len() == sent.len(), "{} {}", online.len(), sent.len());
    for ((at, mut bytes), (time, data, _)) in online.into_iter().zip(sent) {
        // A replay does not decrement the TTL, a router does. So damage of the TTL itself can differ.
        if bytes[8] == 63 {
            bytes[8] = 64;
            bytes[10..12].copy_from_slice(&data[10..12]);
        }
        assert_eq!((at, bytes), (time, data));
    }
}

#[test]
fn the_same_seed_gives_the_same_file() {
    let frames: Vec<_> =
        (0..300).map(|number| (number * 50, packet(number as usize), number as usize + 40)).collect();
    let file = capture(LinkType::RAW, &frames);
    let run = |seed| {
        let replay = Replay { router: router("delay 1ms 500us loss 20%", seed), ..replay("") };
        let (_, sent, dropped) = through(&replay, &file);
        (sent, dropped)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn what_was_read_of_a_broken_capture_is_processed() {
    let frames = [(0, packet(60), 100), (1, packet(60), 100)];
    let file = capture(LinkType::RAW, &frames);
    let (outcome, sent, _) = through(&replay("delay 1ms"), &file[..file.len() - 3]);
    assert_eq!(sent.len(), 1);
    assert!(outcome.broken.unwrap().to_string().contains("after packet 1"));
}

/// Calculated by hand: opportunities at 1, 2, 2 and 5 ms; three full packets at 0 and one at 4.5 ms.
#[test]
fn the_log_is_as_mahimahi_writes_it() {
    let trace = format!("{}/fw-log-{}.trace", std::env::temp_dir().display(), std::process::id());
    std::fs::write(&trace, "1\n2\n2\n5\n").unwrap();
    let replay = replay(&format!("trace {trace}"));
    std::fs::remove_file(&trace).unwrap();
    let frames = [
        (0, packet(1_460), 1_500),
        (0, packet(1_460), 1_500),
        (0, packet(60), 100),
        (4_500, packet(1_460), 1_500),
    ];
    let (mut text, mut sent) = (Vec::new(), Vec::new());
    let outputs = Outputs {
        sent: Sink::new(&mut sent, Format::Pcap, LinkType::RAW, 0).unwrap(),
        dropped: None,
        answers: None,
        log: Some(Log::new(&mut text, &replay.router.paths[0], "Uplink", "pcap").unwrap()),
    };
    replay.run(&mut Source::new(&capture(LinkType::RAW, &frames)[..]).unwrap(), outputs).unwrap();
    let text = String::from_utf8(text).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let expected = [
        "0 + 1504",
        "0 + 1504",
        "0 + 104",
        "1 # 1504",
        "1 - 1504 1",
        "2 # 1504",
        "2 # 1504",
        "2 - 1504 2",
        "2 - 104 2",
        "4 + 1504",
        "5 # 1504",
        "5 - 1504 0",
    ];
    assert_eq!(lines, expected);
}

/// A block of this type, little-endian.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes()[..], &length, body, &length].concat()
}

/// A run's clock starts with the first packet and has 64 bits of nanoseconds; times in microseconds can be beyond that.
#[test]
fn a_packet_beyond_all_time_ends_the_run_by_its_number() {
    const YEAR: u64 = 365 * 86_400 * 1_000_000;
    let run = |micros: [u64; 2]| {
        let mut file =
            block(0x0a0d_0d0a, &[&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[255; 8]].concat());
        file.extend(block(1, &[101, 0, 0, 0, 0, 0, 0, 0]));
        for units in micros {
            let data = packet(60);
            let words = [0, (units >> 32) as u32, units as u32, 100, 100].map(u32::to_le_bytes).concat();
            file.extend(block(6, &[words, data].concat()));
        }
        let sink = Sink::new(Vec::new(), Format::PcapNg, LinkType::RAW, 0).unwrap();
        let outputs = Outputs { sent: sink, dropped: None, answers: None, log: None };
        replay("delay 1s").run(&mut Source::new(file.as_slice()).unwrap(), outputs)
    };
    assert_eq!(run([0, 500 * YEAR]).unwrap().packets, 2);
    assert!(matches!(run([0, 600 * YEAR]), Err(ReplayError::TooFar(2))));
}

/// Comments, names, secrets and unknown blocks are copied unchanged, behind the same section and interface. Packets are in between, each
/// with its own comment, however long it was held.
#[test]
fn what_belongs_to_the_user_is_kept() {
    let number = LinkType::RAW;
    let sink = || Sink::new(Vec::new(), Format::PcapNg, number, 0).unwrap();
    let mut options = Vec::new();
    let text = |options: &mut Vec<u8>, text: &[u8]| {
        options.clear();
        crate::capture::options::put(Order::Little, options, COMMENT, text);
        crate::capture::options::end(options, 0);
    };
    let mut file = sink();
    text(&mut options, b"about all");
    file.section(Notes { order: Order::Little, options: &options }).unwrap();
    let mut file = file.finish().unwrap();
    file.extend(block(1, &[&[101, 0, 0, 0, 0, 0, 0, 0][..], &[2, 0, 4, 0], b"eth7", &[0; 4]].concat()));
    file.extend(block(10, b"secretsecret"));
    for index in 0..200_u64 {
        let data = packet(60);
        let mut body = vec![0; 8];
        body.extend((index as u32 * 10).to_le_bytes());
        body.extend([&[100, 0, 0, 0][..], &[100, 0, 0, 0], &data].concat());
        text(&mut options, format!("number {index:03}").as_bytes());
        body.extend(&options);
        file.extend(block(6, &body));
    }
    file.extend(block(0x4000_0bad, b"mine"));
    file.extend(block(0x4242, b"unknown!"));
    let faults = "delay 1ms 500us loss 10% duplicate 10% reorder 20%";
    let (mut sent, mut dropped) = (Vec::new(), Vec::new());
    let outputs = Outputs {
        sent: Sink::new(&mut sent, Format::PcapNg, number, 0).unwrap(),
        dropped: Some(Sink::new(&mut dropped, Format::PcapNg, number, 0).unwrap()),
        answers: None,
        log: None,
    };
    let outcome = replay(faults).run(&mut Source::new(&file[..]).unwrap(), outputs).unwrap();
    assert_eq!((outcome.copied, outcome.private, outcome.unsaid), (2, 1, 0));
    let count = |file: &[u8], word: &[u8]| file.windows(word.len()).filter(|part| *part == word).count();
    for (word, times) in
        [(&b"about all"[..], 1), (b"eth7", 1), (b"secretsecret", 1), (b"unknown!", 1), (b"mine", 0)]
    {
        assert_eq!((count(&sent, word), count(&dropped, word)), (times, times), "{word:?}");
    }
    let copies = outcome.report.counters.created.packets as usize;
    assert!(copies > 5 && count(&dropped, b"number") > 5);
    assert_eq!(count(&sent, b"number"), 200 + copies - count(&dropped, b"number"));
    for index in 0..200 {
        let word = format!("number {index:03}");
        let (left, lost) = (count(&sent, word.as_bytes()), count(&dropped, word.as_bytes()));
        assert!(left + lost >= 1 && left <= 2 && lost <= 1, "{word}: {left} {lost}");
    }
    // The program reports metadata that a pcap file cannot hold.
    let outputs = Outputs {
        sent: Sink::new(Vec::new(), Format::Pcap, number, 0).unwrap(),
        dropped: None,
        answers: None,
        log: None,
    };
    let outcome = replay("").run(&mut Source::new(&file[..]).unwrap(), outputs).unwrap();
    assert_eq!((outcome.copied, outcome.private, outcome.unsaid), (0, 1, 1 + 1 + 1 + 200 + 1));
}

/// Packets captured before segmentation, with a correct frame check sequence, behind labels. On a path without faults no byte changes. A
/// rewritten packet gets a correct length and frame check sequence again.
#[test]
fn packets_without_a_length_and_with_a_check_sequence_are_packets() {
    let frame = |ip: &[u8]| {
        let mut frame = [&[9; 12][..], &[0x88, 0x47, 0, 1, 1, 64], ip].concat();
        frame.extend(crc32fast::hash(&frame).to_le_bytes());
        frame
    };
    let mut untold = packet(1_481);
    untold[2..4].fill(0);
    let untold = frame(&untold);
    let mut syn = Vec::new();
    etherparse::PacketBuilder::ipv4([10, 0, 1, 2], [10, 0, 2, 2], 64)
        .tcp(4_000, 80, 7, 1_000)
        .syn()
        .options(&[etherparse::TcpOptionElement::MaximumSegmentSize(1_460)])
        .unwrap()
        .write(&mut syn, &[])
        .unwrap();
    let syn = frame(&syn);
    let mut wrong = syn.clone();
    wrong.extend_from_slice(&[1, 2, 3, 4]);
    let frames = [untold, syn, wrong];
    let mut file = Sink::new(Vec::new(), Format::Pcap, LinkType::ETHERNET, 4).unwrap();
    for data in &frames {
        let (number, original) = (LinkType::ETHERNET, data.len() as u32);
        let at = Duration::from_secs(1_700_000_000);
        file.write(&Record { at, original, data, interface: 0, number, notes: Notes::NONE, comment: None })
            .unwrap();
    }
    let file = file.finish().unwrap();
    let (outcome, sent, _) = through(&replay("delay 1us"), &file);
    assert_eq!((outcome.not_ip, outcome.report.counters.drops.total().packets), (0, 0));
    assert_eq!(sent.iter().map(|sent| &sent.1).collect::<Vec<_>>(), frames.iter().collect::<Vec<_>>());
    let (_, sent, _) = through(&replay("mss 1000"), &file);
    let syn = &sent[1].1;
    let (covered, fcs) = syn.split_last_chunk::<4>().unwrap();
    assert!(*syn != frames[1] && *fcs == crc32fast::hash(covered).to_le_bytes());
}

/// The number of tags is no limit: here every packet has its own link-layer header.
#[test]
fn any_number_of_headers_is_kept() {
    const FRAMES: u32 = 70_000;
    let mut file = Sink::new(Vec::new(), Format::Pcap, LinkType::ETHERNET, 0).unwrap();
    let ip = packet(1);
    let frame = |index: u32| [&index.to_be_bytes()[..], &[9; 8], &[8, 0], &ip].concat();
    for index in 0..FRAMES {
        let data = &frame(index);
        let (number, original) = (LinkType::ETHERNET, data.len() as u32);
        let at = Duration::from_secs(1_700_000_000) + Duration::from_micros(index.into());
        file.write(&Record { at, original, data, interface: 0, number, notes: Notes::NONE, comment: None })
            .unwrap();
    }
    let (_, sent, _) = through(&replay("delay 1ms"), &file.finish().unwrap());
    assert_eq!(sent.len(), FRAMES as usize);
    assert!(sent.iter().zip(0..).all(|(sent, index)| sent.1 == frame(index)));
}
