//! The command line as typed: clap structs only.

mod device;
mod help;
mod reach;

use std::ffi::OsString;
use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use ipnet::IpNet;

use crate::cli::args::device::DeviceName;
use crate::cli::args::help::{ATTACH_HELP, exec_help};
pub(super) use crate::cli::args::reach::{FaultsOn, ReachName};
use crate::cli::json::Json;
use crate::cli::run::Run;
use crate::cli::serving::Serving;
use crate::cli::watching::Watching;
use crate::pipeline::params::{Identity, Mode};
use crate::pipeline::time::Duration;

/// A software router that breaks packets on purpose, reproducibly.
#[derive(Debug, Parser)]
#[command(version, about, after_help = help::EXAMPLES, max_term_width = 100)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a command in a fresh namespace whose only link has the faults
    Exec(Exec),
    /// Put faults on an existing device: of a container, a process, a namespace or this host
    Attach(Attach),
    /// Reproduce incidents: build a network, break it, send traffic, check what the kernels report
    #[command(subcommand)]
    Case(CaseCommand),
    /// Check a configuration and report all mistakes, with file, line and what is allowed
    Check(Check),
    /// Create the ports of a configuration and forward packets until Ctrl-C
    Run(Run),
    /// Show and change a running instance
    Ctl(crate::cli::ctl::Ctl),
    /// Show a running instance live
    Top(crate::cli::top::Top),
    /// Print and filter a journal: what happened to each packet, and why
    Journal(crate::cli::journal::Journal),
    /// Send a capture through a path in virtual time: the same result on every run and machine
    Pcap(Pcap),
    /// Measure how fast a configuration is on this machine: packets per second, nanoseconds per packet and stage
    Bench(crate::cli::bench::Bench),
    /// Serve Toxiproxy's HTTP API: its clients work unchanged, and its toxics are faults of packets
    Toxiproxy(crate::cli::toxiproxy::Toxiproxy),
    /// Act as a chained CNI plugin: faults on interfaces of pods, from their network's configuration or annotations
    Cni,
    /// Show what works on this machine, and how to make the rest work
    Doctor(Doctor),
    /// Print a script that completes command lines in bash, zsh or fish
    Completions(crate::cli::completions::Completions),
    /// Print the manual, as man reads it
    Man(crate::cli::man::Man),
}

/// Subcommands of `case`.
#[derive(Debug, Subcommand)]
#[command(after_help = help::CASE_HELP)]
pub(super) enum CaseCommand {
    /// List the cases that come with faultwire
    List(CaseList),
    /// Explain an incident on one page: what happens, why, how to recognise it in production, how to cure it
    Explain(CaseExplain),
    /// Run cases and their controls; exit code 1 if one fails or cannot be run
    Run(CaseRun),
}

/// Options of `case list`.
#[derive(Debug, clap::Args)]
pub(super) struct CaseList {
    #[command(flatten)]
    pub(super) json: Json,
}

/// Options of `case explain`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  faultwire case explain mtu-blackhole-tunnel")]
pub(super) struct CaseExplain {
    /// Name of a case that comes with faultwire, or a case file
    #[arg(required_unless_present = "all", value_name = "NAME|FILE")]
    pub(super) case: Option<PathBuf>,
    /// Explain all cases that come with faultwire, as a book in Markdown
    #[arg(long, conflicts_with = "case")]
    pub(super) all: bool,
    #[command(flatten)]
    pub(super) json: Json,
}

/// Options of `case run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  faultwire case run mtu-blackhole-tunnel
  faultwire case run --all
  faultwire case run ./my-incident.toml --json

With --journal FILE or --pcap FILE each run of a case writes its own file. FILE
is the file of the case itself. The files of its controls have -control-1 and
so on before the extension, those of a sweep -value-1 and so on. If several
cases run, the name of the case comes before that.

An ordinary user can run cases if user namespaces are allowed and /dev/net/tun
can be opened.")]
pub(super) struct CaseRun {
    /// Names of cases that come with faultwire, or case files
    #[arg(required_unless_present = "all", value_name = "NAME|FILE")]
    pub(super) cases: Vec<PathBuf>,
    /// Run all cases that come with faultwire
    #[arg(long, conflicts_with = "cases")]
    pub(super) all: bool,
    /// Seed of all random decisions; overrides that of the files
    #[arg(long)]
    pub(super) seed: Option<u64>,
    #[command(flatten)]
    pub(super) json: Json,
    /// Print the whole report also for cases that pass [default with one case]
    #[arg(long, short)]
    pub(super) verbose: bool,
    #[command(flatten)]
    pub(super) watching: Watching,
}

impl Command {
    /// What it is called, and where its JSON goes; `None` if it has no such option.
    pub(super) const fn json(&self) -> Option<(&'static str, &Json)> {
        Some(match self {
            Self::Check(args) => ("check", &args.json),
            Self::Run(args) => ("run", &args.json),
            Self::Exec(args) => ("exec", &args.json),
            Self::Attach(args) => ("attach", &args.json),
            Self::Bench(args) => ("bench", &args.json),
            Self::Ctl(args) => ("ctl", &args.json),
            Self::Doctor(args) => ("doctor", &args.json),
            Self::Pcap(args) => ("pcap", &args.json),
            Self::Journal(args) => ("journal", &args.json),
            Self::Case(CaseCommand::List(args)) => ("case list", &args.json),
            Self::Case(CaseCommand::Explain(args)) => ("case explain", &args.json),
            Self::Case(CaseCommand::Run(args)) => ("case run", &args.json),
            Self::Cni | Self::Completions(_) | Self::Man(_) | Self::Top(_) | Self::Toxiproxy(_) => {
                return None;
            }
        })
    }
}

impl CaseRun {
    /// One line for a case that passes.
    pub(super) const fn brief(&self) -> bool {
        !self.verbose && (self.all || self.cases.len() > 1)
    }
}

/// Options of `check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  faultwire check configs/dsl.toml
  faultwire check --explain 'delay 100ms 10ms loss 1% 25% rate 1gbit'
  faultwire check --explain 'loss 10% 25%' --mode netem")]
pub(super) struct Check {
    /// Configuration file (TOML); see configs/reference.toml for every key
    #[arg(required_unless_present = "explain")]
    pub(super) config: Option<PathBuf>,
    /// Explain in words and numbers what these faults really do
    #[arg(long, value_name = "SPEC", conflicts_with = "config")]
    pub(super) explain: Option<String>,
    /// Whether faults do what the line says, or what the kernel's netem does
    #[arg(long, requires = "explain", conflicts_with = "config", default_value = "exact")]
    pub(super) mode: ModeName,
    #[command(flatten)]
    pub(super) json: Json,
}

/// How netem's words are taken.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum ModeName {
    /// What the line says: the given probabilities, order kept, rate and delay independent
    Exact,
    /// What the kernel's netem does: its arithmetic, jitter that reorders
    Netem,
}

impl From<ModeName> for Mode {
    fn from(name: ModeName) -> Self {
        match name {
            ModeName::Exact => Self::Exact,
            ModeName::Netem => Self::Netem,
        }
    }
}

/// What identifies a flow in random decisions.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum IdentityName {
    /// Its service and the number of the connection to it, independent of the client's port
    Service,
    /// Its addresses and ports, for clients that bind them
    Tuple,
}

impl From<IdentityName> for Identity {
    fn from(name: IdentityName) -> Self {
        match name {
            IdentityName::Service => Self::Service,
            IdentityName::Tuple => Self::Tuple,
        }
    }
}

/// Options of `pcap`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("faults").required(true))]
#[command(after_help = "\
Reads and writes pcap and pcapng, with nanoseconds. OUT has the format of IN
unless its name ends in .pcap or .pcapng. Packets that are not IP pass unchanged
at their own time. All other packets take the path, unless --from selects some.

Examples:
  faultwire pcap in.pcap out.pcap --spec 'delay 20ms loss 1%' --dropped d.pcapng
  faultwire pcap in.pcapng out.pcapng --config configs/dsl.toml \\
    --path left:right --from 10.0.1.0/24
  tcpdump -w - -c 9 | faultwire pcap - - --spec 'mtu 1400 drop' | tcpdump -r -

Exit code: 0 done; 1 the capture is damaged in the middle, or Ctrl-C was pressed
(the packets read so far were processed), or a file cannot be written; 2 the
capture, the configuration or the command line is wrong, nothing was written.")]
pub(super) struct Pcap {
    /// The capture to read; - for standard input
    #[arg(value_name = "IN")]
    pub(super) input: PathBuf,
    /// The capture to write: packets that leave the path, in that order; - for standard output
    #[arg(value_name = "OUT")]
    pub(super) output: PathBuf,
    /// A configuration with the path; addresses and routes of its ports have no effect
    #[arg(long, group = "faults")]
    pub(super) config: Option<PathBuf>,
    /// The path of the configuration, by the names of its ports: FROM:TO or FROM>TO; needed if there are several
    #[arg(long, value_name = "PATH", requires = "config", conflicts_with = "spec")]
    pub(super) path: Option<String>,
    /// Faults in the grammar of `exec`; with the same seed they hit the same packets as `exec --up`
    #[arg(long, group = "faults")]
    pub(super) spec: Option<String>,
    /// Whether faults do what the spec says, or what the kernel's netem does; a configuration has its own key
    #[arg(long, requires = "spec", conflicts_with = "config", default_value = "exact")]
    pub(super) mode: ModeName,
    /// Only packets from this address or prefix take the path; may be given several times
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    pub(super) from: Vec<IpNet>,
    /// What identifies a flow in random decisions; a configuration has its own key
    #[arg(long, requires = "spec", conflicts_with = "config", default_value = "service")]
    pub(super) identity: IdentityName,
    /// Seed of all random decisions [default: that of the SPEC or the file, or 0]
    #[arg(long)]
    pub(super) seed: Option<u64>,
    /// Write dropped packets to this file (pcapng), with the reasons as comments
    #[arg(long, value_name = "FILE")]
    pub(super) dropped: Option<PathBuf>,
    /// Write a log for Mahimahi's plotting scripts (mm-link's format)
    #[arg(long, value_name = "FILE")]
    pub(super) log: Option<PathBuf>,
    /// Write the ICMP errors that the path sends back to this file (pcapng)
    #[arg(long, value_name = "FILE")]
    pub(super) answers: Option<PathBuf>,
    #[command(flatten)]
    pub(super) json: Json,
}

/// Options of `exec`.
#[derive(Debug, clap::Args)]
#[command(after_help = exec_help())]
pub(super) struct Exec {
    /// Faults from the command to the host
    #[arg(long, value_name = "SPEC")]
    pub(super) up: Option<String>,
    /// Faults from the host to the command
    #[arg(long, value_name = "SPEC")]
    pub(super) down: Option<String>,
    /// Faults in each direction, before those of --up and --down
    #[arg(long, value_name = "SPEC")]
    pub(super) both: Option<String>,
    /// Whether faults do what the spec says, or what the kernel's netem does
    #[arg(long, default_value = "exact")]
    pub(super) mode: ModeName,
    /// Let the command reach other hosts too, through this one: all that this host reaches, or the networks that it is in
    #[arg(long, value_name = "WHERE")]
    pub(super) reach: Option<ReachName>,
    /// With --reach: faults on all traffic of the command, or only on traffic with hosts outside of this one
    #[arg(long, value_name = "TRAFFIC", requires = "reach", default_value = "all")]
    pub(super) faults_on: FaultsOn,
    /// MTU of the link in bytes
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(1280..=65535))]
    pub(super) mtu: u32,
    /// The devices of the link: veth pairs, between which packets that no fault hits stay in the kernel, or TUN devices
    /// [default: veth as root on Linux 5.12 or newer, otherwise tun]
    #[arg(long, value_name = "KIND")]
    pub(super) device: Option<DeviceName>,
    /// Send every packet through faultwire, also packets that no fault hits; the faults are the same
    #[arg(long)]
    pub(super) no_flow_cache: bool,
    /// Seed of all random decisions [default: that of the SPEC, or random; printed if the command fails or a fault acts]
    #[arg(long)]
    pub(super) seed: Option<u64>,
    /// Run the command with N seeds, one after another, each on a fresh link; stop at the first failure
    #[arg(long, value_name = "N", conflicts_with = "until_failure")]
    pub(super) seeds: Option<NonZeroU64>,
    /// Run the command with one seed after another until it fails
    #[arg(long)]
    pub(super) until_failure: bool,
    /// What identifies a flow in random decisions
    #[arg(long, default_value = "service")]
    pub(super) identity: IdentityName,
    /// Print a summary of the packets on standard error at the end
    #[arg(long)]
    pub(super) summary: bool,
    #[command(flatten)]
    pub(super) json: Json,
    /// Write logs for Mahimahi's plotting scripts into this folder, as up.log and down.log
    #[arg(long, value_name = "DIR")]
    pub(super) log: Option<PathBuf>,
    /// After the end of the command, wait at most this long for packets that are held and for retransmissions of
    /// connections that it closed
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub(super) linger: Duration,
    #[command(flatten)]
    pub(super) watching: Watching,
    #[command(flatten)]
    pub(super) serving: Serving,
    /// The command and its arguments [default: a shell, $SHELL or /bin/sh]
    #[arg(last = true, value_name = "CMD")]
    pub(super) command: Vec<OsString>,
}

/// Options of `attach`.
#[derive(Debug, clap::Args)]
#[command(after_help = ATTACH_HELP)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(super) struct Attach {
    /// The network namespace: its name in /run/netns, or the path of a namespace file
    #[arg(long, value_name = "NAME|PATH", group = "target")]
    pub(super) netns: Option<String>,
    /// The network namespace of this process
    #[arg(long, group = "target")]
    pub(super) pid: Option<u32>,
    /// The network namespace of this container: its name, or at least 4 digits of its ID
    #[arg(long, value_name = "NAME|ID", group = "target")]
    pub(super) container: Option<String>,
    /// The device [default: that of the target's default route; must be given if the target is this host]
    #[arg(long)]
    pub(super) dev: Option<String>,
    /// Faults on packets that the target sends
    #[arg(long, value_name = "SPEC")]
    pub(super) up: Option<String>,
    /// Faults on packets that the target receives
    #[arg(long, value_name = "SPEC")]
    pub(super) down: Option<String>,
    /// Faults in each direction, before those of --up and --down
    #[arg(long, value_name = "SPEC")]
    pub(super) both: Option<String>,
    /// Faults from a file, with every stage, match, trigger and phase: its keys are up, down and both
    #[arg(long, value_name = "FILE", conflicts_with_all = ["up", "down", "both", "mode"])]
    pub(super) config: Option<PathBuf>,
    /// Refuse faults that name a file (a trace, a distribution): for a SPEC that you do not trust
    #[arg(long, conflicts_with = "config")]
    pub(super) no_files: bool,
    /// Whether faults do what the spec says, or what the kernel's netem does
    #[arg(long, default_value = "exact")]
    pub(super) mode: ModeName,
    /// Only hit TCP connections that are opened from now on: faultwire sees their SYN
    #[arg(long, conflicts_with = "established")]
    pub(super) new: bool,
    /// Only hit TCP connections that are open already: faultwire does not see their SYN
    #[arg(long)]
    pub(super) established: bool,
    /// What identifies a flow in random decisions [default: that of the file, or service]
    #[arg(long)]
    pub(super) identity: Option<IdentityName>,
    /// Only hit packets that match, in both directions: 'tcp port 5432 and not host 10.0.0.7'
    #[arg(long = "match", value_name = "EXPRESSION")]
    pub(super) select: Option<String>,
    /// Detach after this time [default: the duration in the file, or on Ctrl-C]
    #[arg(long = "for", value_name = "TIME")]
    pub(super) duration: Option<Duration>,
    /// Exit with code 3 if the faults hit (dropped, delayed, changed, copied or answered) fewer packets
    #[arg(long, value_name = "N")]
    pub(super) expect_hit: Option<u64>,
    /// Send every packet through faultwire, also packets that no fault hits; the faults are the same
    #[arg(long)]
    pub(super) no_flow_cache: bool,
    /// Only print the device that would be used, and how much traffic it has now
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Attach to this host's own device even if this may cut your SSH session
    #[arg(long)]
    pub(super) yes: bool,
    /// Seed of all random decisions [default: that of the SPEC or the file, or random and printed]
    #[arg(long)]
    pub(super) seed: Option<u64>,
    #[command(flatten)]
    pub(super) json: Json,
    /// Write logs for Mahimahi's plotting scripts into this folder, as up.log and down.log
    #[arg(long, value_name = "DIR")]
    pub(super) log: Option<PathBuf>,
    #[command(flatten)]
    pub(super) watching: Watching,
    #[command(flatten)]
    pub(super) serving: Serving,
}

/// Options of `doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code: 0 everything works on this machine; 1 something does not.")]
pub(super) struct Doctor {
    #[command(flatten)]
    pub(super) json: Json,
}

/// An address or a prefix.
fn prefix(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<std::net::IpAddr>().ok().map(IpNet::from);
    text.parse()
        .ok()
        .or_else(address)
        .ok_or_else(|| "try an address or a prefix, such as 10.0.1.0/24".to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;
    use crate::config::spec;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Args::try_parse_from(format!("faultwire {line}").split(' ')).map(|args| args.command)
    }

    /// The error message for a wrong line, which has exit code 2.
    fn refusal(line: &str) -> String {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
        error.to_string()
    }

    #[test]
    fn clap_finds_no_fault() {
        Args::command().debug_assert();
    }

    #[test]
    fn check_takes_a_file_or_a_spec() {
        let Command::Check(args) = parse("check a.toml").unwrap() else { panic!() };
        assert_eq!((args.config, args.explain, args.json.is_wanted()), (Some("a.toml".into()), None, false));
        assert!(matches!(args.mode, ModeName::Exact));
        let Command::Check(args) = parse("check --explain loss --mode netem --json").unwrap() else {
            panic!()
        };
        assert_eq!((args.config, args.explain, args.json.is_wanted()), (None, Some("loss".into()), true));
        assert!(matches!(args.mode, ModeName::Netem));
    }

    #[test]
    fn run_takes_seed_json_and_log() {
        let Command::Run(args) = parse("run a.toml").unwrap() else { panic!() };
        assert_eq!(
            (args.config, args.seed, args.json.is_wanted(), args.log),
            ("a.toml".into(), None, false, None)
        );
        let Command::Run(args) = parse("run --log logs --seed 7 a.toml --json").unwrap() else { panic!() };
        assert_eq!((args.seed, args.json.is_on_stdout(), args.log), (Some(7), true, Some("logs".into())));
    }

    #[test]
    fn exec_gives_the_command_all_that_follows_two_dashes() {
        let Command::Exec(args) = parse("exec -- ls --json x").unwrap() else { panic!() };
        assert_eq!(args.command, ["ls", "--json", "x"]);
        assert_eq!((args.up, args.down, args.both, args.json.is_wanted()), (None, None, None, false));
        assert_eq!((args.mtu, args.seed, args.summary, args.log), (1500, None, false, None));
        assert_eq!(args.linger, Duration::from_millis(1000));
        let all = "exec --up loss --down delay --mode netem --mtu 9000 --seed 0 --summary --json=s.json --log l --linger 20ms -- a";
        let Command::Exec(args) = parse(all).unwrap() else { panic!() };
        assert_eq!((args.up.as_deref(), args.down.as_deref()), (Some("loss"), Some("delay")));
        assert_eq!((args.mtu, args.seed, args.summary), (9000, Some(0), true));
        assert_eq!(
            (args.json.file(), args.log.as_deref()),
            (Some(Path::new("s.json")), Some(Path::new("l")))
        );
        assert_eq!(args.linger, Duration::from_millis(20));
        assert!(matches!(args.mode, ModeName::Netem));
    }

    #[test]
    fn pcap_takes_a_spec_or_a_path_of_a_file() {
        let line = "pcap - out --config a.toml --path l:r --from 10.0.0.0/8 --from fd00::/8 --from 10.1.2.3 --dropped d --answers i --log m";
        let Command::Pcap(args) = parse(line).unwrap() else { panic!() };
        assert_eq!((args.input, args.output), ("-".into(), "out".into()));
        assert_eq!((args.config, args.path.as_deref()), (Some("a.toml".into()), Some("l:r")));
        assert_eq!(
            args.from,
            ["10.0.0.0/8", "fd00::/8", "10.1.2.3/32"].map(|net| net.parse::<IpNet>().unwrap())
        );
        assert_eq!(
            (args.dropped, args.answers, args.log),
            (Some("d".into()), Some("i".into()), Some("m".into()))
        );
        let Command::Pcap(args) = parse("pcap in out --spec loss --mode netem --seed 3 --json").unwrap()
        else {
            panic!()
        };
        assert_eq!((args.spec.as_deref(), args.seed, args.json.is_wanted()), (Some("loss"), Some(3), true));
    }

    #[test]
    fn case_lists_explains_and_runs() {
        let Command::Case(CaseCommand::List(args)) = parse("case list --json").unwrap() else { panic!() };
        assert!(args.json.is_on_stdout());
        let Command::Case(CaseCommand::Explain(args)) = parse("case explain x").unwrap() else { panic!() };
        assert_eq!((args.case, args.all), (Some("x".into()), false));
        let Command::Case(CaseCommand::Run(args)) = parse("case run a b --seed 1 --json").unwrap() else {
            panic!()
        };
        assert_eq!(
            (args.cases.len(), args.seed, args.json.is_wanted(), args.brief()),
            (2, Some(1), true, true)
        );
        for (line, brief) in [("case run a", false), ("case run --all", true), ("case run --all -v", false)] {
            let Command::Case(CaseCommand::Run(args)) = parse(line).unwrap() else { panic!() };
            assert_eq!(args.brief(), brief, "{line}");
        }
    }

    #[test]
    fn a_wrong_line_is_answered_by_what_would_be_right() {
        for (line, words) in [
            ("chek a.toml", "'check'"),
            ("check", "<CONFIG>"),
            ("check a.toml --explain loss", "cannot be used with"),
            ("check a.toml --mode netem", "cannot be used with"),
            ("check --explain loss --mode kernel", "[possible values: exact, netem]"),
            ("run", "<CONFIG>"),
            ("run a.toml --sed 1", "'--seed'"),
            ("run a.toml --seed x", "invalid digit"),
            ("run a.toml --summary", "unexpected argument '--summary'"),
            ("exec ls", "[-- <CMD>"),
            ("exec --mtu 1000 -- ls", "1280..=65535"),
            ("exec --linger 5 -- ls", "try \"5ms\""),
            ("pcap in", "<OUT>"),
            ("pcap in out", "<--config <CONFIG>|--spec <SPEC>>"),
            ("pcap in out --spec loss --config a.toml", "cannot be used with"),
            ("pcap in out --config a.toml --mode netem", "cannot be used with"),
            ("pcap in out --spec loss --path l:r", "cannot be used with"),
            ("pcap in out --spec loss --from 10.0.0", "such as 10.0.1.0/24"),
            ("case", "explain"),
            ("case explain", "<NAME|FILE>"),
            ("case run", "<NAME|FILE>"),
            ("case run a --all", "cannot be used with"),
        ] {
            let text = refusal(line);
            assert!(text.contains(words), "{line}: {text}");
        }
    }

    #[test]
    fn help_is_no_mistake_and_no_wider_than_a_terminal() {
        for line in [
            "--help",
            "check --help",
            "run --help",
            "exec --help",
            "pcap --help",
            "case run --help",
            "bench --help",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!((error.kind(), error.exit_code()), (ErrorKind::DisplayHelp, 0), "{line}");
        }
        let mut commands = vec![Args::command()];
        while let Some(command) = commands.pop() {
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let wide: Vec<&str> = text.lines().filter(|line| line.chars().count() > 80).collect();
            assert_eq!(wide, [""; 0], "clap would break it in {}", command.get_name());
            commands.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn the_help_of_exec_names_every_word_of_a_spec() {
        let help = exec_help();
        for word in spec::words() {
            assert!(help.contains(&format!("{word} ")) || help.contains(&format!("[{word}]")), "{word}");
        }
    }
}
