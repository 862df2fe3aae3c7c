//! The `faultwire attach` of an interface: started by ADD, found again by DEL and CHECK.

use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cli::cni::faults::Wanted;
use crate::net::target::{Target, TargetRef};

/// Milliseconds that an attachment may take to let go of what it holds.
const PATIENCE: u16 = 10_000;

/// Whether the attachment runs.
pub(super) enum Running {
    Yes(i32),
    /// It has run, by its record.
    Ended,
    /// There is no record.
    Never,
}

/// The attachment of one interface.
pub(super) struct Keeper {
    /// Its process, and when that was started: a number that was given again is another process.
    pub(super) record: PathBuf,
}

impl Keeper {
    /// Starts an attachment, and returns once traffic goes through it.
    pub(super) fn start(&self, netns: &str, device: &str, wanted: &Wanted) -> io::Result<()> {
        let folder = self.record.parent().unwrap_or(&self.record);
        fs::create_dir_all(folder)?;
        let mut child = Command::new("/proc/self/exe")
            .args(["attach", "--netns", netns, "--dev", device])
            .args(&wanted.options)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // The runtime may signal the plugin's group when it is done with the plugin.
            .process_group(0)
            .spawn()?;
        let pid = child.id().cast_signed();
        let written = started(pid).ok_or_else(|| io::Error::other("faultwire attach ended at once"));
        let written = written.and_then(|started| fs::write(&self.record, format!("{pid} {started}\n")));
        let mut said = String::new();
        let mut lines = BufReader::new(child.stderr.take().ok_or(ErrorKind::BrokenPipe)?);
        while written.is_ok() && lines.read_line(&mut said)? > 0 {
            if said.lines().last().is_some_and(|line| line.starts_with("attached to")) {
                return Ok(());
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        let _ = fs::remove_file(&self.record);
        written?;
        Err(io::Error::other(said.trim().to_owned()))
    }

    /// Whether it runs.
    pub(super) fn running(&self) -> Running {
        let Ok(text) = fs::read_to_string(&self.record) else { return Running::Never };
        let mut words = text.split_whitespace();
        match words.next().and_then(|pid| pid.parse().ok()) {
            Some(pid) if started(pid).as_deref() == words.next() => Running::Yes(pid),
            _ => Running::Ended,
        }
    }

    /// Ends it, if it runs, and waits until it has let go of what it holds.
    pub(super) fn end(&self) -> io::Result<()> {
        if let Running::Yes(pid) = self.running() {
            self.end_process(pid)?;
        }
        match fs::remove_file(&self.record) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn end_process(&self, pid: i32) -> io::Result<()> {
        // From here on the process is known by a descriptor, not by its number.
        let Ok(process) = Target::find(&TargetRef::Pid(pid.cast_unsigned())) else { return Ok(()) };
        let Running::Yes(_) = self.running() else { return Ok(()) };
        kill(Pid::from_raw(pid), Signal::SIGTERM)?;
        if process.wait(PATIENCE)? {
            return Ok(());
        }
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        process.wait(PATIENCE).map(drop)
    }
}

/// When a process was started, in the kernel's own unit (`proc_pid_stat(5)`, field 22); `None` if it does not run.
fn started(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it is in brackets, and may have spaces and brackets.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let is_zombie = fields.next()? == "Z";
    fields.nth(18).filter(|_| !is_zombie).map(str::to_owned)
}
