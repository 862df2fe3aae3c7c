//! QUIC over a bad link in virtual time: how a protocol that does no I/O is tested with `faultwire::sim`.
//!
//! quinn-proto completes a handshake and sends a megabyte over a link that loses, delays, duplicates and reorders. That would
//! take seconds on a real link; here it takes as long as the computation. `cargo run --example quic`, no privilege needed.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use faultwire::counters::Reason;
use faultwire::faults::Faults;
use faultwire::sim::{Datagram, End, Link};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, Event,
    ReadError, ServerConfig, StreamId, WriteError,
};
use rustls::RootCertStore;
use rustls::pki_types::PrivatePkcs8KeyDer;

const BYTES: usize = 1_000_000;
/// The time by which the transfer must be over: three times what the rate alone would take.
const DEADLINE: Duration = Duration::from_secs(3);

type Failure = Box<dyn Error>;

/// An endpoint with at most one connection, at one end of the link.
struct Peer {
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    end: End,
    address: SocketAddr,
}

impl Peer {
    fn new(end: End, address: &str, server: Option<ServerConfig>) -> Result<Self, Failure> {
        let seed = Some([end as u8; 32]);
        let endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), server.map(Arc::new), true, seed);
        Ok(Self { endpoint, connection: None, end, address: address.parse()? })
    }

    /// A datagram has arrived.
    fn receive(&mut self, now: Instant, datagram: &Datagram<'_>) -> Result<(), Failure> {
        let mut buffer = Vec::new();
        let ecn = quinn_proto::EcnCodepoint::from_bits(datagram.ecn);
        let data = datagram.payload.into();
        match self.endpoint.handle(now, datagram.source, None, ecn, data, &mut buffer) {
            Some(DatagramEvent::NewConnection(incoming)) => {
                let accepted = self.endpoint.accept(incoming, now, &mut buffer, None);
                self.connection = Some(accepted.map_err(|error| error.cause)?);
            }
            Some(DatagramEvent::ConnectionEvent(_, event)) => {
                if let Some((_, connection)) = &mut self.connection {
                    connection.handle_event(event);
                }
            }
            Some(DatagramEvent::Response(_)) | None => {}
        }
        Ok(())
    }

    /// Runs timers and hands everything that can be sent to the link.
    fn transmit(&mut self, now: Instant, at: Duration, link: &mut Link) -> Result<(), Failure> {
        let Some((handle, connection)) = &mut self.connection else { return Ok(()) };
        if connection.poll_timeout().is_some_and(|due| due <= now) {
            connection.handle_timeout(now);
        }
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        let mut buffer = Vec::new();
        while let Some(transmit) = connection.poll_transmit(now, 10, &mut buffer) {
            let ecn = transmit.ecn.map_or(0, |ecn| ecn as u8);
            for payload in buffer.chunks(transmit.segment_size.unwrap_or(transmit.size).max(1)) {
                let datagram = Datagram { ecn, ..Datagram::new(self.address, transmit.destination, payload) };
                link.send(self.end, at, &datagram)?;
            }
            buffer.clear();
        }
        while let Some(event) = connection.poll() {
            if let Event::ConnectionLost { reason } = event {
                return Err(reason.into());
            }
        }
        Ok(())
    }

    fn next_due(&mut self) -> Option<Instant> {
        self.connection.as_mut()?.1.poll_timeout()
    }
}

/// The sending application: writes what the stream takes, then ends it.
struct Sender {
    stream: Option<StreamId>,
    left: usize,
}

impl Sender {
    fn work(&mut self, connection: &mut Connection) -> Result<(), Failure> {
        if connection.is_handshaking() || self.left == 0 {
            return Ok(());
        }
        if self.stream.is_none() {
            self.stream = connection.streams().open(Dir::Uni);
        }
        let Some(id) = self.stream else { return Ok(()) };
        let mut stream = connection.send_stream(id);
        while self.left > 0 {
            match stream.write(&[b'x'; 4096][..self.left.min(4096)]) {
                Ok(written) => self.left -= written,
                Err(WriteError::Blocked) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(stream.finish()?)
    }
}

/// The receiving application: counts bytes; true at the end of the stream.
fn read(
    connection: &mut Connection,
    stream: &mut Option<StreamId>,
    read: &mut usize,
) -> Result<bool, Failure> {
    *stream = stream.or_else(|| connection.streams().accept(Dir::Uni));
    let Some(id) = *stream else { return Ok(false) };
    let mut receiver = connection.recv_stream(id);
    let mut chunks = receiver.read(true)?;
    let is_over = loop {
        match chunks.next(usize::MAX) {
            Ok(Some(chunk)) => *read += chunk.bytes.len(),
            Ok(None) => break true,
            Err(ReadError::Blocked) => break false,
            Err(error) => return Err(error.into()),
        }
    };
    let _ = chunks.finalize();
    Ok(is_over)
}

fn configs() -> Result<(ClientConfig, ServerConfig), Failure> {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone())?;
    let server = ServerConfig::with_single_cert(vec![own.cert.der().clone()], key.into())?;
    Ok((ClientConfig::with_root_certificates(Arc::new(roots))?, server))
}

/// Sends [`BYTES`] over `link`; the virtual time that it took.
fn transfer(link: &mut Link) -> Result<Duration, Failure> {
    let (client_config, server_config) = configs()?;
    let mut client = Peer::new(End::Left, "10.0.0.1:4000", None)?;
    let mut server = Peer::new(End::Right, "10.0.0.2:443", Some(server_config))?;
    // quinn-proto's clock cannot be made from a number: any moment will do as the start.
    #[expect(clippy::disallowed_methods, reason = "the start of virtual time")]
    let start = Instant::now();
    client.connection = Some(client.endpoint.connect(start, client_config, server.address, "localhost")?);
    let (mut sender, mut stream, mut received) = (Sender { stream: None, left: BYTES }, None, 0);
    let mut at = Duration::ZERO;
    while at < DEADLINE {
        let now = start + at;
        while let Some(arrival) = link.pull(at) {
            let peer = if arrival.to == End::Left { &mut client } else { &mut server };
            // What is damaged never reaches the application, as with a real socket.
            if let Some(datagram) = arrival.datagram() {
                peer.receive(now, &datagram)?;
            }
        }
        if let Some((_, connection)) = &mut client.connection {
            sender.work(connection)?;
        }
        if let Some((_, connection)) = &mut server.connection
            && read(connection, &mut stream, &mut received)?
        {
            assert_eq!(received, BYTES);
            return Ok(at);
        }
        client.transmit(now, at, link)?;
        server.transmit(now, at, link)?;
        let timers = [client.next_due(), server.next_due()].into_iter().flatten();
        let timers = timers.map(|due| due.saturating_duration_since(start));
        let next = timers.chain(link.next_due()).min().ok_or("nothing will happen any more")?;
        at = next.max(at);
    }
    Err(format!("only {received} bytes after {at:?}").into())
}

fn main() -> Result<(), Failure> {
    let up: Faults = "delay 10ms 2ms loss 1% duplicate 1% reorder 1% rate 10mbit limit 1000".parse()?;
    let mut link = Link::directed(&up, &"delay 10ms loss 1%".parse()?, 1);
    let took = transfer(&mut link)?;
    // A million bytes at 10 Mbit/s.
    assert!(took > Duration::from_millis(800), "faster than the link: {took:?}");
    let lost = link.counters().drops.of(Reason::Loss).packets;
    assert!(lost > 0, "the link lost nothing");
    Ok(())
}
