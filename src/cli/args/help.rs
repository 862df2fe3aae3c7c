//! What stands behind the options in the help of `exec` and `attach`.

use crate::config::spec;

pub(super) const ATTACH_HELP: &str = "\
IPv4 and IPv6 traffic of the device goes through the faults; all else stays in
the kernel. Nothing of the device changes, open connections go on, and however
faultwire ends, traffic flows as before. It is a wire, not a hop: no TTL is
decremented. ICMP errors of a fault (mtu ... icmp) come from the address that
the packet was sent to. Several attachments to one device each do their part.

SPEC: see `faultwire exec --help`. Needs root and Linux 6.6.

EXPRESSION: conditions, joined by and, or, not, and brackets. Conditions
without a word between them belong together: 'not tcp port 22' spares SSH. They
aim faults too: 'tcp port 5432: loss 5%'.
  tcp | udp | icmp | icmp6 | sctp | proto N | ip | ip6
  [src|dst] port N[-M]    [src|dst] host ADDRESS    [src|dst] net PREFIX

Examples:
  faultwire attach --container web --both 'delay 50ms 5ms loss 1%' --for 5m
  faultwire attach --netns blue --dev eth0 --up 'rate 10mbit limit 50'
  faultwire attach --pid 4711 --down 'mtu 1400 drop' --expect-hit 1
  faultwire attach --dev eth0 --match 'not tcp port 22' --both 'loss 2%'
  faultwire attach --container web --config configs/attach.toml --established

SIGUSR1 prints the summary so far on standard error.

Exit code: 0 detached (by Ctrl-C, --for, or because the target has ended); 1
something failed; 2 the command line or the target is wrong; 3 fewer packets
were hit than --expect-hit asks for.";

const EXEC_BEFORE: &str = "\
The command finds the host at $FAULTWIRE_HOST (IPv4) and $FAULTWIRE_HOST6;
there is no other network in its namespace. Servers on the host must listen on
that address or on all. Without a command a shell is started.

Inside of another exec, packets go through both links to the same host, and
$FAULTWIRE_PARENT is the address of the namespace in between. An ordinary user
gets a user namespace, where a host without anything on it takes the place of
this machine; client and server are then both inside:
  faultwire exec -- sh -c 'SERVER & faultwire exec --up \"loss 1%\" -- CLIENT'
where CLIENT finds SERVER at $FAULTWIRE_PARENT.

SPEC: tc-netem's words, applied in netem's order of decisions:
  delay TIME [JITTER [CORR%]]
    [distribution uniform|normal|pareto|paretonormal|NAME|FILE]
  loss [random] P% [CORR%] [ecn]      loss gemodel P [R [1-H [1-K]]] [ecn]
  loss state P13 [P31 [P32 [P23 [P14]]]] [ecn]
  duplicate P% [CORR%]    corrupt P% [CORR%]    reorder P% [CORR%] [gap N]
  rate RATE [OVERHEAD [CELLSIZE [CELLOVERHEAD]]]    limit N    seed N
  slot MIN [MAX] | slot distribution NAME DELAY JITTER    [packets N] [bytes N]
  linklayer ethernet|ip
and before them, in the order written, faultwire's own:
  mtu BYTES [drop|icmp|fragment]    overhead BYTES
  rate RATE [OVERHEAD] queue N|BYTES|TIME
    [tail-drop|head-drop|codel|pie|red MIN MAX] [ecn]
  rate RATE steps TIME P% [TIME P% ...] [repeat] [queue ...]
";

/// What follows the words of a spec in the help of `exec`.
const EXEC_AFTER: &str = "\
A condition (see attach --help) aims the faults behind its colon; semicolons
separate clauses:
  'delay 20ms; tcp port 6379: loss 5%; udp and not port 53: drop'

faultwire check --explain SPEC says what it will do. All other stages, and
triggers, are for configuration files: see configs/reference.toml.

Examples:
  faultwire exec --both 'delay 50ms 5ms' -- sh -c 'ping -c 5 $FAULTWIRE_HOST'
  faultwire exec --up 'mtu 1400 drop' --summary -- \\
    sh -c 'curl -m 5 http://$FAULTWIRE_HOST/'
  faultwire exec --both 'loss 5%' --until-failure -- ./test.sh
  faultwire exec --down 'rate 10mbit limit 50' -- \\
    sh -c 'iperf3 -c $FAULTWIRE_HOST -R'

With --seeds or --until-failure the seeds are S, S+1, S+2 ... where S is
--seed, the SPEC's or a random one; --summary, --json and --log tell of the
last run.

Exit code: the command's; 128 + n if signal n ended it; 125 if the network or
the control socket could not be made, or a summary, log, journal or capture not
be written after a command that succeeded; 126 or 127 if the command could not
be run or found; 2 if the command line is wrong or the summary has no place.";

/// The help of `exec`, with every word of a spec that is a stage of its own.
pub(super) fn exec_help() -> String {
    let words: Vec<&str> = spec::usages().flat_map(|usage| ["  ", usage, "\n"]).collect();
    [EXEC_BEFORE, &words.concat(), EXEC_AFTER].concat()
}
