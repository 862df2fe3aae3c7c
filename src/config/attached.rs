//! `[[port]]` with `attach`: an existing device, whose traffic passes two lists of stages.

use crate::config::plan::{AttachTarget, AttachedPort, NetnsRef, PortPlan};
use crate::config::port::{name, netns};
use crate::config::reader::Table;
use crate::config::wire::read_directions;

/// Prefix of the internal name of an attached port, so that no configuration refers to one by mistake.
pub(super) const MARK: char = '@';

/// Reads a port with `attach`; `ports` and `others` are those that came before it.
pub(super) fn read_attached(
    table: &mut Table<'_>,
    ports: &[PortPlan],
    others: &[AttachedPort],
) -> AttachedPort {
    let given = table.required("name", "\"web\"");
    let name = given.as_ref().and_then(|value| name(value, ports)).unwrap_or_default();
    if let Some(value) = given.filter(|_| !name.is_empty() && others.iter().any(|other| other.name == name)) {
        value.problem(format!("\"{name}\" is the name of another port"), "names must be unique");
    }
    for key in
        ["kind", "device", "netns", "create", "addresses", "router", "mtu", "txqueuelen", "routes", "offload"]
    {
        if let Some(value) = table.value(key) {
            value.problem(
                "belongs to a port that faultwire makes: an attached device stays as it is",
                "remove it, or remove attach; name the target with attach = { netns = ..., dev = ... }",
            );
        }
    }
    let (target, device) = read_target(table);
    let [up, down] = read_directions(table);
    AttachedPort { name, target, device, up, down }
}

/// `attach = { container = "web", dev = "eth0" }`.
fn read_target(table: &mut Table<'_>) -> (AttachTarget, Option<String>) {
    let Some(mut attach) = table.value("attach").and_then(|value| value.table()) else {
        return (AttachTarget::default(), None);
    };
    let device = attach.value("dev").and_then(|value| value.text().map(str::to_owned));
    let netns = attach.value("netns").and_then(|value| netns(&value));
    let pid = attach.value("pid").and_then(|value| value.integer(1..=1 << 22));
    let container = attach.value("container").and_then(|value| value.text().map(str::to_owned));
    let given = [netns.is_some(), pid.is_some(), container.is_some()];
    if given.iter().filter(|given| **given).count() > 1 {
        attach.problem("names several targets", "leave one of netns, pid and container");
    }
    let target = match (netns, pid, container) {
        (Some(netns), ..) => AttachTarget::Netns(netns),
        (_, Some(pid), _) => AttachTarget::Pid(pid),
        (_, _, Some(container)) => AttachTarget::Container(container),
        _ => AttachTarget::Netns(NetnsRef::Own),
    };
    if target == AttachTarget::default() && device.is_none() {
        attach.problem("neither a target nor a device is given", "dev = \"eth0\", or container = \"web\"");
    }
    attach.finish();
    (target, device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const ROUTER: &str = "[[port]]\nname = \"left\"\nnetns = \"left\"\naddresses = [\"10.0.1.2/24\"]\n";

    #[test]
    fn attached_ports_stand_beside_others_and_have_faults_of_their_own() {
        let text = format!(
            "[[port]]\nname = \"web\"\nattach = {{ container = \"web\" }}\nboth = \"delay 5ms\"\nmatch = \"tcp\"\n{ROUTER}\
             [[port]]\nname = \"nic\"\nattach = {{ dev = \"eth0\" }}\n[[port.down]]\ntype = \"loss\"\nprobability = \"1%\"\n"
        );
        let plan = parse(&text, "a.toml").unwrap();
        assert_eq!(plan.ports.len(), 1);
        let [web, nic] = plan.attached.as_slice() else { panic!("{:?}", plan.attached) };
        assert_eq!(web.target, AttachTarget::Container("web".into()));
        assert_eq!((web.up.len(), web.down.len(), web.device.as_deref()), (1, 1, None));
        assert!(!web.up[0].select.is_any());
        assert_eq!((nic.up.len(), nic.down.len(), nic.device.as_deref()), (0, 1, Some("eth0")));
    }

    #[test]
    fn what_an_attached_port_cannot_have_is_refused_where_it_stands() {
        let attached = "[[port]]\nname = \"web\"\nattach = { container = \"web\" }\n";
        for (text, words) in [
            (
                format!("{attached}mtu = 1400\n"),
                "a.toml:4:7: port[0].mtu: belongs to a port that faultwire makes",
            ),
            (
                "[[port]]\nname = \"x\"\nattach = {}\n".to_owned(),
                "a.toml:3:10: port[0].attach: neither a target nor a device is given",
            ),
            (
                "[[port]]\nname = \"x\"\nattach = { pid = 1, container = \"y\" }\n".to_owned(),
                "port[0].attach: names several targets",
            ),
            (
                format!("{ROUTER}{attached}[[path]]\nfrom = \"left\"\nto = \"web\"\nspec = \"loss 1%\"\n"),
                "a.toml:10:6: path[0].to: \"web\" is attached: its traffic is not routed and takes no path",
            ),
            (
                format!("{ROUTER}{attached}[[route]]\nprefix = \"10.9.0.0/16\"\nport = \"web\"\n"),
                "route[0].port: \"web\" is attached",
            ),
            (format!("{attached}{attached}"), "\"web\" is the name of another port"),
            (
                format!("workers = 2\n{attached}"),
                "a.toml:1:11: workers: a router with an attached port has one worker",
            ),
            (
                format!("{attached}[[port.up]]\ntype = \"nat\"\n"),
                "port[0].up[0]: a translator cannot be on a wire",
            ),
        ] {
            let error = parse(&text, "a.toml").unwrap_err().to_string();
            assert!(error.contains(words), "{text}\n{error}");
        }
    }
}
