//! How large a configuration may be, and that reading a large one takes time in proportion to it.

use crate::config::parse;
use crate::pipeline::params::limits;

/// Ports named p0, p1 and so on.
fn ports(count: usize) -> String {
    let port =
        |i: usize| format!("[[port]]\nname = \"p{i}\"\naddresses = \"10.{}.{}.2/24\"\n", i / 256, i % 256);
    (0..count).map(port).collect::<Vec<_>>().concat()
}

/// The problems of a file, or none.
fn told(text: &str) -> Vec<String> {
    match parse(text, "x.toml") {
        Ok(_) => Vec::new(),
        Err(error) => error
            .problems
            .iter()
            .map(|problem| format!("{}: {} ({})", problem.key, problem.what, problem.hint))
            .collect(),
    }
}

#[test]
fn a_router_is_as_large_as_its_limits_and_no_larger() {
    let two = ports(2);
    let path = "[[path]]\nfrom = \"p0\"\nto = \"p1\"\n";
    let stages = |count: usize| format!("{two}{path}{}", "[[path.stage]]\ntype = \"drop\"\n".repeat(count));
    assert_eq!(told(&stages(limits::STAGES)), [""; 0]);
    let extra =
        format!("path[0].stage[{}]: is one stage too many (a path has at most 512 stages)", limits::STAGES);
    assert_eq!(told(&stages(limits::STAGES + 1)), std::slice::from_ref(&extra));
    // Said once, and nothing is read for them.
    assert_eq!(told(&stages(100_000)), [extra]);
    let names: Vec<String> =
        parse(&stages(limits::STAGES), "x").unwrap().paths[0].names().map(str::to_owned).collect();
    assert_eq!((names[0].as_str(), names[1].as_str(), names[511].as_str()), ("drop", "drop-2", "drop-512"));

    assert_eq!(told(&ports(limits::PORTS)), [""; 0]);
    let extra = "port[1024]: 1025 ports are too many (at most 1024)";
    assert_eq!(told(&ports(limits::PORTS + 1)), [extra]);

    let pairs = |count: usize| -> String {
        let all = (0..130).flat_map(|from| (0..130).filter(move |to| from != *to).map(move |to| (from, to)));
        let path = |(from, to)| format!("[[path]]\nfrom = \"p{from}\"\nto = \"p{to}\"\n");
        ports(130) + &all.take(count).map(path).collect::<Vec<_>>().concat()
    };
    assert_eq!(told(&pairs(limits::PATHS)), [""; 0]);
    assert!(told(&pairs(limits::PATHS + 1))[0].starts_with(": 16385 paths are too many (at most 16384"));
}

/// Reading takes time in proportion to the file, however much is wrong with it: in proportion to its square this would take
/// minutes.
#[test]
fn a_hundred_thousand_mistakes_are_all_told() {
    let text = (0..100_000).map(|number| format!("k{number} = 1\n")).collect::<Vec<_>>().concat();
    let problems = parse(&text, "x.toml").unwrap_err().problems;
    let unknown: Vec<_> = problems.iter().filter(|problem| problem.what == "is not a known key").collect();
    assert_eq!(unknown.len(), 100_000);
    let lines: Vec<usize> = unknown.iter().map(|problem| problem.place.unwrap().line).collect();
    assert_eq!(lines, (1..=100_000).collect::<Vec<_>>());
}

/// Copies of copies are refused where they become too many; copies alone, or of few packets, are not.
#[test]
fn a_path_that_makes_too_many_packets_of_one_is_refused() {
    let stages = |lines: &[&str]| {
        let stage = |line: &&str| format!("[[path.stage]]\n{line}\n");
        let stages: String = lines.iter().map(stage).collect();
        told(&format!("{}[[path]]\nfrom = \"p0\"\nto = \"p1\"\n{stages}", ports(2)))
    };
    let twice = "type = \"duplicate\"\nprobability = \"100%\"";
    let many = "type = \"duplicate\"\nprobability = \"100%\"\ncopies = 1000";
    let acks = "type = \"inject\"\nkind = \"dup-ack\"\ncount = 100";
    let netem = "type = \"netem\"\nspec = \"duplicate 100%\"";
    for few in [
        vec![twice; 13],
        vec![many, twice],
        vec!["type = \"duplicate\"\nprobability = \"1%\""; 500],
        vec![netem; 13],
    ] {
        assert_eq!(stages(&few), [""; 0]);
    }
    for (explosive, at) in [
        (vec![twice; 14], 13),
        (vec![twice; 30], 13),
        (vec![many; 3], 1),
        (vec![acks, many], 1),
        (vec![netem; 20], 13),
    ] {
        let all = stages(&explosive);
        let place = format!("path[0].stage[{at}]: makes too many packets of one");
        assert!(all.len() == 1 && all[0].starts_with(&place), "{all:?}");
    }
    // A trigger that is seldom met makes few copies.
    let seldom = "type = \"duplicate\"\ntrigger = { probability = \"1%\" }";
    assert_eq!(stages(&[seldom; 100]), [""; 0]);
}
