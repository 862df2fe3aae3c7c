//! What `toxiproxy_rust` says about the server at `$TOXIPROXY`, and what its toxics do to a connection.

use std::io::{Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use toxiproxy_rust::client::Client;
use toxiproxy_rust::proxy::{Proxy, ProxyPack};

/// An upstream that gives back what it gets.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            // A client may leave as it likes.
            thread::spawn(move || drop(std::io::copy(&mut client.try_clone().unwrap(), &mut client)));
        }
    });
    address
}

/// How long an exchange of so many bytes takes; an error if the connection ends before.
fn exchange(proxy: &Proxy, bytes: usize) -> Result<Duration> {
    let start = Instant::now();
    let mut stream = TcpStream::connect(&proxy.proxy_pack.listen)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(&vec![7; bytes])?;
    stream.read_exact(&mut vec![0; bytes])?;
    Ok(start.elapsed())
}

fn main() {
    let api = std::env::var("TOXIPROXY").unwrap();
    let client = Client::new(api.trim_start_matches("http://"));
    assert!(client.is_running());
    assert!(client.version().unwrap().starts_with("{\"version\": \"2."));
    let upstream = echo().to_string();
    let pack = |name: &str| ProxyPack::new(name.into(), "127.0.0.1:0".into(), upstream.clone());
    let made = client.populate(vec![pack("one"), pack("other")]).unwrap();
    assert_eq!(made.len(), 2);
    assert!(client.find_proxy("none").is_err());
    let proxy = client.find_and_reset_proxy("one").unwrap();
    exchange(&proxy, 100).unwrap();

    let done = proxy.with_latency("downstream".into(), 150, 0, 1.0).apply(|| {
        assert!(exchange(&proxy, 100).unwrap() >= Duration::from_millis(150));
        let toxics = proxy.toxics().unwrap();
        assert_eq!((toxics.len(), toxics[0].attributes["latency"]), (1, 150));
    });
    done.unwrap();
    assert!(proxy.toxics().unwrap().is_empty());

    let sliced = proxy.with_slicer("upstream".into(), 20, 5, 1000, 1.0).with_bandwidth("downstream".into(), 100, 1.0);
    sliced.apply(|| assert!(exchange(&proxy, 1000).is_ok())).unwrap();
    proxy.with_slow_close("downstream".into(), 10, 1.0).apply(|| assert!(exchange(&proxy, 100).is_ok())).unwrap();
    proxy.with_limit_data("downstream".into(), 50, 1.0).apply(|| assert!(exchange(&proxy, 100).is_err())).unwrap();
    proxy.with_timeout("upstream".into(), 100, 1.0).apply(|| assert!(exchange(&proxy, 100).is_err())).unwrap();

    proxy.with_down(|| assert!(TcpStream::connect(&proxy.proxy_pack.listen).is_err())).unwrap();
    exchange(&proxy, 100).unwrap();
    assert_eq!(client.all().unwrap().len(), 2);
    proxy.delete().unwrap();
    client.reset().unwrap();
    assert_eq!(client.all().unwrap().into_keys().collect::<Vec<_>>(), ["other"]);
}
