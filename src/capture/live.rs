//! Logs of a running router. The records of a lane become lines, in one file for each path.

use std::fs::File;
use std::io::{BufWriter, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::capture::event::Event;
use crate::capture::mahimahi::Log;
use crate::journal::record::FIXED;
use crate::journal::{Finished, Hub, Kind, Lane, Record, Sink, Start, Taps};
use crate::pipeline::packet::Packet;
use crate::pipeline::params::PathParams;
use crate::pipeline::time::{self, Instant};

/// Bytes of each worker's ring: room for one second of 100,000 packets, in and out.
const RING: usize = FIXED << 18;
/// How long an event of one worker is held back, because another worker may still report an earlier one.
const HOLD_BACK: time::Duration = time::Duration::from_millis(100);

/// Errors of writing logs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The folder cannot be made.
    #[error("{folder}: the folder of the logs cannot be created: {source}")]
    Folder {
        /// Its name.
        folder: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("{file}: the log cannot be written: {source}")]
    File {
        /// Its name.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// A path that gets a log.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Name of the file in the folder.
    pub file: String,
    /// The direction, for the header of the log.
    pub direction: String,
    /// The path.
    pub path: &'a PathParams,
}

/// A thread that writes logs until the workers have ended.
#[derive(Debug)]
pub struct LiveLog {
    hub: Hub,
    written: Receiver<Result<u64, LogError>>,
}

impl LiveLog {
    /// Opens the logs of the first paths of a router in `folder`, which is made if it does not exist, and starts to write. The taps are
    /// for the workers.
    ///
    /// # Errors
    /// If a file or the folder cannot be made.
    pub fn start(folder: &Path, command: &str, wanted: &[Wanted<'_>]) -> Result<(Self, Taps), LogError> {
        let named = |source| LogError::Folder { folder: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(named)?;
        let open = |wanted: &Wanted<'_>| {
            let file = folder.join(&wanted.file);
            let opened = File::create(&file)
                .and_then(|out| Log::new(BufWriter::new(out), wanted.path, &wanted.direction, command));
            match opened {
                Ok(log) => Ok((file, log)),
                Err(source) => Err(LogError::File { file, source }),
            }
        };
        let logs = wanted.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let (done, written) = bounded(1);
        let writer = Writer { logs, waiting: Vec::new(), latest: Instant::ZERO, done };
        let (hub, taps) = Hub::with_ring(lane(wanted.len()), Box::new(writer), RING).map_err(named)?;
        hub.begin();
        Ok((Self { hub, written }, taps))
    }

    /// Waits until all events are written, and returns the number of events that did not fit into the rings. The workers must have ended.
    ///
    /// # Errors
    /// With the first file that could not be written.
    pub fn finish(self) -> Result<u64, LogError> {
        self.hub.finish();
        // If the writer has panicked, its panic has been resumed.
        self.written.recv().unwrap_or(Ok(0))
    }
}

/// The lane for the logs of the first `paths` paths.
fn lane(paths: usize) -> Lane {
    let kinds: &[Kind] = if paths == 0 { &[] } else { &[Kind::Entered, Kind::Sent, Kind::Dropped] };
    let last = u16::try_from(paths).unwrap_or(Packet::NO_PATH).saturating_sub(1);
    Lane { start: Start::Nothing, paths: Some(0..=last), ..Lane::of(kinds) }
}

struct Writer {
    logs: Vec<(PathBuf, Log<BufWriter<File>>)>,
    /// Events that have been taken but not written.
    waiting: Vec<Event>,
    /// Time of the latest event that has been taken.
    latest: Instant,
    done: Sender<Result<u64, LogError>>,
}

impl Writer {
    /// Writes, in order, the events that are older than the latest one by at least this time.
    fn write(&mut self, hold_back: time::Duration) {
        // The sort is stable: events of a worker with the same time keep their order.
        self.waiting.sort_by_key(|event| event.at);
        let latest = self.latest;
        let ready = self.waiting.partition_point(|event| latest.since(event.at) >= hold_back);
        for event in self.waiting.drain(..ready) {
            if let Some((_, log)) = self.logs.get_mut(usize::from(event.path)) {
                log.record(&event);
            }
        }
    }
}

impl Sink for Writer {
    fn record(&mut self, record: &Record<'_>) {
        if let Some(event) = Event::told(record) {
            self.latest = event.at.max(self.latest);
            self.waiting.push(event);
        }
    }

    fn pause(&mut self, _length: Duration) {
        self.write(HOLD_BACK);
    }

    fn finish(mut self: Box<Self>, lost: u64) -> Finished {
        self.write(time::Duration::ZERO);
        let finish = |(file, log): (PathBuf, Log<BufWriter<File>>)| match log.finish() {
            Ok(_) => Ok(()),
            Err(source) => Err(LogError::File { file, source }),
        };
        let result = self.logs.into_iter().try_for_each(finish);
        // If an error ended the run, nobody receives it.
        let _ = self.done.send(result.map(|()| lost));
        Finished::default()
    }
}

/// Checks that logs can be put into this folder: it exists, or nothing with this name exists.
///
/// # Errors
/// If it is something else.
pub fn check_folder(folder: &Path) -> Result<(), LogError> {
    match std::fs::metadata(folder) {
        Ok(there) if there.is_dir() => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Ok(_) => {
            let source =
                std::io::Error::other("it is a file; --log takes a folder, with a file for each path");
            Err(LogError::Folder { folder: folder.to_owned(), source })
        }
        Err(source) => Err(LogError::Folder { folder: folder.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;
    use crate::journal::record::tests::record;

    fn came(millis: u64, path: u16) -> Record<'static> {
        let at = time::Duration::from_millis(millis).as_nanos();
        Record { kind: Kind::Entered, at, path, each: 96, last: 96, ..record() }
    }

    /// Two workers. The second one reports an early event late.
    #[test]
    fn lines_are_in_order_whichever_worker_tells_first() {
        let Folder(folder) = &Folder::new();
        let path = PathParams::new(0, 1, Vec::new());
        let log = |name: &str| {
            let out = BufWriter::new(File::create(folder.join(name)).unwrap());
            (folder.join(name), Log::new(out, &path, "Uplink", "run").unwrap())
        };
        let (done, written) = bounded(1);
        let logs = vec![log("0"), log("1")];
        let mut writer = Writer { logs, waiting: Vec::new(), latest: Instant::ZERO, done };
        for millis in [10, 20, 130] {
            writer.record(&came(millis, 0));
        }
        writer.pause(Duration::ZERO);
        assert_eq!(writer.waiting.len(), 1, "what is not old enough waits");
        writer.record(&came(120, 0));
        writer.record(&came(125, 1));
        assert_eq!(Box::new(writer).finish(3), Finished::default());
        assert_eq!(written.recv().unwrap().unwrap(), 3);
        let lines = |name: &str| {
            let text = std::fs::read_to_string(folder.join(name)).unwrap();
            text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(lines("0"), ["10 + 100", "20 + 100", "120 + 100", "130 + 100"]);
        assert_eq!(lines("1"), ["125 + 100"]);
    }

    #[test]
    fn a_file_is_no_folder_for_logs() {
        let told = check_folder(Path::new("/etc/passwd")).unwrap_err().to_string();
        assert!(told.contains("--log takes a folder"), "{told}");
        assert!(check_folder(Path::new("/tmp")).is_ok());
        assert!(check_folder(Path::new("/tmp/no/such/folder")).is_ok());
    }
}
