//! The text after the options in the help of `faultwire` itself, `case`, `exec` and `attach`.

use crate::config::spec;

pub(super) const EXAMPLES: &str = "\
Examples:
  faultwire exec --both 'delay 50ms loss 1%' -- sh -c 'ping -c3 $FAULTWIRE_HOST'
  faultwire attach --container web --both 'delay 50ms loss 1%' --for 5m
  faultwire case run mtu-100-receive
  faultwire check configs/dsl.toml
  faultwire run configs/dsl.toml
  faultwire pcap in.pcap out.pcap --spec 'delay 20ms loss 1%'

Every random decision depends on the seed, the connection (its service, and
its number among the connections to that service) and the number of the packet
in it. So with the printed seed the same packets fail again.";

pub(super) const CASE_HELP: &str = "\
Examples:
  faultwire case list
  faultwire case run mtu-100-receive
  faultwire case explain mtu-100-receive
  faultwire case run ./my-incident.toml";

pub(super) const ATTACH_HELP: &str = "\
IPv4 and IPv6 traffic of the device passes the faults; all other traffic stays
in the kernel. The device is not changed, open connections continue, and traffic
flows as before however faultwire ends. It is a wire, not a hop: no TTL is
decremented. ICMP errors of a fault (mtu ... icmp) have the address to which the
packet was sent as their source. One device can have several attachments.

SPEC: see `faultwire exec --help`. Needs root and Linux 6.6.

EXPRESSION: conditions with and, or, not, and brackets. Conditions without a
word between them belong together: 'not tcp port 22' excludes SSH. Faults can
have a condition too: 'tcp port 5432: loss 5%'.
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
something failed, or the device is gone; 2 the command line or the target is
wrong; 3 the faults hit fewer packets than --expect-hit requires.";

const EXEC_BEFORE: &str = "\
The command reaches the host at $FAULTWIRE_HOST (IPv4) and $FAULTWIRE_HOST6;
its namespace has no other network. Servers on the host must listen on that
address or on all addresses. Without a command a shell is started.

Inside another exec, packets go through both links to the same host, and
$FAULTWIRE_PARENT is the address of the namespace in between. An ordinary user
gets a user namespace, where an empty host takes the place of this machine;
client and server are then both inside:
  faultwire exec -- sh -c 'SERVER & faultwire exec --up \"loss 1%\" -- CLIENT'
where CLIENT finds SERVER at $FAULTWIRE_PARENT.

With --reach the command reaches other hosts too. Its connections, datagrams and
pings end at the far end of the link, and this host opens its own to where they
were meant to go: they come from its addresses, and its settings stay as they
are. $FAULTWIRE_HOST is then this host's loopback address. A resolv.conf whose
nameserver only this host reaches (127.0.0.53) is replaced for the command. It
works as an ordinary user. Other protocols, ICMP errors of hosts outside and
traceroute do not pass; a connection that is refused outside is reset.

SPEC: tc-netem's words, applied in netem's order of decisions:
  delay TIME [JITTER [CORR%]]
    [distribution uniform|normal|pareto|paretonormal|NAME|FILE]
  loss [random] P% [CORR%] [ecn]      loss gemodel P [R [1-H [1-K]]] [ecn]
  loss state P13 [P31 [P32 [P23 [P14]]]] [ecn]
  duplicate P% [CORR%]    corrupt P% [CORR%]    reorder P% [CORR%] [gap N]
  rate RATE [OVERHEAD [CELLSIZE [CELLOVERHEAD]]]    limit N    seed N
  slot MIN [MAX] | slot distribution NAME DELAY JITTER    [packets N] [bytes N]
  linklayer ethernet|ip
and before these, in the order written, faultwire's own keywords:
  mtu BYTES [drop|icmp|fragment]    overhead BYTES
  rate RATE [OVERHEAD] queue N|BYTES|TIME
    [tail-drop|head-drop|codel|pie|red MIN MAX] [ecn]
  rate RATE steps TIME P% [TIME P% ...] [repeat] [queue ...]
";

/// The text after the words of a spec in the help of `exec`.
const EXEC_AFTER: &str = "\
A condition (see attach --help) selects packets for the faults after its colon;
semicolons separate clauses:
  'delay 20ms; tcp port 6379: loss 5%; udp and not port 53: drop'

faultwire check --explain SPEC explains what it does. All other stages, and
triggers, need a configuration file: see configs/reference.toml.

Examples:
  faultwire exec --both 'delay 50ms 5ms' -- sh -c 'ping -c 5 $FAULTWIRE_HOST'
  faultwire exec --down 'mtu 1400 drop' --summary -- \\
    sh -c 'curl -m 5 http://$FAULTWIRE_HOST/'
  faultwire exec --reach internet --both 'delay 100ms loss 2%' -- ./test.sh
  faultwire exec --both 'loss 5%' --until-failure -- ./test.sh
  faultwire exec --down 'rate 10mbit limit 50' -- \\
    sh -c 'iperf3 -c $FAULTWIRE_HOST -R'

With --seeds or --until-failure the seeds are S, S+1, S+2 ... where S is --seed,
the seed of the SPEC, or random; --summary, --json and --log report the last
run.

If faultwire itself is killed, the command gets SIGTERM, since its network is
gone.

Exit code: that of the command; 128 + n if signal n ended it; 125 if the network
or the control socket could not be created, or if the command succeeded but a
summary, log, journal or capture could not be written; 126 or 127 if the command
could not be run or found; 2 if the command line is wrong or a file for the
summary, the journal or the capture cannot be opened.";

/// The help of `exec`, with every word of a spec that is a separate stage.
pub(super) fn exec_help() -> String {
    let words: Vec<&str> = spec::usages().flat_map(|usage| ["  ", usage, "\n"]).collect();
    [EXEC_BEFORE, &words.concat(), EXEC_AFTER].concat()
}
