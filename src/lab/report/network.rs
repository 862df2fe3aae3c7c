//! The drawing of a network.

use std::fmt::Write as _;

use crate::config::describe_seat;
use crate::lab::case::{Host, Network};

/// The hosts, and what each path does between them.
pub fn drawing(network: &Network) -> String {
    let mut text = String::new();
    for host in &network.hosts {
        let _ = writeln!(text, "  {}", describe_host(host));
    }
    for path in &network.paths {
        let name = |index: usize| network.hosts.get(index).map_or("?", |host| host.port.name.as_str());
        let _ = write!(text, "  {} ──►", name(path.from));
        for seat in &path.seats {
            let _ = write!(text, " [{}: {}] ──►", seat.name(), describe_seat(seat));
        }
        let _ = writeln!(text, " {}", name(path.to));
    }
    text
}

fn describe_host(host: &Host) -> String {
    let port = &host.port;
    let addresses: Vec<String> = port.addresses.iter().map(ToString::to_string).collect();
    let mut text = format!("{:<10} {}, MTU {}", port.name, addresses.join(", "), port.mtu);
    if !port.offload {
        text.push_str(", offload off");
    }
    for (name, value) in &host.sysctl {
        let _ = write!(text, ", {name} = {value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use crate::lab::case::Case;

    #[test]
    fn the_drawing_has_every_host_and_stage() {
        let text = "title = \"t\"\nfault = { up = [{ type = \"loss\", probability = \"30%\" }] }\n\
                    [[traffic]]\ntype = \"ping\"\n[[expect]]\nsee = \"traffic.ping.lost\"\nequals = 0\n";
        let case = Case::parse(text, "x.toml", "x").unwrap();
        let drawing = super::drawing(&case.trials[0].runs[0].network);
        assert!(drawing.contains("client     10.77.1.2/24, fd77:1::2/64, MTU 1500"), "{drawing}");
        assert!(drawing.contains("client ──► [loss: loss 30%"), "{drawing}");
        assert!(drawing.contains("server ──► client"), "{drawing}");
    }
}
