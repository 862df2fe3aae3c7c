//! ICMP errors through a translator, and its own.

use super::*;

/// RFC 5508 REQ-3 to REQ-5: inside and outside, with the packet that they are about.
#[test]
fn errors_find_whom_they_concern() {
    for kind in ["udp", "tcp", "echo"] {
        let packet = |from: &str, to: &str| match kind {
            "udp" => udp(&format!("{from}:5000"), &format!("{to}:53")),
            "tcp" => tcp(&format!("{from}:5000"), &format!("{to}:53"), 2, (1, 0)),
            _ => echo(from, to, 5_000, true),
        };
        let mut run = run(NaptParams { allocation: PortAllocation::Random, ..napt() });
        // The second host with these ports has others outside.
        let sent = packet("10.0.1.3", SERVER);
        run.feed(at(0), &sent);
        let out = run.wires()[0].bytes.clone();
        let before = run.wires().len();
        run.feed_by(1, at(1), &error("10.0.2.7", &out));
        let wire = run.wires()[before].clone();
        assert_eq!((wire.port, flaw(&wire.bytes)), (0, None), "{kind}");
        assert_eq!(ends(&wire.bytes).1.ip(), "10.0.1.3".parse::<IpAddr>().unwrap());
        // The quote is the packet as the host had sent it, but for the TTL, which counts in the checksum.
        let quoted = &wire.bytes[28..];
        assert_eq!(quoted[12..], sent.bytes[12..28], "{kind}");
        // One from a stranger about what nobody sent.
        run.feed_by(1, at(1), &error("10.0.2.7", &packet(PUBLIC, "10.0.2.99").bytes));
        assert_eq!(run.wires().len(), before + 1);
    }
}

#[test]
fn an_error_from_inside_goes_out_translated() {
    let mut run = run(NaptParams { allocation: PortAllocation::Random, ..napt() });
    let public = outer(&mut run, at(0), "10.0.1.2:5000", "10.0.2.2:53").unwrap().to_string();
    let sent = udp("10.0.2.2:53", &public);
    run.feed_by(1, at(1), &sent);
    let got = run.wires()[1].bytes.clone();
    run.feed(at(2), &error("10.0.1.2", &got));
    let wire = run.wires()[2].clone();
    assert_eq!((wire.port, flaw(&wire.bytes), ends(&wire.bytes).0.ip()), (1, None, PUBLIC.parse().unwrap()));
    assert_eq!(wire.bytes[28 + 12..], sent.bytes[12..28]);
}

/// The router's own errors about packets that it has already translated are about what the sender sent.
#[test]
fn the_router_s_errors_name_what_the_sender_knows() {
    let mtu = MtuParams { mtu: 600, overhead: 0, action: MtuAction::Icmp };
    let behind = vec![stage(ImpairmentParams::Mtu(mtu))];
    let mut run = Run::built(&params(NatKind::Napt(Box::new(napt())), Vec::new(), behind));
    for frame in
        [Spec::udp(1_000).frame(), Spec::tcp(3_000).train(1_000).frame(), Spec::udp(1_300).v6().frame()]
    {
        let before = run.wires().len();
        run.feed(at(0), &frame);
        let wire = run.wires()[before].clone();
        let packet = &frame.bytes;
        let (told, quote) = (ends(&wire.bytes).1.ip(), if packet[0] >> 4 == 4 { 28 } else { 48 });
        assert_eq!((wire.port, told, flaw(&wire.bytes)), (0, ends(packet).0.ip(), None));
        let (source, ports) = if quote == 28 { (12..20, 20..24) } else { (8..40, 40..44) };
        assert_eq!(wire.bytes[quote..][source.clone()], packet[source]);
        assert_eq!(wire.bytes[quote..][ports.clone()], packet[ports]);
    }
}
