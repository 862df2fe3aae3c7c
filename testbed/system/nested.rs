//! `exec` inside of `exec` and without a command; `exec` and `run` as an ordinary user.

use std::process::Output;

use crate::system::common::{Folder, Terminal, config, output, said, tool};

const BINARY: &str = env!("CARGO_BIN_EXE_faultwire");

/// A script behind a link with these faults.
fn behind(faults: &str, script: &str) -> Output {
    output(&["exec", "--seed", "1", "--both", faults, "--", "bash", "-c", script])
}

/// The average round-trip time that ping prints, in milliseconds.
fn average(text: &str) -> f64 {
    let (_, rest) =
        text.split_once("min/avg/max/mdev = ").unwrap_or_else(|| panic!("no ping was answered: {text}"));
    rest.split('/').nth(1).unwrap().parse().unwrap()
}

#[test]
fn packets_of_a_link_inside_a_link_pass_both() {
    for (host, family) in [("FAULTWIRE_HOST", "-4"), ("FAULTWIRE_HOST6", "-6")] {
        let ping = format!("ping {family} -q -c 5 -i 0.05 ${host}");
        let inner = format!("{BINARY} exec --both 'delay 40ms' -- sh -c '{ping}'");
        let outer = said(&behind("delay 20ms", &inner));
        let average = average(&outer);
        assert!((120.0..200.0).contains(&average), "{average}: {outer}");
        // The namespace in between has a shorter round trip.
        let near = inner.replace(host, &host.replace("HOST", "PARENT"));
        let near = said(&behind("delay 20ms", &near));
        let average = self::average(&near);
        assert!((80.0..120.0).contains(&average), "{average}: {near}");
    }
}

#[test]
fn links_stand_side_by_side_inside_a_link_and_four_inside_each_other() {
    let ping = "ping -q -c 3 -i 0.05 $FAULTWIRE_HOST";
    let start = format!("{BINARY} exec --both 'delay 10ms' -- sh -c '{ping}' &");
    let beside = format!("{start}\nfirst=$!\n{start}\nsecond=$!\nwait $first && wait $second");
    let both = behind("delay 5ms", &beside);
    assert!(both.status.success() && said(&both).matches("min/avg/max").count() == 2, "{}", said(&both));
    let mut line = ping.to_owned();
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    for _ in 0..3 {
        line = format!("{BINARY} exec --both 'delay 5ms' -- sh -c {}", quoted(&line));
    }
    let deep = behind("delay 5ms", &line);
    assert!((40.0..80.0).contains(&average(&said(&deep))), "{}", said(&deep));
    let deeper = behind("delay 5ms", &format!("{BINARY} exec -- sh -c {}", quoted(&line)));
    assert!(said(&deeper).contains("no addresses left for a link inside this one"), "{}", said(&deeper));
}

/// A process that has left the namespace of the variable counts as a process on the host.
#[test]
fn a_variable_that_has_come_along_makes_no_link_a_link_inside() {
    let script = "nsenter -t $PPID -n sh -c \"$1\"";
    let inner = format!("{BINARY} exec --both 'delay 40ms' -- sh -c 'ping -q -c 3 -i 0.05 $FAULTWIRE_HOST'");
    let out = output(&["exec", "--both", "delay 20ms", "--", "bash", "-c", script, "bash", &inner]);
    assert!((80.0..120.0).contains(&average(&said(&out))), "{}", said(&out));
}

#[test]
fn without_a_command_there_is_a_shell() {
    let mut terminal = Terminal::open();
    let mut child = terminal.spawn(&["env", "SHELL=/bin/sh", BINARY, "exec", "--both", "delay 1ms"]);
    terminal.wait_for("a shell behind the link");
    terminal.type_in(b"ping -q -c 1 $FAULTWIRE_HOST; exit 5\n");
    terminal.wait_for("1 received");
    terminal.rest();
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

/// Runs as user nobody, with /dev/net/tun open to all or only to root, in a separate mount namespace.
fn as_nobody(folder: &Folder, mode: &str, script: &str) -> Output {
    let node = folder.file("tun");
    let outer = format!(
        "mknod {node} c 10 200 && chmod {mode} {node} && mount --bind {node} /dev/net/tun && \
         exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all bash -c \"$1\""
    );
    let output = tool("unshare").args(["-m", "bash", "-c", &outer, "bash", script]).output();
    output.expect("unshare and setpriv are installed (util-linux)")
}

/// A folder that user nobody can read, with the program in it.
fn for_nobody() -> (Folder, String) {
    let folder = Folder::new();
    let binary = folder.file("faultwire");
    std::fs::copy(BINARY, &binary).unwrap();
    let open = tool("chmod").args(["a+rwx", folder.path.to_str().unwrap(), &binary]).output().unwrap();
    assert!(open.status.success(), "{}", said(&open));
    (folder, binary)
}

/// The printed commands enter its namespaces.
#[test]
fn an_ordinary_user_runs_a_router_between_namespaces_of_its_own() {
    let (folder, binary) = for_nobody();
    let text =
        config("left", "right", "", "[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"delay 20ms\"\n");
    std::fs::write(folder.file("own.toml"), &text).unwrap();
    let script = format!(
        "cd {} && mkfifo ready\n{binary} run own.toml --ready-fd 3 --die-with-parent 3>ready 2>said >summary &\n\
         router=$!\nread -r line <ready\ncat said\ndoor=$(sed -n 's/^left: //p' said)\n\
         $door ping -q -c 3 -i 0.3 10.88.2.2\n$door ping -q -c 3 -i 0.3 fd88:2::2\n\
         kill $router\nwait $router\necho \"code $?\"",
        folder.path.display()
    );
    let done = as_nobody(&folder, "666", &script);
    let text = said(&done);
    assert!(text.contains("not root: the namespaces are in a user namespace"), "{text}");
    assert_eq!(text.matches("3 received").count(), 2, "{text}");
    assert!(text.contains("code 0") && average(&text) >= 20.0, "{text}");
    // Ports outside of the user namespace are refused before anything is created.
    std::fs::remove_file(folder.file("tun")).unwrap();
    let there = config("left", "right", "", "").replacen("create = true\n", "", 1);
    std::fs::write(folder.file("own.toml"), there).unwrap();
    let refused = as_nobody(&folder, "666", &format!("{binary} run {}", folder.file("own.toml")));
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(
        said(&refused).contains("port left: an ordinary user may use no namespace that is there already"),
        "{}",
        said(&refused)
    );
}

#[test]
fn an_ordinary_user_has_client_and_server_inside() {
    let (folder, binary) = for_nobody();
    let ping = "ping -q -c 3 -i 0.3 $FAULTWIRE_PARENT";
    let line = format!("{binary} exec -- sh -c \"{binary} exec --both 'delay 20ms' -- sh -c '{ping}'\"");
    // The outer shell leaves `$` to the inner one.
    let line = line.replace('$', r"\$");
    let done = as_nobody(&folder, "666", &line);
    let text = said(&done);
    assert!(text.contains("not root: the link is in a user namespace of its own"), "{text}");
    assert!((40.0..80.0).contains(&average(&text)), "{text}");
    // The message says what is not allowed, and how to allow it.
    std::fs::remove_file(folder.file("tun")).unwrap();
    let closed = as_nobody(&folder, "600", &format!("{binary} exec -- true"));
    assert_eq!(closed.status.code(), Some(125), "{}", said(&closed));
    assert!(said(&closed).contains("sudo chmod 0666 /dev/net/tun"), "{}", said(&closed));
}
