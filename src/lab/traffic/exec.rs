//! Any program as a client or a server.

use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::lab::clock::{self, Deadline};
use crate::lab::observe::sockets::tcp_sockets;
use crate::lab::traffic::facts;
use crate::lab::value::Facts;

/// Bytes kept of each output of a program; the rest is read and dropped.
const KEPT: usize = 64 * 1024;

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// Program and arguments; no shell.
    pub command: Vec<String>,
    /// A client is stopped after this; a server must be ready within it.
    pub timeout: Duration,
    /// A server is ready when this TCP port has a listener.
    pub ready_port: Option<u16>,
}

/// A program at work, in a process group of its own.
#[derive(Debug)]
pub struct Program {
    child: Child,
    stdout: JoinHandle<Vec<u8>>,
    stderr: JoinHandle<Vec<u8>>,
}

/// What came of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code, 128 + n if signal n ended it, as shells say.
    pub exit: i32,
    /// It was stopped at its timeout, or because the case was over.
    pub stopped: bool,
    /// The first 64 KiB that it wrote.
    pub stdout: String,
    /// The first 64 KiB of complaints.
    pub stderr: String,
}

impl Exec {
    /// Starts the program in the namespace of the calling thread, and waits for its port if it has one.
    ///
    /// # Errors
    /// There is no such program, or it ended or took too long before its port listened; the message has its complaints.
    pub fn start(&self) -> io::Result<Program> {
        let (name, arguments) = self
            .command
            .split_first()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "exec needs a program"))?;
        let mut child = Command::new(name)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("cannot run `{name}`: {error}")))?;
        let stdout = collect(child.stdout.take());
        let stderr = collect(child.stderr.take());
        let program = Program { child, stdout, stderr };
        match self.ready_port {
            Some(port) => program.when_ready(name, port, Deadline::after(self.timeout)),
            None => Ok(program),
        }
    }

    /// Runs the program to its end or its timeout.
    ///
    /// # Errors
    /// There is no such program.
    pub fn run(&self) -> io::Result<Ended> {
        let mut program = Self { ready_port: None, ..self.clone() }.start()?;
        let in_time = program.wait(Deadline::after(self.timeout))?;
        if in_time { Ok(program.ended(false)) } else { program.stop() }
    }
}

impl Program {
    fn when_ready(mut self, name: &str, port: u16, deadline: Deadline) -> io::Result<Self> {
        loop {
            if tcp_sockets()?.iter().any(|socket| socket.state == "LISTEN" && socket.local.port() == port) {
                return Ok(self);
            }
            let gone = self.child.try_wait()?.is_some();
            if gone || deadline.left().is_none() {
                let ended = self.stop()?;
                let why = if gone { "ended" } else { "took too long" };
                let said = ended.stderr.trim();
                return Err(io::Error::other(format!("`{name}` {why} before port {port} listened: {said}")));
            }
            // The kernel tells nobody that a port began to listen.
            clock::pause(Duration::from_millis(5));
        }
    }

    /// Whether it ended before the deadline.
    fn wait(&mut self, deadline: Deadline) -> io::Result<bool> {
        while self.child.try_wait()?.is_none() {
            if deadline.left().is_none() {
                return Ok(false);
            }
            // A pidfd would be an event to wait for; std does not offer one yet.
            clock::pause(Duration::from_millis(2));
        }
        Ok(true)
    }

    /// Ends it and what it started: SIGTERM, and SIGKILL after 2 s.
    ///
    /// # Errors
    /// The kernel refuses, or its state cannot be read.
    pub fn stop(mut self) -> io::Result<Ended> {
        let running = self.child.try_wait()?.is_none();
        let group = Pid::from_raw(self.child.id() as i32);
        // A group whose processes are all gone is what we want.
        let _ = killpg(group, Signal::SIGTERM);
        if !self.wait(Deadline::after(Duration::from_secs(2)))? {
            let _ = killpg(group, Signal::SIGKILL);
            self.child.wait()?;
        }
        let _ = killpg(group, Signal::SIGKILL);
        Ok(self.ended(running))
    }

    fn ended(mut self, stopped: bool) -> Ended {
        let exit = self
            .child
            .wait()
            .map_or(-1, |status| status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
        let text = |thread: JoinHandle<Vec<u8>>| {
            String::from_utf8_lossy(&thread.join().unwrap_or_default()).into_owned()
        };
        Ended { exit, stopped, stdout: text(self.stdout), stderr: text(self.stderr) }
    }
}

/// Reads an output to its end on a thread, so that the program never blocks on it.
fn collect(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        let Some(mut pipe) = pipe else { return kept };
        // What was read until an error is still worth showing.
        let _ = pipe.by_ref().take(KEPT as u64).read_to_end(&mut kept);
        let _ = io::copy(&mut pipe, &mut io::sink());
        kept
    })
}

impl Ended {
    /// Under the names of case files.
    pub fn facts(&self) -> Facts {
        facts([
            (
                "exit",
                if self.exit < 0 {
                    f64::from(self.exit).into()
                } else {
                    u64::from(self.exit.unsigned_abs()).into()
                },
            ),
            ("stopped", self.stopped.into()),
            ("stdout", self.stdout.trim().into()),
            ("stderr", self.stderr.trim().into()),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(command: &[&str]) -> Exec {
        let command = command.iter().map(|&word| word.to_owned()).collect();
        Exec { command, timeout: Duration::from_secs(5), ready_port: None }
    }

    #[test]
    fn the_exit_code_and_both_outputs_are_kept() {
        let ended = exec(&["sh", "-c", "echo out; echo err >&2; exit 3"]).run().unwrap();
        assert_eq!((ended.exit, ended.stopped), (3, false));
        assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("out\n", "err\n"));
    }

    #[test]
    fn a_program_is_stopped_at_its_timeout_with_what_it_started() {
        let slow = Exec { timeout: Duration::from_millis(50), ..exec(&["sh", "-c", "sleep 60 & sleep 60"]) };
        let ended = slow.run().unwrap();
        assert!(ended.stopped);
        assert_eq!(ended.exit, 128 + 15);
    }

    #[test]
    fn a_server_that_ends_early_or_does_not_exist_says_so() {
        let broken = Exec { ready_port: Some(1), ..exec(&["sh", "-c", "echo no config >&2; exit 1"]) };
        let error = broken.start().unwrap_err().to_string();
        assert!(error.contains("ended before port 1 listened: no config"), "{error}");
        let error = exec(&["/nonexistent/program"]).start().unwrap_err().to_string();
        assert!(error.contains("cannot run `/nonexistent/program`"), "{error}");
    }
}
