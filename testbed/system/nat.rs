//! Translators between clients of the real kernel and third-party servers.

use std::collections::BTreeSet;

use faultwire::lab::observe::counters::Counters;
use faultwire::net::{Netns, sysctl};
use nix::sys::signal::Signal;

use crate::system::common::{Running, unique};
use crate::system::third_party::{left, serve};

/// An nginx that answers with the client's address, and its folder.
fn nginx() -> (std::path::PathBuf, String) {
    let root = std::env::temp_dir().join(format!("faultwire-{}", unique()));
    std::fs::create_dir_all(&root).unwrap();
    let dir = root.display().to_string();
    let text = format!(
        "user root; daemon off; pid {dir}/pid; error_log {dir}/error.log; events {{}}\n\
         http {{ access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; \
         uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s; keepalive_timeout 0; \
         server {{ listen 80; listen [::]:80; location / {{ return 200 \"$remote_addr $remote_port\\n\"; }} }} }}\n"
    );
    let config = root.join("nginx.conf");
    std::fs::write(&config, text).unwrap();
    (root, config.display().to_string())
}

fn nat(keys: &str) -> String {
    format!("[[nat]]\noutside = \"right\"\n{keys}\n")
}

/// The answers of nginx to a thousand connections of one curl, one after the other.
fn thousand(running: &Running, url: &str) -> Vec<(String, u16)> {
    let said = left(running, &["curl", "-sS", "-m", "60", "-o", "-", &format!("{url}/[1-1000]")]);
    let each = |line: &str| {
        let (address, port) = line.split_once(' ').unwrap();
        (address.to_owned(), port.parse().unwrap())
    };
    said.lines().filter(|line| line.contains(' ')).map(each).collect()
}

#[test]
fn a_thousand_connections_of_curl_reach_nginx_translated() {
    let (root, config) = nginx();
    let running = Running::start("", &nat("addresses = [\"10.88.2.77\", \"fd88:2::77\"]"));
    let server = serve(&running, &["nginx", "-c", &config], 80);
    for (url, public) in [("http://10.88.2.2", "10.88.2.77"), ("http://[fd88:2::2]", "fd88:2::77")] {
        let seen = thousand(&running, url);
        assert_eq!(seen.len(), 1_000);
        assert!(seen.iter().all(|(address, _)| address == public), "{:?}", seen[0]);
    }
    drop(server);
    let summary = running.stop(Signal::SIGTERM);
    assert_eq!(summary["conserved"], true);
    std::fs::remove_dir_all(root).unwrap();
}

/// Two hundred ports for a thousand connections: the server, which closes first, sees each again while it keeps the one before
/// in TIME-WAIT. With one clock that only goes forward it takes them.
#[test]
fn ports_are_used_again_by_one_clock() {
    let (root, config) = nginx();
    let keys = "ports = \"2000-2199\"\nallocation = \"random\"\ntimestamps = \"one-clock\"\n\
                timeouts = { tcp_closing = \"20ms\", tcp_reset = \"20ms\" }";
    let running = Running::start("seed = 5", &nat(keys));
    let server = serve(&running, &["nginx", "-c", &config], 80);
    let right = Netns::named(&running.right).unwrap();
    assert_eq!(sysctl::read(&right, "ipv4/tcp_timestamps").unwrap(), "1");
    let seen = thousand(&running, "http://10.88.2.2");
    assert_eq!(seen.len(), 1_000);
    let ports: BTreeSet<u16> = seen.iter().map(|(_, port)| *port).collect();
    let counters = right.run(Counters::read).unwrap().unwrap();
    assert_eq!(counters.value("TcpExt.PAWSTimewait"), Some(0));
    assert!(ports.iter().all(|port| (2_000..=2_199).contains(port)) && ports.len() > 1, "{ports:?}");
    drop(server);
    let summary = running.stop(Signal::SIGTERM);
    assert_eq!(summary["conserved"], true);
    std::fs::remove_dir_all(root).unwrap();
}

/// ICMP errors reach the right host, echoes and fragments pass, and a forward leads to its host.
#[test]
fn errors_echoes_fragments_and_forwards_find_their_way() {
    let keys = "[[nat.forward]]\nprotocol = \"tcp\"\nport = 8080\nto = \"10.88.1.2:80\"";
    let running = Running::start("", &nat(keys));
    let refused = "import socket\n\
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
        s.settimeout(20)\n\
        s.connect(('10.88.2.2', 9))\n\
        s.send(b'x')\n\
        try: s.recv(9)\n\
        except ConnectionRefusedError: print('refused')\n";
    assert_eq!(left(&running, &["python3", "-c", refused]).trim(), "refused");
    let pings = left(&running, &["ping", "-n", "-c", "3", "-i", "0.01", "-s", "4000", "10.88.2.2"]);
    assert!(pings.contains("3 received"), "{pings}");

    let client = "import socket\n\
        s = socket.create_connection(('10.88.2.1', 8080), 20)\n\
        print(s.getsockname()[0], s.recv(99).decode())\n";
    let server = "import socket\n\
        s = socket.create_server(('', 80))\n\
        print('ready', flush=True)\n\
        c, a = s.accept()\n\
        c.sendall(a[0].encode())\n";
    let mut inside = Running::inside(&running.left, &["python3", "-c", server]);
    let mut inside = inside.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(inside.stdout.as_mut().unwrap()), &mut line)
        .unwrap();
    assert_eq!(line, "ready\n");
    let output = Running::inside(&running.right, &["python3", "-c", client]).output().unwrap();
    inside.wait().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    // The client's address is kept: only the destination is translated.
    assert_eq!(said.trim(), "10.88.2.2 10.88.2.2", "{}", String::from_utf8_lossy(&output.stderr));
    let summary = running.stop(Signal::SIGTERM);
    assert_eq!(summary["conserved"], true);
    // The datagram, the ping, and the connection that was forwarded.
    let nat = &summary["nats"][0];
    let numbers = ["sessions", "peak", "table_size", "refused"].map(|key| nat[key].as_u64().unwrap());
    assert_eq!((nat["name"].as_str(), numbers), (Some("nat"), [3, 3, 65_536, 0]));
}
