//! The traffic and the evidence of the lab between two namespaces on the real kernel, joined by a veth pair. Needs root
//! (or `unshare -Urn`) and iproute2, and fails without.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::time::Duration;

use faultwire::lab::observe::counters::Counters;
use faultwire::lab::observe::pmtu::path_mtu;
use faultwire::lab::observe::sockets::tcp_sockets;
use faultwire::lab::traffic::exec::Exec;
use faultwire::lab::traffic::outcome::Outcome;
use faultwire::lab::traffic::ping::Ping;
use faultwire::lab::traffic::request::Request;
use faultwire::lab::traffic::serve::{Serve, Service};
use faultwire::lab::traffic::trace::{Hop, Trace};
use faultwire::lab::traffic::udp::{Receiver, Udp};
use faultwire::lab::value::Value;
use faultwire::net::{LinkSetup, Netns, link};

const SECONDS: Duration = Duration::from_secs(5);
const MTU: u32 = 1_400;

/// Two hosts on one wire. Both end with the test.
struct Pair {
    client: Netns,
    server: Netns,
}

/// `10.9.0.1` and `fd09::1` at the client, `.2` and `::2` at the server.
fn pair() -> Pair {
    let pair = Pair { client: Netns::anonymous().unwrap(), server: Netns::anonymous().unwrap() };
    let other = format!("/proc/{}/fd/{}", std::process::id(), pair.server.as_fd().as_raw_fd());
    let words = ["link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", &other];
    let made = pair.client.run(|| Command::new("ip").args(words).output().unwrap()).unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for (netns, number) in [(&pair.client, 1), (&pair.server, 2)] {
        let addresses = [format!("10.9.0.{number}/24"), format!("fd09::{number}/64")];
        let setup = LinkSetup {
            mtu: MTU,
            tx_queue_len: None,
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            routes: Vec::new(),
        };
        link::configure(netns, "wire", &setup).unwrap();
    }
    pair
}

fn both() -> [IpAddr; 2] {
    ["10.9.0.2".parse().unwrap(), "fd09::2".parse().unwrap()]
}

fn counters(netns: &Netns) -> Counters {
    netns.run(Counters::read).unwrap().unwrap()
}

fn grown(netns: &Netns, before: &Counters, name: &str) -> Value {
    let now = counters(netns);
    let all = now.since(before);
    all.into_iter().find(|(key, _)| key == name).unwrap_or_else(|| panic!("no counter {name}")).1
}

#[test]
fn a_request_crosses_and_each_kernel_counts_its_own_side() {
    let pair = pair();
    let before = [counters(&pair.client), counters(&pair.server)];
    let serve = Serve { port: 80, service: Service::Http(vec![1_348, 10_000]), backlog: 16, workers: None };
    let server = pair.server.run(|| serve.start().unwrap()).unwrap();
    for address in both() {
        let request = Request::new(75, SECONDS);
        let answer = pair.client.run(|| request.send(SocketAddr::new(address, 80))).unwrap();
        assert_eq!(answer.outcome, Outcome::Ok, "{address}: {}", answer.error);
        assert_eq!(answer.bytes, 11_348);
        assert!(answer.identical);
        let header = if address.is_ipv4() { 20 } else { 40 };
        assert_eq!(answer.packet, header + 32 + 75);
        assert_eq!(answer.tcp.unwrap().mss, u64::from(MTU) - header - 32);
    }
    assert_eq!(grown(&pair.client, &before[0], "Tcp.ActiveOpens"), Value::Count(2));
    assert_eq!(grown(&pair.client, &before[0], "Tcp.PassiveOpens"), Value::Count(0));
    assert_eq!(grown(&pair.server, &before[1], "Tcp.PassiveOpens"), Value::Count(2));
    let listening = |netns: &Netns| {
        let sockets = netns.run(tcp_sockets).unwrap().unwrap();
        sockets.iter().filter(|socket| socket.state == "LISTEN").count()
    };
    assert_eq!((listening(&pair.client), listening(&pair.server)), (0, 1));
    assert_eq!(server.stop().accepted, 2);
}

#[test]
fn the_path_mtu_is_that_of_the_namespace_and_df_is_heeded() {
    let pair = pair();
    for address in both() {
        assert_eq!(pair.client.run(|| path_mtu(address).unwrap()).unwrap(), u64::from(MTU));
    }
    let series = |df| Udp {
        count: 5,
        size: 3_000,
        interval: Duration::ZERO,
        df,
        gso: 1,
        settle: SECONDS / 10,
        answer: None,
    };
    let before = counters(&pair.server);
    for (df, received, too_big) in [(true, 0, 5), (false, 5, 0)] {
        let receiver = pair.server.run(|| Receiver::start(5_000, SECONDS / 10, None).unwrap()).unwrap();
        let to = SocketAddr::new(both()[0], 5_000);
        let sent = pair.client.run(|| series(df).send(to).unwrap()).unwrap();
        let arrivals = receiver.finish();
        assert_eq!((arrivals.len(), sent.too_big), (received, too_big), "df {df}");
        assert!(arrivals.iter().all(|arrival| arrival.identical));
    }
    assert_eq!(grown(&pair.server, &before, "Ip.ReasmOKs"), Value::Count(5));
    assert_eq!(grown(&pair.server, &before, "Ip.ReasmReqds"), Value::Count(15));
}

#[test]
fn ping_and_trace_reach_the_neighbour_in_one_hop() {
    let pair = pair();
    for address in both() {
        let ping = Ping { count: 3, size: 56, timeout: SECONDS, ttl: None };
        let seen = pair.client.run(|| ping.run(address).unwrap()).unwrap();
        assert_eq!((seen.sent, seen.times.len(), seen.errors), (3, 3, 0), "{address}");
        let trace = Trace { hops: 4, port: 33_434, timeout: SECONDS };
        let hops = pair.client.run(|| trace.run(address).unwrap()).unwrap();
        let unreachable = if address.is_ipv4() { (address, 3, 3) } else { (address, 1, 4) };
        assert_eq!(hops, [Hop { ttl: 1, answer: Some(unreachable) }]);
    }
}

#[test]
fn a_cut_wire_is_a_timeout_and_the_client_s_kernel_counts_its_retries() {
    let pair = pair();
    let before = counters(&pair.client);
    // Known beforehand, so that what is lost is the SYN and not the question who has the address.
    let known = Ping { count: 1, size: 0, timeout: SECONDS, ttl: None };
    pair.client.run(|| known.run(both()[0]).unwrap()).unwrap();
    let words = ["route", "add", "blackhole", "10.9.0.1/32"];
    let cut = pair.server.run(|| Command::new("ip").args(words).output().unwrap()).unwrap();
    assert!(cut.status.success(), "{}", String::from_utf8_lossy(&cut.stderr));
    let request = Request::new(75, Duration::from_millis(1_300));
    let answer = pair.client.run(|| request.send(SocketAddr::new(both()[0], 80))).unwrap();
    assert_eq!(answer.outcome, Outcome::Timeout);
    assert_eq!(answer.connected, None);
    assert_eq!(grown(&pair.client, &before, "TcpExt.TCPSynRetrans"), Value::Count(1));
}

#[test]
fn a_program_runs_in_the_namespace_and_is_ready_when_it_listens() {
    let pair = pair();
    let exec = |command: &[&str], ready_port| Exec {
        command: command.iter().map(|&word| word.to_owned()).collect(),
        timeout: SECONDS,
        ready_port,
    };
    let script = "import socket; s = socket.create_server(('10.9.0.2', 8080)); c, _ = s.accept(); \
                  c.recv(4096); c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok')";
    let program = exec(&["python3", "-c", script], Some(8_080));
    let program = pair.server.run(|| program.start().unwrap()).unwrap();
    let request = Request::new(75, SECONDS);
    let answer = pair.client.run(|| request.send(SocketAddr::new(both()[0], 8_080))).unwrap();
    assert_eq!(answer.outcome, Outcome::Ok, "{}", answer.error);
    program.stop().unwrap();
    let inside = pair.client.run(|| exec(&["cat", "/proc/self/net/dev"], None).run().unwrap()).unwrap();
    assert!(inside.stdout.contains("wire:"), "{}", inside.stdout);
}
