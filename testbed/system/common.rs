//! The binary under test, and helpers that the tests share.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigHandler, Signal};

/// Time limit of one test binary: a test that hangs must end with a message.
const ALL_TESTS: Duration = Duration::from_hours(1);
/// Time limit for anything that should happen at once, also on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// What tests inherit is set by themselves, once: signals that whoever started them ignores (`nohup`, a script's `&`)
/// would be ignored by all that they start. And no test can make the others wait for ever.
fn set_up() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGCHLD] {
            // SAFETY: the default action is not a function of this program.
            unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }.unwrap();
        }
        std::thread::spawn(|| {
            faultwire::lab::clock::pause(ALL_TESTS);
            // Without a macro: the captured output of tests would be lost at the exit. The harness has printed the test's name.
            let said = format!("the tests took longer than {ALL_TESTS:?}: one of them hangs\n");
            let _ = std::io::stderr().write_all(said.as_bytes());
            std::process::exit(1);
        });
    });
}

/// Waits until a condition that the test has caused is true; fails after [`PATIENCE`].
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = faultwire::lab::clock::Deadline::after(PATIENCE);
    while !holds() {
        assert!(deadline.left().is_some(), "this did not come true: {what}");
        faultwire::lab::clock::pause(Duration::from_millis(5));
    }
}

/// Sends a signal to a child.
pub(crate) fn send(child: &Child, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).unwrap();
}

/// An external program, with the same output everywhere: without translations and colours.
pub(crate) fn tool(program: &str) -> Command {
    set_up();
    let mut command = Command::new(program);
    command.env("LC_ALL", "C").env_remove("LANGUAGE").env("NO_COLOR", "1").env_remove("CLICOLOR_FORCE");
    command
}

/// The binary under test.
pub(crate) fn faultwire() -> Command {
    set_up();
    if let Err(closed) = faultwire::net::privilege::check() {
        panic!("these tests make namespaces and TUN devices: {closed}");
    }
    tool(env!("CARGO_BIN_EXE_faultwire"))
}

/// Runs the binary until it ends.
pub(crate) fn output(arguments: &[&str]) -> Output {
    faultwire().args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// The complete output of both streams.
pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A unique name of at most 8 bytes.
pub(crate) fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("t{:x}{:x}", std::process::id() & 0xffff, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Runs a command of `ip`, which must succeed.
pub(crate) fn ip(arguments: &[&str]) -> String {
    let output = tool("ip").args(arguments).output().expect("iproute2 is installed (testbed/run does that)");
    assert!(output.status.success(), "ip {arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// A namespace that does not belong to faultwire; removed at the end of the test.
pub(crate) struct Foreign(pub(crate) String);

impl Foreign {
    pub(crate) fn new() -> Self {
        let name = unique();
        ip(&["netns", "add", &name]);
        Self(name)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = tool("ip").args(["netns", "del", &self.0]).status();
    }
}

/// A file with this content; removed at the end of the test.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn file(content: &str) -> Self {
        let path = std::env::temp_dir().join(format!("faultwire-{}.toml", unique()));
        std::fs::write(&path, content).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A terminal with a program on it.
pub(crate) struct Terminal {
    master: File,
    slave: Option<OwnedFd>,
    /// Output that no call has returned yet.
    heard: String,
    /// The first bytes of an incomplete UTF-8 character.
    begun: Vec<u8>,
}

impl Terminal {
    pub(crate) fn open() -> Self {
        Self::of_size(80, 24)
    }

    pub(crate) fn of_size(columns: u16, rows: u16) -> Self {
        // Closed in the processes that other tests start. Otherwise the terminal would not end with its program.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = nix::pty::posix_openpt(flags).unwrap();
        nix::pty::grantpt(&master).unwrap();
        nix::pty::unlockpt(&master).unwrap();
        let name = nix::pty::ptsname_r(&master).unwrap();
        let slave = File::options().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(&name);
        let slave = slave.unwrap();
        let [columns, rows] = [columns, rows].map(|number| number.to_string());
        let stty = tool("stty").args(["-F", &name, "cols", &columns, "rows", &rows]).output().unwrap();
        assert!(stty.status.success(), "{}", said(&stty));
        let master = OwnedFd::from(master);
        Self { master: master.into(), slave: Some(slave.into()), heard: String::new(), begun: Vec::new() }
    }

    /// Starts a program on the terminal, as the leader of its session.
    pub(crate) fn spawn(&mut self, command: &[&str]) -> Child {
        let slave = self.slave.take().expect("a terminal is for one program");
        let stream = || Stdio::from(slave.try_clone().unwrap());
        let mut setsid = tool("setsid");
        setsid.arg("-c").args(command).stdin(stream()).stdout(stream()).stderr(stream());
        setsid.spawn().expect("setsid is installed (util-linux)")
    }

    /// Reads until `words` appear. Returns all output up to there that was not returned before.
    pub(crate) fn wait_for(&mut self, words: &str) -> String {
        loop {
            if let Some(at) = self.heard.find(words) {
                return self.heard.drain(..at + words.len()).collect();
            }
            assert!(self.hear(), "it never said {words:?}: {}", self.heard);
        }
    }

    /// All output until the end.
    pub(crate) fn rest(mut self) -> String {
        while self.hear() {}
        self.heard
    }

    pub(crate) fn ctrl_c(&mut self) {
        self.type_in(b"\x03");
    }

    pub(crate) fn type_in(&mut self, keys: &[u8]) {
        self.master.write_all(keys).unwrap();
    }

    /// Reads more output; false if the last program on the terminal has ended.
    fn hear(&mut self) -> bool {
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        let most = PollTimeout::try_from(PATIENCE).unwrap();
        assert!(nix::poll::poll(&mut fds, most).unwrap() > 0, "the terminal is silent after: {}", self.heard);
        let mut buffer = [0; 4096];
        match self.master.read(&mut buffer) {
            Ok(0) => false,
            Ok(length) => {
                self.begun.extend_from_slice(&buffer[..length]);
                let whole = match std::str::from_utf8(&self.begun) {
                    Ok(text) => text.len(),
                    Err(error) if error.error_len().is_none() => error.valid_up_to(),
                    Err(_) => self.begun.len(),
                };
                let bytes: Vec<u8> = self.begun.drain(..whole).collect();
                self.heard.push_str(&String::from_utf8_lossy(&bytes));
                true
            }
            Err(error) if error.raw_os_error() == Some(nix::libc::EIO) => false,
            Err(error) => panic!("{error}"),
        }
    }
}

/// A running `faultwire run` between two namespaces that it created.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) left: String,
    pub(crate) right: String,
    /// Kept open, so that later output of the process does not fail.
    stderr: Option<BufReader<ChildStderr>>,
    _config: Scratch,
}

impl Running {
    /// With these `[[path]]` tables (from "left" to "right" or back), and these lines at the top of the file.
    pub(crate) fn start(top: &str, paths: &str) -> Self {
        let name = unique();
        let (left, right) = (format!("{name}l"), format!("{name}r"));
        Self::of(Scratch::file(&config(&left, &right, top, paths)), [left, right])
    }

    /// With these paths and without offloads: every packet on the devices is as on a wire.
    pub(crate) fn without_offload(paths: &str) -> Self {
        let (left, right) = (unique(), unique());
        let text = config(&left, &right, "seed = 9", paths)
            .replace("create = true", "create = true\noffload = false");
        Self::of(Scratch::file(&text), [left, right])
    }

    /// With this configuration; these are two of its namespaces.
    pub(crate) fn of(config: Scratch, netns: [String; 2]) -> Self {
        Self::with(config, netns, &[])
    }

    /// The same with these options.
    pub(crate) fn with(config: Scratch, [left, right]: [String; 2], options: &[&str]) -> Self {
        let mut command = faultwire();
        command
            .args(["run", config.path(), "--json"])
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // From here on, `Drop` ends the process in any case.
        let mut running =
            Self { child: command.spawn().unwrap(), left, right, stderr: None, _config: config };
        let mut stderr = BufReader::new(running.child.stderr.take().unwrap());
        let mut heard = String::new();
        while stderr.read_line(&mut heard).unwrap() > 0 {
            if heard.contains("forwarding between") {
                running.stderr = Some(stderr);
                return running;
            }
        }
        panic!("it did not start: {heard}");
    }

    /// The next line of its output that contains these words.
    pub(crate) fn hears(&mut self, words: &str) -> String {
        let stderr = self.stderr.as_mut().unwrap();
        loop {
            let mut line = String::new();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended without {words:?}");
            if line.contains(words) {
                return line;
            }
        }
    }

    /// Runs a command inside one of the namespaces.
    pub(crate) fn inside(netns: &str, command: &[&str]) -> Command {
        let mut ip = tool("ip");
        ip.args(["netns", "exec", netns]).args(command);
        ip
    }

    /// Ends it with a signal and returns its summary.
    pub(crate) fn stop(mut self, signal: Signal) -> serde_json::Value {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).unwrap();
        let stdout = self.child.stdout.take().unwrap();
        let said = self.stderr.take();
        let text = std::io::read_to_string(stdout).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {:?}", said.map(std::io::read_to_string));
        serde_json::from_str(&text).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A failed test leaves it running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn config(left: &str, right: &str, top: &str, paths: &str) -> String {
    let port = |name: &str, netns: &str, net: u8| {
        format!(
            "[[port]]\nname = \"{name}\"\nnetns = \"{netns}\"\ncreate = true\n\
             addresses = [\"10.88.{net}.2/24\", \"fd88:{net}::2/64\"]\nroutes = [\"default\"]\n"
        )
    };
    format!("{top}\n{}{}{paths}", port("left", left, 1), port("right", right, 2))
}

/// A folder of this test; removed at its end.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    is_mounted: bool,
}

impl Folder {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(unique());
        // Fails if the name already exists.
        std::fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        Self { path, is_mounted: false }
    }

    /// A folder on a file system with room for 64 KiB.
    pub(crate) fn small() -> Self {
        let mut folder = Self::new();
        let mount =
            tool("mount").args(["-t", "tmpfs", "-o", "size=64k", "none"]).arg(&folder.path).output().unwrap();
        assert!(mount.status.success(), "{}", said(&mount));
        folder.is_mounted = true;
        folder
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.path.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_mounted {
            let _ = tool("umount").arg(&self.path).status();
        }
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A UDP and a TCP service on this host; the TCP one reads one connection to its end.
pub(crate) struct Services {
    udp: u16,
    tcp: u16,
    _socket: UdpSocket,
    reader: std::thread::JoinHandle<usize>,
}

impl Services {
    pub(crate) fn start() -> Self {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let (udp, tcp) = (socket.local_addr().unwrap().port(), listener.local_addr().unwrap().port());
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut all).unwrap()
        });
        Self { udp, tcp, _socket: socket, reader }
    }

    /// Sends 300 datagrams of one flow and 200,000 bytes.
    pub(crate) fn script(&self) -> String {
        format!(
            "exec 3>/dev/udp/$FAULTWIRE_HOST/{}; for i in $(seq 300); do echo $i >&3; done; \
             head -c 200000 /dev/zero >/dev/tcp/$FAULTWIRE_HOST/{}",
            self.udp, self.tcp
        )
    }
    /// Waits until the TCP service has read everything; returns the ports.
    pub(crate) fn end(self) -> [u16; 2] {
        assert_eq!(self.reader.join().unwrap(), 200_000);
        [self.udp, self.tcp]
    }
}
