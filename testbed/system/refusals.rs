//! Refused starts: their errors, and that they leave nothing behind.

use std::path::Path;
use std::process::Output;

use crate::system::common::{Foreign, Scratch, config, faultwire, ip, output, said, tool, unique};

const BINARY: &str = env!("CARGO_BIN_EXE_faultwire");

/// Names of namespaces that are in /run/netns, of those asked for.
fn left_behind(names: &[&str]) -> Vec<String> {
    let there = |name: &&&str| Path::new("/run/netns").join(name).exists();
    names.iter().filter(there).map(ToString::to_string).collect()
}

/// `faultwire run` of a clean network, by way of `wrap` (a program and its arguments before faultwire's).
fn run_by(wrap: &[&str]) -> (Output, Vec<String>) {
    drop(faultwire());
    let (left, right) = (unique(), unique());
    let file = Scratch::file(&config(&left, &right, "", ""));
    let mut command = tool(wrap[0]);
    let output =
        command.args(&wrap[1..]).args([BINARY, "run", "--duration", "20s", file.path()]).output().unwrap();
    (output, left_behind(&[&left, &right]))
}

fn assert_refused(output: &Output, left: &[String], words: &[&str]) {
    let text = said(output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn without_the_tun_device_file_the_message_says_how_to_get_it() {
    let script = "mount -t tmpfs none /dev/net && exec \"$@\"";
    let (output, left) = run_by(&["unshare", "-m", "sh", "-c", script, "sh"]);
    assert_refused(&output, &left, &["/dev/net/tun is missing", "modprobe tun"]);
}

/// A process without capabilities, whose user may not create user namespaces.
#[test]
fn without_privileges_the_message_says_which_setting_is_in_the_way() {
    let script = "echo 0 >/proc/sys/user/max_user_namespaces; \
                  exec setpriv --bounding-set -net_admin,-sys_admin --inh-caps -all \"$@\"";
    let (output, left) = run_by(&["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh"]);
    assert_refused(&output, &left, &["faultwire is not root", "sysctl user.max_user_namespaces"]);
}

#[test]
fn without_capabilities_what_the_host_has_is_out_of_reach() {
    let foreign = Foreign::new();
    let own = unique();
    let text = config(&foreign.0, &own, "", "").replacen("\ncreate = true", "", 1);
    let file = Scratch::file(&text);
    let wrap = [
        "--bounding-set",
        "-net_admin,-sys_admin",
        "--inh-caps",
        "-all",
        BINARY,
        "run",
        "--duration",
        "20s",
        file.path(),
    ];
    drop(faultwire());
    let output = tool("setpriv").args(wrap).output().unwrap();
    assert_refused(
        &output,
        &left_behind(&[&own]),
        &["port left", "namespace that is there already", "as root"],
    );
}

#[test]
fn a_namespace_that_exists_is_not_taken_over() {
    let (made, foreign) = (unique(), Foreign::new());
    let file = Scratch::file(&config(&made, &foreign.0, "", ""));
    let output = output(&["run", file.path()]);
    assert_refused(&output, &[], &[&foreign.0, "exists already"]);
    assert_eq!(
        left_behind(&[&made, &foreign.0]),
        [foreign.0.as_str()],
        "the other's namespace stays, the own does not"
    );
}

#[test]
fn a_device_name_that_is_taken_is_not_taken_over() {
    let (foreign, other) = (Foreign::new(), unique());
    let netns = &foreign.0;
    ip(&["-n", netns, "link", "add", "fw-right", "type", "veth", "peer", "name", "peer"]);
    let text = config(&other, netns, "", "")
        .replace(&format!("netns = \"{netns}\"\ncreate = true"), &format!("netns = \"/run/netns/{netns}\""));
    let file = Scratch::file(&text);
    let output = output(&["run", file.path()]);
    assert_refused(&output, &left_behind(&[&other]), &["fw-right", "exists already"]);
    let kind = ip(&["-n", netns, "-d", "link", "show", "fw-right"]);
    assert!(kind.contains("veth"), "{kind}");
}

/// The kernel takes an address twice, and its routes lead to the first device.
#[test]
fn an_address_that_the_namespace_has_already_is_warned_of() {
    let (foreign, other) = (Foreign::new(), unique());
    let netns = &foreign.0;
    ip(&["-n", netns, "link", "add", "wire0", "type", "veth", "peer", "name", "peer"]);
    for address in ["10.88.1.7/30", "fd88:1::2/64"] {
        ip(&["-n", netns, "addr", "add", address, "dev", "wire0"]);
    }
    let text = config(netns, &other, "", "").replacen("\ncreate = true", "", 1);
    let file = Scratch::file(&text);
    let output = output(&["run", "--duration", "10ms", file.path()]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    for words in ["10.88.1.2/24 overlaps 10.88.1.7/30 on device wire0", "fd88:1::2/64 overlaps fd88:1::2/64"]
    {
        assert!(text.contains(&format!("port left: {words}")), "{text}");
    }
    assert!(!text.contains("port right"), "{text}");
}

/// After exec was killed, its command continues alone; the network that exec created is removed.
#[test]
fn an_exec_that_is_killed_takes_its_device_with_it() {
    let mut child = faultwire()
        .args(["exec", "--", "sh", "-c", "echo up; exec cat"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    let device = Path::new("/sys/class/net").join(format!("fw{}", child.id()));
    assert!(device.exists() && line == "up\n", "{line}");
    child.kill().unwrap();
    child.wait().unwrap();
    // Its end of the pipe is closed: `cat` ends. The device goes with the descriptors, which the kernel closes before it
    // reports the death, but for those that it drops a moment later.
    let deadline = faultwire::lab::clock::Deadline::after(std::time::Duration::from_secs(20));
    while device.exists() {
        assert!(deadline.left().is_some(), "{} is left", device.display());
        std::thread::yield_now();
    }
}
