//! The examples in `configs` and the reference of all keys.

use super::*;

fn config_file(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(name)
}

/// Every file in `configs/` that is a configuration for `run`.
fn config_files() -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(config_file("")).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.filter(|path| Kind::of(&read(path).unwrap()) == Some(Kind::Config)).collect()
}

#[test]
fn every_example_is_a_network_that_needs_nothing_but_itself() {
    let files = config_files();
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        let plan = load(&file).unwrap_or_else(|error| panic!("{error}"));
        assert!(
            plan.ports.iter().all(|port| port.create && !port.addresses.is_empty()),
            "{}",
            file.display()
        );
        // A silent MTU black hole is what some examples are for.
        let meant = |warning: &String| warning.contains("black hole");
        assert!(
            plan.warnings.iter().all(meant) || file.ends_with("reference.toml"),
            "{}: {:?}",
            file.display(),
            plan.warnings
        );
    }
}

#[test]
fn the_reference_shows_every_key_and_type() {
    let text = read(&config_file("reference.toml")).unwrap();
    let problems = problem::Problems::new(config_file("reference.toml").display().to_string(), &text);
    let plan = reader::read_into(&text, &problems, |root| Some(file::read_plan(root))).unwrap();
    let present = present_keys(&text);
    // The stages of a phase are as those of a path.
    let shown =
        |key: &str| present.contains(key) || present.contains(&key.replace("path.phase.stage", "path.stage"));
    // A port with `attach` is of another shape; the reference shows it in a comment.
    let other = |key: &str| key == "port.attach" && text.contains("# attach = {");
    let missing = |key: &&String| !shown(key) && !other(key);
    let missing: Vec<String> = problems.asked.borrow().iter().filter(missing).cloned().collect();
    assert_eq!(missing, [""; 0]);
    assert!(!plan.paths[0].seats.is_empty());
    // If the reference lacked a type, its keys would not be tested above.
    for kind in stage::types() {
        let block = format!("[[path.stage]]\ntype = \"{kind}\"");
        assert!(text.contains(&block), "configs/reference.toml has no block of the type {kind}");
    }
}

/// The keys of a document with their tables, without indices.
fn present_keys(text: &str) -> std::collections::BTreeSet<String> {
    fn walk(path: &str, value: &toml::Value, keys: &mut std::collections::BTreeSet<String>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    walk(&path, value, keys);
                    keys.insert(path);
                }
            }
            toml::Value::Array(items) => items.iter().for_each(|item| walk(path, item, keys)),
            _ => {}
        }
    }
    let mut keys = std::collections::BTreeSet::new();
    walk("", &toml::Value::Table(text.parse().unwrap()), &mut keys);
    keys
}

/// The defaults that the reference states are those of the code: a port and a stage without these keys are equal.
#[test]
fn the_reference_states_the_defaults() {
    let reference = load(&config_file("reference.toml")).unwrap();
    let bare = plan("");
    assert_eq!(reference.ports[..2], bare.ports[..]);
    assert_eq!((reference.icmp, reference.flows), (bare.icmp, bare.flows));
    let of = |keys: &str| stage(keys).impairment;
    let shown = |number: usize| reference.paths[0].seats[number].stage().unwrap().impairment.clone();
    // Behind the three stages of the spec: loss, delay, two rates, a trace, steps, two more rates, mtu, mss, duplicate, corrupt, two reorders.
    assert_eq!(shown(3), of("type = \"loss\"\nprobability = \"1%\""));
    let pie = "type = \"rate\"\nrate = \"10 Mbit/s\"\nburst = \"30 kB\"\npeakrate = \"20 Mbit/s\"\nqueue = { packets = 300, discipline = \"pie\" }";
    assert_eq!(shown(9), of(pie));
    let red = "type = \"rate\"\nrate = \"10 Mbit/s\"\nqueue = { packets = 300, discipline = \"red\", min = 5, max = 15 }";
    assert_eq!(shown(10), of(red));
    assert_eq!(shown(12), of("type = \"mss\"\nmss = 1360"));
    assert_eq!(shown(13), of("type = \"duplicate\"\nprobability = \"0.1%\""));
    assert_eq!(shown(14), of("type = \"corrupt\"\nprobability = \"0.1%\""));
    assert_eq!(shown(15), of("type = \"reorder\"\nkind = \"displace\"\nprobability = \"1%\"\nby = 3"));
    assert_eq!(
        shown(16),
        of("type = \"reorder\"\nkind = \"overtake\"\nprobability = \"25%\"\ndelay = \"10ms\"")
    );
}

/// The same for translators.
#[test]
fn the_reference_states_the_defaults_of_translators() {
    let reference = load(&config_file("reference.toml")).unwrap();
    let bare = plan("[[nat]]\noutside = \"right\"\ninside = \"left\"\n");
    let [shown, bare] = [&reference.nats[0].kind, &bare.nats[0].kind].map(|kind| match kind {
        NatKind::Napt(napt) => (**napt).clone(),
        NatKind::Prefix(_) => panic!("the first one has a table"),
    });
    assert_eq!(bare.addresses, ["10.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!((bare.rebind, bare.forwards.len(), shown.forwards.len()), (None, 0, 1));
    let bare = NaptParams { addresses: shown.addresses.clone(), rebind: shown.rebind, ..bare };
    assert_eq!(NaptParams { forwards: Vec::new(), ..shown }, bare);
    assert_eq!(reference.nats.len(), 2);
}
