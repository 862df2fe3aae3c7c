//! Changing a running instance: by requests, and by `faultwire ctl`.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::process::Output;
use std::time::Duration;

use faultwire::control::{Client, ClientError};
use faultwire::net::Netns;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::system::common::{Running, Scratch, config, output, said, unique, until};

const PATHS: &str = r#"
[[path]]
from = "left"
to = "right"
[[path.stage]]
type = "delay"
delay = "1ms"
[[path.stage]]
type = "loss"
probability = "0%"
match = { protocol = "udp" }
[[path]]
from = "right"
to = "left"
"#;
const DELAY: &str = "/v1/paths/left%3Eright/stages/delay";
const LOSS: &str = "/v1/paths/left%3Eright/stages/loss";

struct Steered {
    running: Running,
    client: Client,
}

impl Steered {
    fn start(options: &[&str]) -> Self {
        Self::start_with("seed = 5", options)
    }

    /// With these lines at the top of the configuration.
    fn start_with(top: &str, options: &[&str]) -> Self {
        let name = unique();
        let (left, right) = (format!("{name}l"), format!("{name}r"));
        let socket = std::env::temp_dir().join(format!("{name}.sock"));
        let config = Scratch::file(&config(&left, &right, top, PATHS));
        let control = ["--control", socket.to_str().unwrap()];
        let running = Running::with(config, [left, right], &[&control[..], options].concat());
        Self { running, client: Client::at(socket) }
    }

    /// A socket in each namespace; the first sends to the second.
    fn sockets(&self) -> [UdpSocket; 2] {
        let bind = |netns: &str, address: &str| {
            Netns::named(netns).unwrap().run(|| UdpSocket::bind(address).unwrap()).unwrap()
        };
        let sockets = [bind(&self.running.left, "10.88.1.2:0"), bind(&self.running.right, "10.88.2.2:0")];
        sockets[0].connect(sockets[1].local_addr().unwrap()).unwrap();
        sockets[1].set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        sockets
    }

    fn send(&self, method: &str, resource: &str, body: &Value) -> Value {
        let answer = self.client.send(method, resource, Some(body), None);
        answer.unwrap_or_else(|error| panic!("{method} {resource} {body}: {error}")).body
    }

    fn ctl(&self, words: &[&str]) -> Output {
        let socket = self.client.path().unwrap().to_str().unwrap();
        output(&[&["ctl", "--control", socket], words].concat())
    }

    fn did(&self, words: &[&str]) -> String {
        let done = self.ctl(words);
        assert!(done.status.success(), "{words:?}: {}", said(&done));
        said(&done)
    }

    fn stages(&self) -> Vec<String> {
        let paths = self.client.get("/v1/paths").unwrap();
        paths[0]["stages"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    }
}

/// A thousand changes while numbered datagrams pass: each datagram arrives, in order, and all are accounted for.
#[test]
fn a_thousand_changes_under_load_lose_and_reorder_nothing() {
    let steered = Steered::start(&[]);
    let [from, to] = steered.sockets();
    let over = std::sync::atomic::AtomicBool::new(false);
    // The datagrams that arrived. The sender waits for a slow receiver, so it fills no queue of the kernels.
    let came = std::sync::atomic::AtomicU32::new(0);
    let (sent, received) = std::thread::scope(|scope| {
        let received = scope.spawn(|| {
            let mut numbers = Vec::new();
            let mut buffer = [0; 4];
            loop {
                to.recv(&mut buffer).unwrap();
                match u32::from_be_bytes(buffer) {
                    u32::MAX => return numbers,
                    number => numbers.push(number),
                }
                came.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        });
        let sent = scope.spawn(|| {
            let mut number = 0_u32;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                if number - came.load(std::sync::atomic::Ordering::Relaxed) > 100 {
                    std::thread::yield_now();
                    continue;
                }
                from.send(&number.to_be_bytes()).unwrap();
                number += 1;
                // This paces the load; it does not wait for anything.
                faultwire::lab::clock::pause(Duration::from_micros(200));
            }
            from.send(&u32::MAX.to_be_bytes()).unwrap();
            number
        });
        for change in 0..1000 {
            let spec = ["delay 1ms", "delay 3ms", "rate 100mbit limit 1000", "delay 2ms"][change % 4];
            steered.send("PATCH", DELAY, &json!({ "spec": spec }));
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        (sent.join().unwrap(), received.join().unwrap())
    });
    assert!(sent > 1000, "{sent}");
    let wrong = received.iter().zip(0..).find(|(number, expected)| **number != *expected);
    assert_eq!((wrong, received.len() as u32), (None, sent));
    let state = steered.client.get("/v1/state").unwrap();
    assert_eq!((&state["conserved"], &state["stages_version"]), (&true.into(), &1001.into()));
    let summary = steered.running.stop(Signal::SIGINT);
    assert_eq!(summary["conserved"], true);
    let seen = summary["paths"][0]["stages"][0]["seen"]["packets"].as_u64().unwrap();
    assert!(seen > u64::from(sent), "counters go on: {seen} of {sent}");
}

/// Every kind of change takes effect with the next packet.
#[test]
fn ctl_changes_what_happens() {
    let steered = Steered::start(&[]);
    let [sender, receiver] = steered.sockets();
    let mut number = 0_u8;
    let mut arrives = |is_expected: bool| {
        number += 1;
        sender.send(&[number]).unwrap();
        let timeout = if is_expected { Duration::from_mins(1) } else { Duration::from_millis(50) };
        receiver.set_read_timeout(Some(timeout)).unwrap();
        let mut buffer = [0];
        assert_eq!(receiver.recv(&mut buffer).is_ok(), is_expected, "datagram {number}");
    };
    arrives(true);
    steered.did(&["set", "left>right/loss", "loss 100%"]);
    arrives(false);
    steered.did(&["pause", "loss"]);
    arrives(true);
    let shown = steered.did(&["show"]);
    assert!(shown.contains("loss 100%") && shown.contains("(paused)"), "{shown}");
    steered.did(&["resume", "loss"]);
    arrives(false);
    // A change of what a stage does keeps its `match` and `trigger`.
    assert!(steered.did(&["show"]).contains("only udp"));
    steered.did(&["rm", "left>right/loss"]);
    arrives(true);
    steered.did(&["add", "left>right", "mtu 1000 drop loss 100%", "--before", "delay"]);
    assert_eq!(steered.stages(), ["mtu", "netem", "delay"]);
    arrives(false);
    steered.did(&["apply", "left>right=delay 2ms", "right>left=loss 100%"]);
    assert_eq!(steered.stages(), ["netem"]);
    arrives(true);
    steered.did(&["freeze", "left>right"]);
    assert!(steered.did(&["show"]).contains("(frozen)"));
    arrives(false);
    steered.did(&["release", "left>right"]);
    receiver.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    receiver.recv(&mut [0]).unwrap();
    arrives(true);
    assert!(steered.stages() == ["netem"] && steered.running.stop(Signal::SIGTERM)["conserved"] == true);
}

#[test]
fn wrong_changes_are_refused_and_change_nothing() {
    let steered = Steered::start(&[]);
    let before = steered.client.get("/v1/stages").unwrap();
    let spec = json!({ "spec": "loss 5%" });
    let huge = json!({ "spec": "x".repeat(300_000) });
    for (method, resource, body, status, field, words) in [
        ("PATCH", "/v1/paths/up/stages/loss", &spec, 404, "path", "left>right"),
        ("PATCH", "/v1/paths/left%3Eright/stages/los", &spec, 404, "stage", "delay, loss"),
        ("PATCH", LOSS, &json!({ "spec": "los 5%" }), 400, "spec", "los"),
        ("PATCH", LOSS, &json!({ "spec": "loss 5% mtu 1000" }), 400, "spec", "makes 2"),
        ("PATCH", LOSS, &json!({ "spce": "loss" }), 400, "spce", "spec"),
        ("PATCH", LOSS, &json!([]), 400, "body", "object"),
        ("PATCH", LOSS, &json!(null), 400, "body", "object"),
        ("PATCH", LOSS, &json!("loss 1%"), 400, "body", "object"),
        // The change asks for nothing.
        ("PATCH", LOSS, &json!({}), 400, "body", "paused"),
        ("PATCH", LOSS, &json!({ "set": {} }), 400, "set", "no parameter"),
        ("PUT", "/v1/paths", &json!({}), 400, "body", "no path"),
        (
            "PUT",
            "/v1/paths",
            &json!({ "left>right": { "spec": "" }, "left:right": { "spec": "" } }),
            400,
            "left>right",
            "the same path as left:right",
        ),
        ("POST", "/v1/paths/left%3Eright/stages", &json!({ "spec": "" }), 400, "spec", "no stage"),
        ("POST", "/v1/paths/left%3Eright/stages", &json!({ "stages": [] }), 400, "stages", "no stage"),
        // A hint is one for JSON.
        (
            "PATCH",
            LOSS,
            &json!({ "stages": [{ "type": "delay", "delay": "1ms", "distribution": "normal" }] }),
            400,
            "stages[0]",
            "\"jitter\": \"1ms\"",
        ),
        ("PATCH", LOSS, &json!({ "paused": 1 }), 400, "body", "boolean"),
        (
            "PATCH",
            LOSS,
            &json!({ "stages": [{ "type": "loss", "probability": "5" }] }),
            400,
            "stages[0].probability",
            "5",
        ),
        (
            "PATCH",
            LOSS,
            &json!({ "stages": [{ "type": "loss", "probability": null }] }),
            400,
            "stages",
            "null",
        ),
        ("PATCH", LOSS, &json!({ "stages": [{ "type": "nat" }] }), 409, "stages", "type nat"),
        (
            "PUT",
            "/v1/paths",
            &json!({ "left>right": { "spec": "delay x" } }),
            400,
            "left>right.spec",
            "needs a time",
        ),
        (
            "PUT",
            "/v1/paths",
            &json!({ "right>left": { "spec": "loss 1%" }, "up": { "spec": "" } }),
            404,
            "path",
            "up",
        ),
        (
            "POST",
            "/v1/paths/left%3Eright/stages",
            &json!({ "spec": "loss 1%", "before": "x" }),
            404,
            "stage",
            "x",
        ),
        ("PATCH", LOSS, &huge, 413, "body", "262144"),
        ("DELETE", "/v1/paths/left%3Eright/stages/x", &json!({}), 404, "stage", "x"),
        ("PATCH", "/v1/paths/left%3Eright", &json!({}), 400, "frozen", "missing"),
    ] {
        let answered = steered.client.send(method, resource, Some(body), None);
        let Err(ClientError::Refused { status: got, field: of, what }) = answered else {
            panic!("{method} {resource} {body:.100}: {answered:?}")
        };
        assert_eq!(got, status, "{method} {resource}: {what}");
        assert!(of.starts_with(field) && what.contains(words), "{method} {resource}: {of}: {what}");
    }
    let stale = steered.client.send("PATCH", LOSS, Some(&spec), Some("\"7\"")).unwrap_err();
    assert!(matches!(stale, ClientError::Refused { status: 412, .. }), "{stale}");
    assert_eq!(steered.client.get("/v1/stages").unwrap(), before);
    // The current version is accepted.
    let done = steered.client.send("PATCH", LOSS, Some(&spec), Some("\"1\"")).unwrap();
    assert_eq!(done.version.as_deref(), Some("\"2\""));
}

/// Wrong arguments of `ctl`, and ambiguous JSON.
#[test]
fn what_cannot_be_meant_is_refused() {
    let steered = Steered::start(&[]);
    for (words, why) in [
        (&["set", "loss", "los"][..], "loss"),
        (&["add", "left>right", ""], "no stage"),
        (&["apply", "left>right=loss 1%", "left>right=loss 2%"], "twice"),
        (&["apply", "/nowhere.toml"], "No such file"),
        (&["rm", "weather"], "there is no stage weather; there are: left>right/delay, left>right/loss"),
        (&["rm", "right>left/loss"], "there is no stage loss; there are: none"),
    ] {
        let wrong = steered.ctl(words);
        assert_eq!(wrong.status.code(), Some(2), "{}", said(&wrong));
        assert!(said(&wrong).contains(why), "{}", said(&wrong));
    }
    // If a field is given twice, it is not clear which one counts.
    let body = r#"{"left>right": {"spec": "loss 1%"}, "left>right": {"spec": ""}}"#;
    let head = "PUT /v1/paths HTTP/1.0\r\nHost: x\r\nContent-Length";
    let mut stream = UnixStream::connect(steered.client.path().unwrap()).unwrap();
    stream.write_all(format!("{head}: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 400 ") && answer.contains("given twice"), "{answer}");
}

/// The records of a journal name stages by number.
#[test]
fn stages_of_a_recorded_run_keep_their_numbers() {
    let journal = std::env::temp_dir().join(unique());
    let steered = Steered::start(&["--journal", journal.to_str().unwrap()]);
    steered.did(&["set", "loss", "loss 3%"]);
    let refused = steered.ctl(&["rm", "loss"]);
    assert!(said(&refused).contains("journal"), "{}", said(&refused));
    assert_eq!(steered.stages(), ["delay", "loss"]);
    drop(steered);
    std::fs::remove_file(journal).unwrap();
}

/// Each change, mark and scheduled change is in the journal and among the events, in this order. Refused changes are in neither.
#[test]
fn what_is_done_is_in_the_journal_and_among_the_events() {
    let journal = std::env::temp_dir().join(unique());
    let steered = Steered::start(&["--journal", journal.to_str().unwrap()]);
    let mut events = steered.client.events("").unwrap();
    let mut next = || events.next().unwrap().unwrap();
    assert_eq!(next()["kind"], "listening");
    steered.did(&["set", "loss", "loss 3%"]);
    assert_eq!(steered.ctl(&["set", "loss", "los"]).status.code(), Some(2));
    steered.did(&["mark", "half way"]);
    steered.did(&["freeze", "left>right"]);
    steered.did(&["release", "left>right"]);
    steered.did(&["at", "+50ms", "pause", "delay"]);
    let told: Vec<Value> = (0..5).map(|_| next()).collect();
    let short =
        |note: &Value| format!("{} {} {}", note["kind"], note["version"], note["text"]).replace('"', "");
    let expected = [
        "changed 2 set left>right/loss: loss 3%",
        "marked null half way",
        "changed 3 freeze left>right",
        "changed 4 release left>right",
        "changed 5 pause left>right/delay",
    ];
    assert_eq!(told.iter().map(short).collect::<Vec<_>>(), expected);
    assert_eq!(told[0]["request"]["body"], json!({ "spec": "loss 3%" }));
    assert_eq!(told[4]["schedule"], 1);
    let times: Vec<u64> = told.iter().map(|note| note["at_ns"].as_u64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    // Other readers get the events that they ask for.
    let mut marks = steered.client.events("kinds=marked").unwrap();
    assert_eq!(marks.next().unwrap().unwrap()["kind"], "listening");
    steered.did(&["resume", "delay"]);
    steered.did(&["mark", "the end"]);
    assert_eq!(marks.next().unwrap().unwrap()["text"], "the end");
    let _ = steered.running.stop(Signal::SIGINT);
    let read = |options: &[&str]| {
        let done = output(&[&["journal", journal.to_str().unwrap()], options].concat());
        assert!(done.status.success(), "{}", said(&done));
        String::from_utf8(done.stdout).unwrap()
    };
    let mut written: Vec<Value> =
        read(&["--json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // They are the same, except for the fields that every document of a command has.
    for note in &mut written {
        assert_eq!(note["command"], "journal");
        note.as_object_mut().unwrap().retain(|key, _| key != "command" && key != "schema_version");
    }
    assert_eq!(written[..5], told);
    assert_eq!(written.len(), 7);
    assert!(
        read(&[]).contains("  changed to version 5 (schedule 1): pause left>right/delay\n"),
        "{}",
        read(&[])
    );
    assert_eq!(read(&["--kind", "marked"]).lines().count(), 2);
    assert_eq!(read(&["--place", "left"]), "");
    std::fs::remove_file(journal).unwrap();
}

/// Scheduled changes are carried out when they are due, or say why not, and can be cancelled.
#[test]
fn changes_are_scheduled_listed_and_cancelled() {
    let steered = Steered::start(&[]);
    let mut events = steered.client.events("kinds=changed,failed").unwrap();
    let mut next = || events.next().unwrap().unwrap();
    assert_eq!(next()["kind"], "listening");
    let asked = steered.client.get("/v1/state").unwrap()["at_ns"].as_u64().unwrap();
    steered.did(&["at", "+100ms", "set", "loss", "loss 3%"]);
    // The stage does not exist any more at that time.
    steered.did(&["rm", "delay"]);
    assert_eq!(next()["version"], 2);
    steered.send(
        "POST",
        "/v1/schedule",
        &json!({ "in": "200ms", "change": { "method": "DELETE", "resource": DELAY } }),
    );
    let far = steered.did(&["at", "3600s", "rm", "loss"]);
    assert!(far.contains("waiting") && far.contains("3600.000 s  remove left>right/loss"), "{far}");
    let done = next();
    assert_eq!((&done["kind"], &done["schedule"]), (&"changed".into(), &1.into()));
    assert!(done["at_ns"].as_u64().unwrap() - asked >= 100_000_000, "{done}");
    let failed = next();
    assert_eq!((&failed["kind"], &failed["schedule"]), (&"failed".into(), &2.into()));
    assert!(failed["text"].as_str().unwrap().contains("there is no stage delay"), "{failed}");
    let plans = steered.client.get("/v1/schedule").unwrap();
    let states: Vec<&str> =
        plans.as_array().unwrap().iter().map(|plan| plan["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["done", "failed", "waiting"]);
    assert_eq!((&plans[0]["version"], &plans[1]["error"]["field"]), (&3.into(), &"stage".into()));
    assert_eq!(steered.did(&["schedule"]).lines().count(), 3);
    steered.did(&["cancel", "3"]);
    for (number, words) in
        [("3", "no scheduled change 3"), ("1", "waits no more"), ("9", "no scheduled change")]
    {
        let refused = steered.ctl(&["cancel", number]);
        assert_eq!(refused.status.code(), Some(2));
        assert!(said(&refused).contains(words), "{}", said(&refused));
    }
    assert_eq!(steered.client.get("/v1/schedule").unwrap().as_array().unwrap().len(), 2);
    for (words, field) in [
        (&["at", "soon", "rm", "loss"][..], "at"),
        (&["at", "0s", "rm", "loss"], "at"),
        (&["at", "+1s", "set", "loss", "los"], "change.spec"),
    ] {
        let refused = steered.ctl(words);
        assert_eq!(refused.status.code(), Some(2));
        assert!(said(&refused).contains(&format!("{field}: ")), "{}", said(&refused));
    }
}

/// One parameter changes and the others stay; the answer to a wrong one names it.
#[test]
fn single_parameters_are_set_by_their_keys() {
    let steered = Steered::start(&[]);
    steered.did(&["set", "delay", "delay=2ms", "jitter=1ms"]);
    steered.did(&["set", "delay", "delay=3ms"]);
    steered.did(&["set", "left>right/loss", "probability=100%"]);
    let stages = steered.client.get("/v1/stages").unwrap();
    assert_eq!(stages[0]["settings"], json!({ "delay": "3ms", "jitter": "1ms", "reorder": false }));
    assert!(stages[0]["text"].as_str().unwrap().contains("delay 3ms"), "{stages}");
    // The stage still sees only UDP.
    let [from, _] = steered.sockets();
    from.send(b"x").unwrap();
    let ping = Running::inside(&steered.running.left, &["ping", "-c1", "10.88.2.2"]).output().unwrap();
    assert!(ping.status.success(), "{}", said(&ping));
    let counters = steered.client.get("/v1/counters").unwrap();
    assert_eq!(counters["dropped"]["loss"]["packets"], 1);
    for (words, expected) in [
        (&["set", "loss", "probabilty=5%"][..], "set.probabilty: "),
        (&["set", "loss", "probability=5"], "set.probability: "),
        (&["set", "delay", "delay=1ms", "speed=2"], "set.speed: "),
    ] {
        let refused = steered.ctl(words);
        assert_eq!(refused.status.code(), Some(2));
        assert!(said(&refused).contains(expected), "{}", said(&refused));
    }
    let both = json!({ "spec": "loss 1%", "set": { "probability": "1%" } });
    let refused = steered.client.send("PATCH", LOSS, Some(&both), None).unwrap_err();
    assert!(
        matches!(&refused, ClientError::Refused { status: 400, field, .. } if field == "set"),
        "{refused}"
    );
    assert_eq!(steered.client.get("/v1/stages").unwrap()[0]["settings"]["delay"], "3ms");
}

/// The stages of a file replace all present stages, or none.
#[test]
fn a_whole_configuration_is_applied_or_nothing_is() {
    let steered = Steered::start(&[]);
    let name = unique();
    let file = |top: &str, paths: &str| {
        Scratch::file(&config(&steered.running.left, &steered.running.right, top, paths))
    };
    let before = steered.stages();
    for (config, words) in [
        // Another seed, other paths, what is no configuration, and one for attach.
        (file("seed = 6", PATHS), "only the stages"),
        (file("", &PATHS[..PATHS.find("[[path]]\nfrom = \"right\"").unwrap()]), "only the stages"),
        (file("", &PATHS.replace("0%", "101%")), "probability"),
        (Scratch::file("up = \"loss 5%\"\n"), "a file for attach"),
    ] {
        let refused = steered.ctl(&["apply", config.path()]);
        assert_eq!(refused.status.code(), Some(2));
        assert!(said(&refused).contains(words), "{words}: {}", said(&refused));
        assert_eq!(
            (steered.stages(), &steered.client.get("/v1/state").unwrap()["stages_version"]),
            (before.clone(), &1.into())
        );
    }
    let missing = steered.ctl(&["apply", &format!("/tmp/{name}")]);
    assert!(said(&missing).contains("No such file"), "{}", said(&missing));
    let other =
        PATHS.replace("delay = \"1ms\"", "delay = \"2ms\"\n[[path.stage]]\ntype = \"mtu\"\nmtu = 1400");
    let config = file("", &other);
    steered.did(&["apply", config.path()]);
    assert_eq!(steered.stages(), ["delay", "mtu", "loss"]);
    assert!(steered.did(&["show"]).contains("delay 2ms"));
    assert_eq!(steered.client.get("/v1/state").unwrap()["conserved"], true);
}

/// Every resource that `/v1` lists can be read, if it is readable, and conforms to the schema.
#[test]
fn every_resource_is_listed_and_answers() {
    let route = "seed = 5\n[[route]]\nprefix = \"10.99.0.0/16\"\naction = \"blackhole\"\n";
    let steered = Steered::start_with(route, &[]);
    let [from, to] = steered.sockets();
    for _ in 0..3 {
        from.send(b"x").unwrap();
        let _ = to.recv(&mut [0; 4]).unwrap();
    }
    let index = steered.client.get("/v1").unwrap();
    let known: Vec<&str> =
        index["resources"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    for resource in &known {
        // These are streams, text, or for writing only.
        if !["/v1/events", "/metrics", "/v1/marks", "/v1/config"].contains(resource) {
            steered.client.get(resource).unwrap_or_else(|error| panic!("{resource}: {error}"));
        }
    }
    assert!(known.contains(&"/metrics") && known.contains(&"/v1/flows"), "{known:?}");
    let routes = steered.client.get("/v1/routes").unwrap();
    let routes: Vec<String> = routes
        .as_array()
        .unwrap()
        .iter()
        .map(|route| format!("{} {}", route["prefix"], route["to"]).replace('"', ""))
        .collect();
    assert!(routes.contains(&"10.99.0.0/16 blackhole".to_owned()), "{routes:?}");
    assert!(routes.contains(&"10.88.1.0/24 port".to_owned()), "{routes:?}");
    assert_eq!(steered.client.get("/v1/translators").unwrap(), json!([]));
    assert_eq!(steered.client.get("/v1/attachments").unwrap(), json!([]));
    let flows = steered.client.get("/v1/flows").unwrap();
    let port = to.local_addr().unwrap().port();
    let own = flows["flows"]
        .as_array()
        .unwrap()
        .iter()
        .find(|flow| flow["destination"] == format!("10.88.2.2:{port}"));
    let own = own.unwrap_or_else(|| panic!("{flows}"));
    assert_eq!((&own["packets"], &own["port"], &own["protocol"]), (&3.into(), &"left".into(), &"UDP".into()));
    assert_eq!(steered.client.get("/v1/flows?limit=1").unwrap()["flows"].as_array().unwrap().len(), 1);
    assert!(steered.did(&["flows"]).contains("3 packets from left"), "{}", steered.did(&["flows"]));
    for wrong in ["limit=0", "limit=1001", "limit=x", "most=1"] {
        let refused = steered.client.get(&format!("/v1/flows?{wrong}")).unwrap_err();
        assert!(matches!(refused, ClientError::Refused { status: 400, .. }), "{wrong}: {refused}");
    }
}

/// Exactly the documented methods exist, and each wrong request gets a JSON error.
#[test]
fn the_document_has_the_methods_that_there_are() {
    let steered = Steered::start(&[]);
    let document = steered.client.get("/v1/openapi.json").unwrap();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let resource =
            path.replace("{path}", "left%3Eright").replace("{stage}", "none").replace("{number}", "9");
        for method in ["get", "put", "post", "patch", "delete"] {
            if path == "/v1/events" && method == "get" {
                continue;
            }
            let status = match steered.client.send(&method.to_uppercase(), &resource, None, None) {
                Ok(answer) => answer.status,
                Err(ClientError::Refused { status, field, what }) => {
                    assert!(
                        !what.is_empty() && !field.is_empty(),
                        "{method} {resource}: {status} {field} {what}"
                    );
                    status
                }
                // Text for Prometheus.
                Err(ClientError::Strange { .. }) if path == "/metrics" => 200,
                Err(error) => panic!("{method} {resource}: {error}"),
            };
            let is_there = status != 405;
            assert_eq!(is_there, operations.get(method).is_some(), "{method} {path}: {status}");
            if let Some(operation) = operations.get(method) {
                let known = &operation["responses"][status.to_string()];
                assert!(known.is_object(), "{method} {path} answers {status}, which is not documented");
            }
        }
    }
}

/// An invalid request is refused before a request that is only outdated, and null is not a value.
#[test]
fn a_wrong_body_is_told_before_a_stale_version() {
    let steered = Steered::start(&[]);
    for (method, resource, body, field) in [
        ("PATCH", LOSS, json!({ "paused": null }), "body"),
        ("PATCH", LOSS, json!({ "spec": null }), "body"),
        ("PATCH", LOSS, json!({ "spec": "los 1%" }), "spec"),
        ("POST", "/v1/paths/left%3Eright/stages", json!({ "spec": "loss 1%", "before": null }), "body"),
        ("PUT", "/v1/paths", json!({ "left>right": { "stages": [[]] } }), "left>right.stages[0]"),
        ("PUT", "/v1/paths/none", json!({ "stages": [null] }), "stages"),
        ("PUT", "/v1/config", json!({ "config": "[[port]" }), "config"),
        // A list is not accepted as an object, at any depth.
        ("PUT", "/v1/config", json!(["[[port]", "x"]), "body"),
        ("PUT", "/v1/paths", json!({ "left>right": ["loss 5%"] }), "body"),
        ("POST", "/v1/marks", json!(["x"]), "body"),
        ("POST", "/v1/schedule", json!({ "in": "1s", "change": ["POST", "/v1/marks"] }), "body"),
    ] {
        let refused = steered.client.send(method, resource, Some(&body), Some("\"7\"")).unwrap_err();
        let ClientError::Refused { status, field: told, what } = refused else { panic!("{refused}") };
        assert_eq!((status, told.as_str()), (400, field), "{method} {resource} {body}: {what}");
    }
}

/// A client that leaves before the answer has still changed the run, and the instance records it.
#[test]
fn a_client_that_leaves_does_not_stop_its_change_half_way() {
    const ROUNDS: u64 = 50;
    let steered = Steered::start(&[]);
    let socket = steered.client.path().unwrap().to_owned();
    for round in 0..ROUNDS {
        let body = json!({ "spec": format!("delay {}ms", round % 3 + 1) }).to_string();
        let head =
            format!("PATCH {DELAY} HTTP/1.1\r\nhost: faultwire\r\ncontent-length: {}\r\n\r\n", body.len());
        UnixStream::connect(&socket).unwrap().write_all(format!("{head}{body}").as_bytes()).unwrap();
    }
    let version = || steered.client.get("/v1/state").unwrap()["stages_version"].as_u64().unwrap();
    until("every change is known", || version() == ROUNDS + 1);
    let _ = steered.running.stop(Signal::SIGINT);
}
