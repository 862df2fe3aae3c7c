//! Packets through a router whose worker tells a capture of them, and the capture that is written.

use std::path::Path;

use faultwire::capture::files::{self, Rotation};
use faultwire::capture::recorder::{Recorder, Style};
use faultwire::journal::hub::Reader;
use faultwire::journal::tap::Told;
use faultwire::journal::{Finished, Kind, Names, Record, Sink, Tap};
use faultwire::pipeline::counters::Reason;
use faultwire::pipeline::packet::Packet;
use faultwire::pipeline::random::rng::Draw;
use faultwire::pipeline::router::path::SeatId;
use faultwire::pipeline::router::{Egress, Headers, What};
use faultwire::pipeline::time::Instant;

use crate::packets::{Feed, Row};

/// Room for all that one row tells: what is told is not read while it is counted.
const RING: usize = 512 << 20;
/// Longer than any packet.
const WHOLE: u32 = 262_144;

/// What is captured: how it is called, drops alone, bytes of each packet.
pub(crate) const CAPTURES: [(&str, bool, u32); 3] =
    [("drops", true, WHOLE), ("128-bytes", false, 128), ("whole", false, WHOLE)];

/// A worker that tells a capture, and who reads it.
pub(crate) struct Recording {
    feed: Feed,
    worker: Worker,
    reader: Reader,
}

impl Recording {
    /// `is_written`: the file is written (to /dev/null), else what is told stays in the ring.
    pub(crate) fn new(row: &Row, (_, drops, snaplen): (&str, bool, u32), is_written: bool) -> Self {
        let feed = row.feed();
        let lane = Recorder::lane(drops, snaplen);
        let sink: Box<dyn Sink> = if is_written {
            let style = Style { snaplen, rotation: Rotation::default() };
            let null = Path::new("/dev/null");
            let names = Names::of(&feed.params, &["up"]);
            Box::new(Recorder::new(files::open(null).unwrap(), null, style, &names).unwrap())
        } else {
            Box::new(Nobody)
        };
        let (mut reader, taps) = Reader::new(vec![(lane, sink)], RING);
        reader.begin();
        Self { feed, worker: Worker(taps.tap(1_024)), reader }
    }

    /// One packet through the router.
    pub(crate) fn tell(&mut self) {
        self.feed.give(&mut self.worker);
    }

    /// Writes what was told.
    pub(crate) fn write(&mut self) {
        assert!(self.reader.read(), "nothing was told");
    }
}

/// Is told, and forgets.
struct Nobody;

impl Sink for Nobody {
    fn record(&mut self, _record: &Record<'_>) {}

    fn finish(self: Box<Self>, _lost: u64) -> Finished {
        Finished::default()
    }
}

/// Tells what a worker tells a capture.
struct Worker(Tap);

impl Worker {
    fn tell(&mut self, told: &Told<'_>, packet: &Packet, at: Instant, draw: &dyn Fn() -> Option<Draw>) {
        if self.0.wants(told.kind) {
            self.0.tell(told, packet, at, draw);
        }
    }
}

impl Egress for Worker {
    const RECORDS: bool = true;

    fn send(&mut self, port: u16, packet: &mut Packet, due: Instant) -> Result<(), Reason> {
        let told = Told { port: Some(port), due: Some(due), left: Some(due), ..Told::of(Kind::Sent) };
        self.tell(&told, packet, due, &|| None);
        Ok(())
    }

    fn record(&mut self, what: What, packet: &Packet, at: Instant) {
        if matches!(what, What::Received(_)) {
            self.tell(&Told::of(Kind::Received), packet, at, &|| None);
        }
    }

    fn transmission(&mut self, packet: &Packet) -> u8 {
        self.0.transmission(packet)
    }

    fn wants_draws(&self) -> bool {
        self.0.wants(Kind::Dropped)
    }

    fn dropped(
        &mut self,
        place: Option<SeatId>,
        reason: Reason,
        packet: &Packet,
        at: Instant,
        draw: &dyn Fn() -> Option<Draw>,
    ) {
        self.tell(&Told { place, reason: Some(reason), ..Told::of(Kind::Dropped) }, packet, at, draw);
    }

    fn wants_headers(&self) -> bool {
        self.0.wants(Kind::Rewritten)
    }

    fn rewritten(&mut self, place: SeatId, before: Option<&Headers>, packet: &Packet, at: Instant) {
        let told = Told { place: Some(place), before, ..Told::of(Kind::Rewritten) };
        self.tell(&told, packet, at, &|| None);
    }

    fn hears(&self) -> bool {
        Kind::DEEDS.iter().any(|kind| self.0.wants(*kind))
    }
}
