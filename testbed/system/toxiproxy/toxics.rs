//! What toxics do to connections.

use super::*;

#[test]
fn latency_comes_and_goes_on_an_open_connection() {
    let server = Server::start(&[]);
    let stream = connect(server.proxy("a"));
    echo(&stream, 10).unwrap();
    server.toxic("a", &json!({ "type": "latency", "attributes": { "latency": 1000 } }));
    server.toxic("a", &json!({ "type": "latency", "stream": "upstream", "attributes": { "latency": 500 } }));
    assert!(echo(&stream, 10).unwrap() >= 1500 * MS);
    // A new connection waits no more than that: its opening is not delayed. With it there would be 3 s.
    let start = now();
    echo(
        &connect(
            server.must(200, "GET", "/proxies/a", &Value::Null).json()["listen"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap(),
        ),
        10,
    )
    .unwrap();
    assert!((1500 * MS..2900 * MS).contains(&start.elapsed()), "{:?}", start.elapsed());
    server.must(
        200,
        "PATCH",
        "/proxies/a/toxics/latency_downstream",
        &json!({ "attributes": { "latency": 60_000 } }),
    );
    // What a toxic holds leaves when it goes.
    let held = std::thread::scope(|scope| {
        let held = scope.spawn(|| echo(&stream, 10).unwrap());
        (&mut &stream).flush().unwrap();
        let listed = || server.must(200, "GET", "/metrics", &Value::Null).body;
        // Three exchanges of 10 bytes before, and this one.
        crate::system::common::until("the answer is under way", || {
            listed().contains("received_bytes_total{direction=\"downstream\"")
                && listed().lines().any(|line| {
                    line.starts_with("toxiproxy_proxy_received_bytes_total{direction=\"downstream\"")
                        && line.ends_with(" 40")
                })
        });
        server.reset();
        held.join().unwrap()
    });
    assert!((500 * MS..30_000 * MS).contains(&held), "{held:?}");
    assert!(echo(&stream, 10).unwrap() < 500 * MS);
}

#[test]
fn bandwidth_is_that_of_the_data() {
    let server = Server::start(&[]);
    let stream = connect(server.proxy("a"));
    server.toxic("a", &json!({ "type": "bandwidth", "attributes": { "rate": 200 } }));
    // 400,000 bytes at 200,000 bytes a second. The last segment's share of the time counts; what is sent twice costs more.
    let took = echo(&stream, 400_000).unwrap();
    assert!((1990 * MS..6000 * MS).contains(&took), "{took:?}");
    // Nothing at all passes at 0, and nothing is lost.
    server.must(
        200,
        "POST",
        "/proxies/a/toxics/bandwidth_downstream",
        &json!({ "attributes": { "rate": 0 } }),
    );
    stream.set_read_timeout(Some(300 * MS)).unwrap();
    assert_eq!(echo(&stream, 1000).unwrap_err().kind(), ErrorKind::WouldBlock);
    server.reset();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    (&stream).read_exact(&mut [0; 1000]).unwrap();
}

#[test]
fn connections_end_as_the_toxics_say() {
    let server = Server::start(&[]);
    let listen = server.proxy("a");
    let reset = Some(ErrorKind::ConnectionReset);
    for (toxic, bytes, ending, least, most) in [
        (json!({ "type": "reset_peer" }), 0, reset, 0, 20_000),
        (
            json!({ "type": "reset_peer", "stream": "upstream", "attributes": { "timeout": 400 } }),
            0,
            reset,
            400,
            20_000,
        ),
        (json!({ "type": "timeout", "attributes": { "timeout": 300 } }), 0, reset, 300, 20_000),
        (
            json!({ "type": "timeout", "stream": "upstream", "attributes": { "timeout": 300 } }),
            0,
            reset,
            300,
            20_000,
        ),
        (json!({ "type": "limit_data", "attributes": { "bytes": 12_345 } }), 12_345, None, 0, 20_000),
        (
            json!({ "type": "limit_data", "stream": "upstream", "attributes": { "bytes": 0 } }),
            0,
            None,
            0,
            20_000,
        ),
    ] {
        for is_open_before in [false, true] {
            let before = is_open_before.then(|| connect(listen));
            if let Some(stream) = &before {
                echo(stream, 1).unwrap();
            }
            server.toxic("a", &toxic);
            let stream = before.unwrap_or_else(|| connect(listen));
            let start = now();
            // A limit may end the connection while it is still being written to.
            let _ = (&stream).write_all(&vec![0; 50_000]);
            assert_eq!(rest(&stream), (bytes, ending), "{toxic} {is_open_before}");
            assert!((least * MS..most * MS).contains(&start.elapsed()), "{toxic}: {:?}", start.elapsed());
            server.reset();
        }
    }
    // Silence that ends with the toxic; TCP sends again what was lost.
    let stream = connect(listen);
    server.toxic("a", &json!({ "type": "timeout" }));
    stream.set_read_timeout(Some(300 * MS)).unwrap();
    assert_eq!(echo(&stream, 1000).unwrap_err().kind(), ErrorKind::WouldBlock);
    server.reset();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    (&stream).read_exact(&mut [0; 1000]).unwrap();
    // The end comes later than the data.
    server.toxic("a", &json!({ "type": "slow_close", "attributes": { "delay": 2000 } }));
    assert!(echo(&stream, 10).unwrap() < 2000 * MS);
    let start = now();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&stream), (0, None));
    assert!(start.elapsed() >= 2000 * MS);
}

#[test]
fn a_slicer_makes_small_pieces_with_pauses() {
    let server = Server::start(&[]);
    let mut stream = connect(server.proxy("a"));
    let slicer = json!({ "average_size": 100, "size_variation": 50, "delay": 5000 });
    server.toxic("a", &json!({ "type": "slicer", "attributes": slicer }));
    stream.write_all(&[7; 3000]).unwrap();
    let start = now();
    let (mut sizes, mut buffer) = (Vec::new(), [0; 4000]);
    while sizes.iter().sum::<usize>() < 3000 {
        sizes.push(stream.read(&mut buffer).unwrap());
    }
    // At most 150 bytes each: 20 pieces or more, 19 pauses. A reader that is late finds several at once.
    assert!(start.elapsed() >= 19 * 5 * MS, "{:?}", start.elapsed());
    assert!(sizes.iter().filter(|size| **size <= 150).count() >= 5, "{sizes:?}");
    // A pause ends with its slicer.
    let slicer = json!({ "attributes": { "delay": 3_600_000_000_u64 } });
    server.must(200, "PATCH", "/proxies/a/toxics/slicer_downstream", &slicer);
    stream.write_all(&[7; 3000]).unwrap();
    stream.set_read_timeout(Some(300 * MS)).unwrap();
    assert_eq!(stream.read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
    server.reset();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_exact(&mut buffer[..3000]).unwrap();
}

/// What a toxic holds is let go when that toxic goes, not when another one comes or goes.
#[test]
fn a_change_of_one_toxic_leaves_what_others_hold() {
    let server = Server::start(&[]);
    let mut stream = connect(server.proxy("a"));
    echo(&stream, 10).unwrap();
    server.toxic("a", &json!({ "type": "bandwidth", "attributes": { "rate": 0 } }));
    stream.write_all(&[0; 1000]).unwrap();
    stream.set_read_timeout(Some(300 * MS)).unwrap();
    let nothing = |mut stream: &TcpStream| stream.read(&mut [0; 10]).unwrap_err().kind();
    assert_eq!(nothing(&stream), ErrorKind::WouldBlock);
    for direction in ["upstream", "downstream"] {
        server.toxic("a", &json!({ "type": "latency", "name": direction, "stream": direction, "attributes": { "latency": 1 } }));
        assert_eq!(nothing(&stream), ErrorKind::WouldBlock);
        server.must(204, "DELETE", &format!("/proxies/a/toxics/{direction}"), &Value::Null);
        assert_eq!(nothing(&stream), ErrorKind::WouldBlock);
    }
    server.must(204, "DELETE", "/proxies/a/toxics/bandwidth_downstream", &Value::Null);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();
}

#[test]
fn toxicity_hits_the_same_share_for_the_same_seed() {
    let hit = || {
        let server = Server::start(&[]);
        let listen = server.proxy("a");
        server.toxic("a", &json!({ "type": "reset_peer", "toxicity": 0.5 }));
        let hit = |_| echo(&connect(listen), 10).is_err();
        (0..60).map(hit).collect::<Vec<bool>>()
    };
    let first = hit();
    // 60 draws of a half: mean 30, deviation 3.9.
    let count = first.iter().filter(|hit| **hit).count();
    assert!((15..=45).contains(&count), "{count}");
    assert_eq!(first, hit());
}

#[test]
fn faults_are_those_of_packets() {
    let server = Server::start(&[]);
    let listen = server.proxy("a");
    // A path MTU that nobody tells: small segments pass, full ones never do.
    server.toxic("a", &json!({ "type": "faults", "name": "hole", "attributes": { "spec": "mtu 1000" } }));
    let stream = connect(listen);
    echo(&stream, 100).unwrap();
    stream.set_read_timeout(Some(300 * MS)).unwrap();
    assert_eq!(echo(&stream, 50_000).unwrap_err().kind(), ErrorKind::WouldBlock);
    // With the ICMP error the kernel learns the MTU, and everything passes.
    server.reset();
    server.toxic("a", &json!({ "type": "faults", "attributes": { "spec": "mtu 1000 icmp" } }));
    echo(&connect(listen), 200_000).unwrap();
    // TCP repairs losses.
    server.toxic(
        "a",
        &json!({ "type": "packet_loss", "attributes": { "loss_rate": 0.02, "correlation": 0.1 } }),
    );
    echo(&connect(listen), 500_000).unwrap();
    let wrong = server.must(
        400,
        "POST",
        "/proxies/a/toxics",
        &json!({ "type": "faults", "name": "x", "attributes": { "spec": "lost 1%" } }),
    );
    assert!(wrong.body.contains("loss"), "{}", wrong.body);
}
