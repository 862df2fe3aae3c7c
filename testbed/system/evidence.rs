//! What cases request from the kernel, and what remains of it.

use std::process::Stdio;

use crate::system::common::{Scratch, faultwire, output, said, tool};

/// The instances of the kernel's trace, by a mount of tracefs that only this command sees.
fn instances() -> Vec<String> {
    let script =
        "mount -t tracefs tracefs /sys/kernel/tracing 2> /dev/null; ls /sys/kernel/tracing/instances";
    let output = tool("unshare").args(["-m", "sh", "-c", script]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    said(&output).lines().map(str::to_owned).collect()
}

const TRACED: &str = "title = \"t\"\n\
    fault = { up = [{ type = \"corrupt\", probability = \"100%\", area = \"payload\", match = { payload_length = \"64-64\" } }] }\n\
    [[traffic]]\ntype = \"udp\"\ncount = 20\nsize = 64\n";

/// The tracepoint agrees with the counter, a second source of the kernel for the same packets.
#[test]
fn drop_reasons_are_those_of_the_damaged_datagrams() {
    let expect = "[[expect]]\nsee = \"drops.server.UDP_CSUM\"\nequals = 20\n\
                  [[expect]]\nsee = \"kernel.server.Udp.InCsumErrors\"\nequals = 20\n\
                  [[expect]]\nsee = \"drops.client.UDP_CSUM\"\nequals = 0\n";
    let file = Scratch::file(&format!("{TRACED}{expect}"));
    let mut child = faultwire();
    let child = child.args(["case", "run", file.path()]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = child.spawn().unwrap();
    let ours = format!("faultwire-{}-", child.id());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(!said(&output).contains("not observable"), "{}", said(&output));
    assert!(!instances().iter().any(|name| name.starts_with(&ours)), "{:?}", instances());
}

/// The next start removes what remained after a SIGKILL.
#[test]
fn the_trace_of_a_killed_case_is_swept() {
    let wait = "[[expect]]\nsee = \"drops.server.UDP_CSUM\"\nequals = 21\n";
    let file = Scratch::file(&format!("settle = \"60s\"\n{TRACED}{wait}"));
    let mut child = faultwire()
        .args(["case", "run", file.path()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let ours = format!("faultwire-{}-", child.id());
    let deadline = faultwire::lab::clock::Deadline::after(std::time::Duration::from_secs(20));
    let left = || instances().iter().any(|name| name.starts_with(&ours));
    while !left() {
        assert!(deadline.left().is_some(), "no trace was ever made");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // From here on any start removes it, also the starts of other tests.
    let next = Scratch::file(&format!("{TRACED}{}", wait.replace("21", "20")));
    let output = output(&["case", "run", next.path()]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(!left());
}

/// Without access to the trace, a case says so, and its other expectations decide.
#[test]
fn a_user_namespace_has_no_trace_and_the_case_passes_all_the_same() {
    let expect = "[[expect]]\nsee = \"drops.server.UDP_CSUM\"\nequals = 20\n\
                  [[expect]]\nsee = \"kernel.server.Udp.InCsumErrors\"\nequals = 20\n";
    let file = Scratch::file(&format!("{TRACED}{expect}"));
    // A host's own tracefs, whose files belong to root, would be open to this user too.
    let script = "mount -t tmpfs none /sys/kernel/tracing && exec \"$@\"";
    let output = tool("unshare")
        .args([
            "-Urnm",
            "sh",
            "-c",
            script,
            "sh",
            env!("CARGO_BIN_EXE_faultwire"),
            "case",
            "run",
            file.path(),
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let text = said(&output);
    assert!(text.contains("n/a  drops.server.UDP_CSUM is not observable here"), "{text}");
    assert!(text.contains("PASS kernel.server.Udp.InCsumErrors = 20"), "{text}");
}
