//! The `faultwire attach` process of an interface: started by ADD, found again by DEL and CHECK.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::cli::cni::faults::Wanted;
use crate::cli::random_seed;
use crate::net::process::Process;

/// How long, in milliseconds, an attachment may take to release its held packets.
const PATIENCE: u16 = 10_000;

/// Whether the attachment runs.
#[derive(Debug)]
pub(super) enum Running {
    Yes(Process),
    /// Its record exists, but it does not run any more.
    Ended,
    /// There is no record.
    Never,
}

/// The attachment of one interface.
pub(super) struct Keeper {
    /// The file that identifies the process.
    pub(super) record: PathBuf,
}

/// A process and its start time: a PID can be given to another process later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    pid: u32,
    /// The start time in the kernel's unit.
    started: u64,
}

/// An attachment that is being started. If starting fails, it is removed completely.
struct Starting<'a> {
    child: Child,
    keeper: &'a Keeper,
    is_attached: bool,
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        if !self.is_attached {
            let _ = self.child.kill();
            let _ = self.child.wait();
            let _ = fs::remove_file(&self.keeper.record);
        }
    }
}

impl Keeper {
    /// Starts an attachment, and returns when traffic passes it.
    pub(super) fn start(&self, netns: &str, device: &str, wanted: &Wanted) -> io::Result<()> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("faultwire").args(["attach", "--netns", netns, "--dev", device]).args(&wanted.options);
        self.start_command(&mut command)
    }

    fn start_command(&self, command: &mut Command) -> io::Result<()> {
        let child = command
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // The runtime may send a signal to the plugin's process group when the plugin has ended.
            .process_group(0)
            .spawn()?;
        let mut starting = Starting { child, keeper: self, is_attached: false };
        let stderr = starting.child.stderr.take().ok_or(ErrorKind::BrokenPipe)?;
        // If it has ended already, it has no start time; its standard error says why it ended.
        let pid = starting.child.id();
        if let Some(started) = started(pid)? {
            self.write(Record { pid, started })?;
        }
        let (mut lines, mut said) = (BufReader::new(stderr), Vec::new());
        let mut line = 0;
        while lines.read_until(b'\n', &mut said)? > 0 {
            if said[line..].starts_with(b"attached to") {
                starting.is_attached = true;
                return Ok(());
            }
            line = said.len();
        }
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        Err(io::Error::other(if said.is_empty() {
            "faultwire attach ended at once".to_owned()
        } else {
            said
        }))
    }

    /// Whether it runs.
    pub(super) fn running(&self) -> io::Result<Running> {
        let Some(record) = self.read()? else { return Ok(Running::Never) };
        let is_the_same = || Ok::<_, io::Error>(started(record.pid)? == Some(record.started));
        if !is_the_same()? {
            return Ok(Running::Ended);
        }
        // From here on, a descriptor identifies the process. Before, the PID must not have been given to another
        // process.
        Ok(match Process::open(record.pid)? {
            Some(process) if is_the_same()? => Running::Yes(process),
            _ => Running::Ended,
        })
    }

    /// Ends it, if it runs, and waits until it has released its held packets.
    pub(super) fn end(&self) -> io::Result<()> {
        if let Running::Yes(process) = self.running()? {
            end_process(&process)?;
        }
        match fs::remove_file(&self.record) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The record, if there is one.
    fn read(&self) -> io::Result<Option<Record>> {
        let unreadable = |what: String| {
            let record = self.record.display();
            io::Error::other(format!(
                "the record {record} of what is attached cannot be read: {what}; end its faultwire attach, if one runs, and \
                 remove the file"
            ))
        };
        let text = match fs::read_to_string(&self.record) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error.to_string())),
        };
        let record = || {
            let (pid, started) = text.strip_suffix('\n')?.split_once(' ')?;
            Some(Record { pid: pid.parse().ok()?, started: started.parse().ok()? })
        };
        record()
            .map(Some)
            .ok_or_else(|| unreadable(format!("it holds {text:?}, not a process and its start")))
    }

    /// Writes the record atomically.
    fn write(&self, Record { pid, started }: Record) -> io::Result<()> {
        let (Some(folder), Some(name)) = (self.record.parent(), self.record.file_name()) else {
            return Err(ErrorKind::InvalidInput.into());
        };
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // Records begin with a letter or digit.
        let temporary = folder.join(temporary(name));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let written = file.write_all(format!("{pid} {started}\n").as_bytes());
        let written = written.and_then(|()| fs::rename(&temporary, &self.record));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

fn temporary(name: &OsStr) -> String {
    format!(".{}.{:08x}", name.to_string_lossy(), random_seed())
}

fn end_process(process: &Process) -> io::Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        if !process.signal(signal)? || process.wait(PATIENCE)? {
            return Ok(());
        }
    }
    Err(io::Error::new(ErrorKind::TimedOut, "faultwire attach does not end, even by SIGKILL"))
}

/// The kernel's `PF_EXITING`, in field 9 of `proc_pid_stat(5)`: the process is closing its descriptors, or has closed
/// them, but is not a zombie yet.
const EXITING: u64 = 0x4;

/// When a process was started (`proc_pid_stat(5)`, field 22); `None` if it does not run any more.
fn started(pid: u32) -> io::Result<Option<u64>> {
    let stat = match fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => return Ok(None),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&stat);
    let (has_ended, started) =
        end_and_start(&text).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat: {text}")))?;
    Ok((!has_ended).then_some(started))
}

/// Whether a process has ended, and when it was started, by its line in `proc_pid_stat(5)`.
fn end_and_start(line: &str) -> Option<(bool, u64)> {
    // The name is in brackets, and may contain any bytes, including spaces and brackets.
    let mut fields = line.rsplit_once(')')?.1.split_whitespace();
    let is_over = ["Z", "X"].contains(&fields.next()?);
    let flags: u64 = fields.nth(5)?.parse().ok()?;
    Some((is_over || flags & EXITING != 0, fields.nth(12)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::ExitStatusExt;

    use super::*;
    use crate::folder::Folder;

    fn keeper(folder: &Folder) -> Keeper {
        Keeper { record: folder.file("abc@eth0") }
    }

    fn own() -> Record {
        let pid = std::process::id();
        Record { pid, started: started(pid).unwrap().unwrap() }
    }

    #[test]
    fn a_process_has_ended_once_it_exits() {
        let line = |state: &str, flags: u64| {
            format!("7 (a) R b) {state} 1 7 7 0 -1 {flags} 1 2 3 4 5 6 7 8 20 0 1 0 987 10 11")
        };
        for (state, flags, has_ended) in
            [("S", 0x40_0000, false), ("R", 0x40_0004, true), ("Z", 0x40_0000, true), ("X", 0, true)]
        {
            assert_eq!(end_and_start(&line(state, flags)), Some((has_ended, 987)), "{state} {flags:x}");
        }
        assert_eq!(end_and_start("7 (a) S 1"), None);
    }

    #[test]
    fn a_record_is_private_and_whole_and_alone() {
        let folder = Folder::new();
        let keeper = keeper(&folder);
        assert!(matches!(keeper.running().unwrap(), Running::Never));
        for record in [Record { pid: 7, started: 7 }, own()] {
            keeper.write(record).unwrap();
            assert_eq!(keeper.read().unwrap(), Some(record));
        }
        assert!(matches!(keeper.running().unwrap(), Running::Yes(_)));
        assert_eq!(fs::metadata(&keeper.record).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
    }

    #[test]
    fn a_number_that_is_another_process_s_is_not_ours() {
        let folder = Folder::new();
        let keeper = keeper(&folder);
        let mut ended = Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let later = Record { started: own().started + 1, ..own() };
        for record in [later, Record { pid: ended.id(), started: 1 }] {
            keeper.write(record).unwrap();
            assert!(matches!(keeper.running().unwrap(), Running::Ended), "{record:?}");
            keeper.end().unwrap();
            assert!(matches!(keeper.running().unwrap(), Running::Never), "{record:?}");
        }
    }

    #[test]
    fn a_record_that_cannot_be_read_is_an_error_and_stays() {
        let folder = Folder::new();
        let keeper = keeper(&folder);
        let Record { pid, started } = own();
        for text in
            [String::new(), format!("{pid}\n"), format!("{pid} "), format!("{pid} {started}"), "x 1\n".into()]
        {
            fs::write(&keeper.record, &text).unwrap();
            for error in [keeper.running().map(drop).unwrap_err(), keeper.end().unwrap_err()] {
                assert!(error.to_string().contains("cannot be read"), "{text:?}: {error}");
            }
            assert!(keeper.record.exists(), "{text:?}");
        }
        fs::remove_file(&keeper.record).unwrap();
        fs::create_dir(&keeper.record).unwrap();
        assert!(keeper.running().is_err());
    }

    #[test]
    fn the_end_is_signalled_and_waited_for() {
        let folder = Folder::new();
        let keeper = keeper(&folder);
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let started = started(child.id()).unwrap().unwrap();
        keeper.write(Record { pid: child.id(), started }).unwrap();
        keeper.end().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::SIGTERM as i32));
        assert!(!keeper.record.exists());
        keeper.end().unwrap();
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    /// The reason is what the child said, also if it has ended before anybody looked at it.
    #[test]
    fn a_start_that_fails_says_why_and_leaves_nothing() {
        let folder = Folder::new();
        let keeper = keeper(&folder);
        for (script, reason) in [
            ("echo the reason >&2; exit 1", "the reason"),
            ("printf '\\377 the reason' >&2", "the reason"),
            ("exit 1", "ended at once"),
            ("echo it is attached to >&2; exec 2>&-; exec sleep 1000", "it is attached to"),
        ] {
            let error = keeper.start_command(&mut shell(script)).unwrap_err().to_string();
            assert!(error.contains(reason), "{script}: {error}");
            assert!(!keeper.record.exists(), "{script}");
        }
    }

    #[test]
    fn a_child_without_a_record_is_ended() {
        let folder = Folder::new();
        let id = folder.file("id");
        // Where the folder should be is a file.
        fs::write(folder.file("file"), "").unwrap();
        let keeper = Keeper { record: folder.file("file/abc@eth0") };
        let script = format!("echo $$ > {}; echo attached to >&2; exec sleep 1000", id.display());
        keeper.start_command(&mut shell(&script)).unwrap_err();
        if let Ok(pid) = fs::read_to_string(&id)
            && let Ok(pid) = pid.trim().parse()
        {
            assert_eq!(started(pid).unwrap(), None);
        }
    }

    #[test]
    fn a_start_that_succeeds_is_found_again() {
        let folder = Folder::new();
        let keeper = keeper(&folder);
        keeper.start_command(&mut shell("echo so >&2; echo attached to eth0 >&2; exec sleep 1000")).unwrap();
        assert!(matches!(keeper.running().unwrap(), Running::Yes(_)));
        keeper.end().unwrap();
        assert!(matches!(keeper.running().unwrap(), Running::Never));
    }
}
