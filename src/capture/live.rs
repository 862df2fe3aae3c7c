//! Logs of a running router: a thread reads the workers' events and writes a file for each path.

use std::fs::File;
use std::io::{BufWriter, ErrorKind};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, TryRecvError, after};

use crate::capture::mahimahi::Log;
use crate::engine::events::{Event, Events};
use crate::pipeline::params::PathParams;
use crate::pipeline::time::{self, Instant};

/// Events of each worker that may wait to be written: a second of 100,000 packets, with their way in and out.
const CAPACITY: usize = 1 << 18;
/// Time between two looks into the workers' rings.
const LOOK: Duration = Duration::from_millis(5);
/// How long an event of one worker is held back, because another worker may still report an earlier one.
const HOLD_BACK: time::Duration = time::Duration::from_millis(100);

/// Why there is no log, or only a part of one.
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

/// A path whose log is wanted.
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
    thread: Option<JoinHandle<Result<(), LogError>>>,
}

impl LiveLog {
    /// Opens the logs of the first paths of a router in `folder`, which is made if need be, and starts to write. The workers have
    /// to be given the events.
    ///
    /// # Errors
    /// A file or the folder that cannot be made.
    pub fn start(folder: &Path, command: &str, wanted: &[Wanted<'_>]) -> Result<(Self, Events), LogError> {
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
        let (events, rings) = Events::new(CAPACITY, logs.len());
        let writer = Writer { logs, rings: Vec::new(), waiting: Vec::new(), latest: Instant::ZERO };
        let thread = std::thread::Builder::new().name("log".into()).spawn(move || writer.run(&rings));
        Ok((Self { thread: Some(thread.map_err(named)?) }, events))
    }

    /// Waits until all events are written. The workers must have ended.
    ///
    /// # Errors
    /// The first file that could not be written.
    pub fn finish(mut self) -> Result<(), LogError> {
        let ended = self.thread.take().map(JoinHandle::join);
        ended.map_or(Ok(()), |ended| ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl Drop for LiveLog {
    /// Events until an error ended the run are written, too.
    fn drop(&mut self) {
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Writer {
    logs: Vec<(PathBuf, Log<BufWriter<File>>)>,
    rings: Vec<Receiver<Event>>,
    /// Taken and not yet written.
    waiting: Vec<Event>,
    /// The latest of all that was taken.
    latest: Instant,
}

impl Writer {
    fn run(mut self, rings: &Receiver<Receiver<Event>>) -> Result<(), LogError> {
        loop {
            let more = loop {
                match rings.try_recv() {
                    Ok(ring) => self.rings.push(ring),
                    Err(TryRecvError::Empty) => break true,
                    Err(TryRecvError::Disconnected) => break false,
                }
            };
            self.take();
            if !more && self.rings.is_empty() {
                break;
            }
            // A single worker reports in order.
            self.write(if self.rings.len() > 1 { HOLD_BACK } else { time::Duration::ZERO });
            // Poll: to wake this thread, the workers would need a system call.
            let _ = after(LOOK).recv();
        }
        self.write(time::Duration::ZERO);
        for (file, log) in self.logs {
            log.finish().map_err(|source| LogError::File { file, source })?;
        }
        Ok(())
    }

    /// Empties the rings, and forgets those whose worker has ended.
    fn take(&mut self) {
        let (waiting, latest) = (&mut self.waiting, &mut self.latest);
        self.rings.retain(|ring| {
            loop {
                match ring.try_recv() {
                    Ok(event) => {
                        *latest = event.at.max(*latest);
                        waiting.push(event);
                    }
                    Err(TryRecvError::Empty) => return true,
                    Err(TryRecvError::Disconnected) => return false,
                }
            }
        });
    }

    /// Writes, in order, the events that are older than the latest one by at least this time.
    fn write(&mut self, hold_back: time::Duration) {
        // Stable: events of a worker with the same time keep their order.
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

/// Whether a log can be put into this folder: it is one, or there is nothing of this name yet.
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
    use crossbeam_channel::bounded;

    use super::*;
    use crate::engine::events::Kind;
    use crate::folder::Folder;

    fn event(millis: u64, path: u16) -> Event {
        let at = Instant::ZERO + time::Duration::from_millis(millis);
        Event { at, kind: Kind::Came, path, wires: 1, each: 96, last: 96, lineage: 0, flow: 1, index: millis }
    }

    /// Two workers, the second of which tells late of what was early.
    #[test]
    fn lines_are_in_order_whichever_worker_tells_first() {
        let Folder(folder) = &Folder::new();
        let path = PathParams::new(0, 1, Vec::new());
        let log = |name: &str| {
            let out = BufWriter::new(File::create(folder.join(name)).unwrap());
            (folder.join(name), Log::new(out, &path, "Uplink", "run").unwrap())
        };
        let (one, two) = (bounded(9), bounded(9));
        let mut writer = Writer {
            logs: vec![log("0"), log("1")],
            rings: vec![one.1, two.1],
            waiting: Vec::new(),
            latest: Instant::ZERO,
        };
        for millis in [10, 20, 130] {
            one.0.send(event(millis, 0)).unwrap();
        }
        writer.take();
        writer.write(HOLD_BACK);
        assert_eq!(writer.waiting.len(), 1, "what is not old enough waits");
        two.0.send(event(120, 0)).unwrap();
        two.0.send(event(125, 1)).unwrap();
        drop((one.0, two.0));
        let (sender, rings) = crossbeam_channel::unbounded();
        drop(sender);
        writer.run(&rings).unwrap();
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
