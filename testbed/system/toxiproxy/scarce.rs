//! A resolver that does not answer, and scarce file descriptors.

use super::*;

/// While a change waits for a name, other proxies are served, shown and changed, and the end is heard.
#[test]
fn nothing_waits_for_a_resolver_that_is_silent() {
    let (resolver, _file, lines) = silent_resolver();
    let server = Server::start_by(&lines, &[]);
    let listen = server.proxy("a");
    let slow = json!({ "name": "slow", "listen": "name.invalid:0", "upstream": "x:1" }).to_string();
    std::thread::scope(|scope| {
        let creation = scope.spawn(|| {
            let mut stream = TcpStream::connect(server.api).unwrap();
            let length = slow.len();
            write!(stream, "POST /proxies HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{slow}")
                .unwrap();
            // The request ends without an answer.
            stream.read_to_end(&mut Vec::new())
        });
        is_asked(&resolver);
        let all = server.must(200, "GET", "/proxies", &Value::Null).json();
        assert_eq!(all.as_object().unwrap().keys().collect::<Vec<_>>(), ["a"]);
        server.must(200, "GET", "/metrics", &Value::Null);
        server.must(404, "GET", "/proxies/slow", &Value::Null);
        server.toxic("a", &json!({ "type": "latency", "attributes": { "latency": 1 } }));
        server.proxy("b");
        server.must(204, "DELETE", "/proxies/b", &Value::Null);
        echo(&connect(listen), 10).unwrap();
        send(&server.child, Signal::SIGTERM);
        let _ = creation.join().unwrap();
    });
    let mut server = server;
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

/// Requests whose clients leave while the resolver does not answer make room for changes.
#[test]
fn lookups_that_nobody_waits_for_keep_their_number() {
    let (resolver, _file, lines) = silent_resolver();
    let server = Server::start_by(&lines, &[]);
    let steady = server.proxy("steady");
    let named = json!({ "name": "named", "listen": "127.0.0.1:0", "upstream": "name.invalid:1" });
    let listen = server.must(201, "POST", "/proxies", &named).json()["listen"].as_str().unwrap().to_owned();
    for _ in 0..3 {
        let clients: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(&listen).unwrap()).collect();
        is_asked(&resolver);
        server.must(200, "POST", "/proxies/named", &json!({ "enabled": false }));
        server.must(200, "POST", "/proxies/named", &json!({ "enabled": true }));
        drop(clients);
    }
    server.toxic("steady", &json!({ "type": "latency", "attributes": { "latency": 1 } }));
    echo(&connect(steady), 10).unwrap();
}

#[test]
fn the_end_is_heard_while_the_first_proxies_are_made() {
    let (resolver, _resolv, lines) = silent_resolver();
    let file = Scratch::file(r#"[{"name": "a", "listen": "name.invalid:0", "upstream": "x:1"}]"#);
    let (mut child, _) = Server::begin(&lines, &["--config", file.path()]);
    is_asked(&resolver);
    send(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Connections for which there are no file descriptors wait, and are served when others have ended.
#[test]
fn connections_wait_where_files_are_scarce() {
    let server = Server::start_by("ulimit -n 232", &[]);
    let listen = server.proxy("a");
    // 40 descriptors are left for a proxy of 17 and connections of 4.
    let mut open: Vec<TcpStream> = (0..5).map(|_| connect(listen)).collect();
    for stream in &open {
        echo(stream, 10).unwrap();
    }
    let late = connect(listen);
    late.set_read_timeout(Some(300 * MS)).unwrap();
    assert_eq!(echo(&late, 10).unwrap_err().kind(), ErrorKind::WouldBlock);
    let other = json!({ "name": "b", "listen": "127.0.0.1:0", "upstream": "x:1" });
    let refused = server.must(500, "POST", "/proxies", &other);
    assert!(refused.body.contains("too many open files"), "{}", refused.body);
    server.must(200, "GET", "/proxies/a", &Value::Null);
    drop(open.pop());
    late.set_read_timeout(Some(PATIENCE)).unwrap();
    (&late).read_exact(&mut [0; 10]).unwrap();
    drop(open);
}

/// A proxy is replaced by another one with the descriptors that it has, though connections of others wait for some.
#[test]
fn a_proxy_is_replaced_where_files_are_scarce() {
    let server = Server::start_by("ulimit -n 232", &[]);
    // 40 descriptors are left for two proxies of 17, one connection of 4, and one that waits.
    let (a, b) = (server.proxy("a"), server.proxy("b"));
    let open = connect(b);
    echo(&open, 10).unwrap();
    let late = connect(b);
    late.set_read_timeout(Some(300 * MS)).unwrap();
    assert_eq!(echo(&late, 10).unwrap_err().kind(), ErrorKind::WouldBlock);
    let upstream = format!("localhost:{}", server.upstream.port());
    let other = json!([{ "name": "a", "listen": a.to_string(), "upstream": upstream }]);
    let made = server.must(201, "POST", "/populate", &other).json();
    assert_eq!(made["proxies"][0]["upstream"], upstream);
    assert_eq!(made["proxies"][0]["enabled"], true);
    // One that cannot listen leaves the old one there, which can be enabled again.
    let wrong = json!([{ "name": "a", "listen": "192.0.2.1:1", "upstream": upstream }]);
    server.must(500, "POST", "/populate", &wrong);
    assert_eq!(server.must(200, "GET", "/proxies/a", &Value::Null).json()["enabled"], false);
    server.must(200, "POST", "/proxies/a", &json!({ "enabled": true }));
    echo(&open, 10).unwrap();
    drop(open);
    late.set_read_timeout(Some(PATIENCE)).unwrap();
    (&late).read_exact(&mut [0; 10]).unwrap();
    drop(late);
    echo(&connect(a), 10).unwrap();
}
