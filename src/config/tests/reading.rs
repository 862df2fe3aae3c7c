//! What a configuration says is what its plan has.

use super::*;

#[test]
fn two_ports_are_enough_and_the_rest_has_defaults() {
    let plan = plan("");
    assert_eq!((plan.seed, plan.workers, plan.flows, plan.duration), (None, WorkerCount::Auto, 65_536, None));
    let left = &plan.ports[0];
    assert_eq!(
        (left.device.as_str(), left.mtu, left.txqueuelen, left.offload),
        ("fw-left", 1_500, 1_000, true)
    );
    assert_eq!(left.netns, NetnsRef::Named("left".to_owned()));
    assert_eq!(left.router.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.1.1", "fd00:1::1"]);
    assert_eq!(left.routes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["0.0.0.0/0", "::/0"]);
    assert!(plan.icmp.echo && plan.icmp.rate == 1_000);
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
}

#[test]
fn workers_follow_the_cores_that_are_listed() {
    let text = format!("seed = 7\npin = [1, 0]\nduration = \"10m\"\n{PORTS}");
    let plan = parse(&text, "x").unwrap();
    assert_eq!(plan.workers, WorkerCount::Exactly(NonZeroUsize::new(2).unwrap()));
    assert_eq!((plan.pin, plan.seed, plan.duration), (vec![1, 0], Some(7), Some(Duration::from_secs(600))));
    let error = parse(&format!("workers = 1\npin = [0, 1]\n{PORTS}"), "x").unwrap_err().to_string();
    assert_eq!(error, "x:2:7: pin: 2 cores for 1 workers (give as many cores as workers)");
}

#[test]
fn a_spec_comes_before_the_stages() {
    let plan = plan(
        "[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"loss 1% mtu 1400\"\n\
         [[path.stage]]\ntype = \"loss\"\nprobability = \"1%\"\n\
         [[path.stage]]\ntype = \"loss\"\nprobability = \"2%\"\n",
    );
    let names: Vec<&str> = plan.paths[0].names().collect();
    assert_eq!(names, ["mtu", "netem", "loss", "loss-2"]);
}

#[test]
fn a_link_is_two_paths() {
    let plan = plan(
        "[[link]]\nbetween = [\"left\", \"right\"]\nboth = \"delay 10ms\"\ndown = \"loss 1%\"\n\
         [[link.up]]\ntype = \"fragment-filter\"\n",
    );
    let [up, down] = plan.paths.as_slice() else { panic!("{:?}", plan.paths) };
    assert_eq!(((up.from, up.to), (down.from, down.to)), ((0, 1), (1, 0)));
    let names = |path: &plan::PathPlan| path.names().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names(up), ["netem", "fragment-filter"]);
    assert_eq!(names(down), ["netem", "netem-2"]);
}

#[test]
fn routes_lead_to_a_port_or_nowhere() {
    let plan = plan(
        "[[route]]\nprefix = \"10.9.0.0/16\"\nport = \"right\"\n\
         [[route]]\nprefix = \"fd09::/16\"\naction = \"blackhole\"\n",
    );
    let targets: Vec<RouteTarget> = plan.routes.iter().map(|route| route.target).collect();
    assert_eq!(targets, [RouteTarget::Port(1), RouteTarget::Blackhole]);
}

#[test]
fn a_match_reads_every_form() {
    let select = stage(
        r#"type = "fragment-filter"
        match = { protocol = ["tcp", 132], source = "10.0.0.0/8", destination = ["fd00::/8", "10.1.1.1"], port = 9,
                  source_port = ["1-5", 9], destination_port = "8000-", address = "10.1.0.0/16", tcp_flags = "syn,!ack", ip_length = "100-1500",
                  payload_length = "-0", fragment = "later", dscp = ["ef", 46, "af41", "cs1"], ecn = ["ect", "ce"] }"#,
    )
    .select;
    assert_eq!(select.protocols, [6, 132]);
    assert_eq!(select.source[0].to_string(), "10.0.0.0/8");
    assert_eq!(select.destination[1].to_string(), "10.1.1.1/32");
    assert_eq!(
        (select.ports.as_slice(), select.source_ports.as_slice()),
        (&[(9, 9)][..], &[(1, 5), (9, 9)][..])
    );
    assert_eq!(select.destination_ports, [(8_000, 65_535)]);
    assert_eq!(select.addresses[0].to_string(), "10.1.0.0/16");
    assert_eq!((select.tcp_flags_set, select.tcp_flags_unset), (2, 16));
    assert_eq!((select.ip_length, select.payload_length), (Some((100, 1_500)), Some((0, 0))));
    assert_eq!(select.fragment, Some(FragmentSelect::Later));
    assert_eq!((select.dscp, select.ecn), (vec![46, 46, 34, 8], vec![1, 2, 3]));
}

#[test]
fn what_stands_behind_an_exclamation_mark_is_not_meant() {
    let select = stage(
        r#"type = "drop"
        match = { protocol = "!udp", source = ["10.0.0.0/8", "!10.0.0.7"], destination = "!fd00::/8", address = "!10.9.9.9",
                  port = ["!22", "!8000-8100"], source_port = "!1-5", destination_port = ["! 443", "100-"], dscp = "!46",
                  ecn = "!ect" }"#,
    )
    .select;
    assert_eq!((select.source.len(), &select.destination_ports[..]), (1, &[(100, 65_535)][..]));
    let mut left =
        Select { source: select.source, destination_ports: select.destination_ports, ..Select::default() };
    let net = |text: &str| vec![text.parse().unwrap()];
    let none = Select::default;
    left.except = vec![
        Select { protocols: vec![17], ..none() },
        Select { source: net("10.0.0.7/32"), ..none() },
        Select { destination: net("fd00::/8"), ..none() },
        Select { addresses: net("10.9.9.9/32"), ..none() },
        Select { source_ports: vec![(1, 5)], ..none() },
        Select { destination_ports: vec![(443, 443)], ..none() },
        Select { ports: vec![(22, 22), (8_000, 8_100)], ..none() },
        Select { dscp: vec![46], ..none() },
        Select { ecn: vec![1, 2], ..none() },
    ];
    assert_eq!(select.except, left.except);
    let numbers = stage("type = \"drop\"\nmatch = { protocol = [\"!6\", \"!icmp\"] }").select;
    assert_eq!(numbers.except, [Select { protocols: vec![6, 1], ..none() }]);
}

/// A match is a table or an expression, the same for packets.
#[test]
fn a_match_may_be_an_expression() {
    let of = |text: &str| stage(&format!("type = \"drop\"\nmatch = \"{text}\"")).select;
    assert_eq!(of("tcp port 6379"), expression::parse("tcp port 6379").unwrap());
    let said = about("type = \"drop\"\nmatch = \"tcp prt 80\"");
    assert!(said.starts_with(".match: \"prt\" is not a condition"), "{said}");
}

#[test]
fn a_trigger_reads_every_key_and_makes_the_probability_certain() {
    let stage = stage(
        r#"type = "loss"
        trigger = { probability = "50%", nth = [30, 20, 30], every = 10, first = 50, after = 10, times = 1, from = "1s",
                    until = "2s", scope = "path" }"#,
    );
    let trigger = stage.trigger;
    assert_eq!((trigger.nth, trigger.every, trigger.first), (vec![20, 30], Some(10), Some(50)));
    assert_eq!((trigger.after, trigger.times, trigger.scope), (Some(10), Some(1), Scope::Path));
    assert_eq!((trigger.from, trigger.until), (Some(Duration::from_secs(1)), Some(Duration::from_secs(2))));
    let ImpairmentParams::Loss(loss) = stage.impairment else { panic!("{:?}", stage.impairment) };
    assert_eq!(loss.probability.to_string(), "100%");
}

#[test]
fn each_type_reads_its_keys() {
    let ImpairmentParams::Rate(rate) =
        stage("type = \"rate\"\nrate = \"1 Mbit/s\"\noverhead = -4").impairment
    else {
        panic!("no rate")
    };
    assert_eq!(rate.excess, Excess::Queue { packets: Some(1_000), bytes: None, time: None });
    assert_eq!(rate.overhead, -4);
    let policed = stage("type = \"rate\"\nrate = \"1 Mbit/s\"\npolice = { burst = \"15 kB\" }").impairment;
    assert!(
        matches!(policed, ImpairmentParams::Rate(rate) if rate.excess == Excess::Police { burst: 15_000 })
    );
    let corrupt = stage("type = \"corrupt\"\nprobability = \"1%\"\nbits = 3\narea = \"payload\"").impairment;
    assert!(
        matches!(corrupt, ImpairmentParams::Corrupt(corrupt) if (corrupt.bits, corrupt.area) == (3, CorruptArea::Payload))
    );
    let displaced = stage("type = \"reorder\"\nkind = \"displace\"\nprobability = \"1%\"\nby = 3").impairment;
    let timeout = Duration::from_millis(100);
    assert_eq!(
        displaced,
        ImpairmentParams::Reorder(ReorderParams::Displace {
            probability: "1%".parse().unwrap(),
            by: 3,
            timeout
        })
    );
    assert_eq!(
        stage("type = \"blackout\"\nstart = \"1s\"\ndown = \"2s\"\nup = \"3s\"").impairment,
        ImpairmentParams::Blackout(BlackoutParams {
            start: Duration::from_secs(1),
            down: Duration::from_secs(2),
            up: Some(Duration::from_secs(3)),
            hold: false,
        })
    );
    assert!(matches!(stage("type = \"netem\"\nspec = \"delay 1ms\"").impairment, ImpairmentParams::Netem(_)));
}

#[test]
fn stages_read_alike_in_a_document_of_another_shape() {
    let text = "fault = \"delay 10ms\"\n[[stage]]\ntype = \"loss\"\nprobability = \"1%\"\nx = 1\n";
    let error = reader::document(text, "case.toml", |root| {
        let values: Vec<_> = [root.value("fault"), root.value("stage")].into_iter().flatten().collect();
        Some(read_seats(&values))
    })
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "case.toml:5:1: stage[0].x: is not a known key (allowed: ecn, indices, list, match, model, name, pattern, probability, repeat, scope, trigger, type)"
    );
}

/// Phases follow each other, and each packet meets those stages only in whose phase it came.
#[test]
fn phases_follow_each_other() {
    let text = |repeat: &str| {
        format!(
            "{PORTS}[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"loss 1%\"\n{repeat}\
             [[path.phase]]\nfor = \"10s\"\nspec = \"delay 100ms\"\n\
             [[path.phase]]\nfor = \"5s\"\n[[path.phase.stage]]\ntype = \"blackout\"\ndown = \"1s\"\n"
        )
    };
    let phases = |text: &str| -> Vec<Option<Phase>> {
        parse(text, "x").unwrap().paths[0].stages().map(|stage| stage.trigger.phase).collect()
    };
    let seconds = Duration::from_secs;
    let first = Phase { number: 1, from: Duration::ZERO, until: Some(seconds(10)), period: None };
    let second = Phase { number: 2, from: seconds(10), until: None, period: None };
    assert_eq!(phases(&text("")), [None, Some(first), Some(second)]);
    let period = Some(seconds(15));
    let second = Phase { until: Some(seconds(15)), period, ..second };
    assert_eq!(phases(&text("repeat = true\n")), [None, Some(Phase { period, ..first }), Some(second)]);
    let wrong = format!("{PORTS}[[path]]\nfrom = \"left\"\nto = \"right\"\nrepeat = true\n");
    assert!(parse(&wrong, "x").unwrap_err().to_string().contains("no effect without phases"));
}
