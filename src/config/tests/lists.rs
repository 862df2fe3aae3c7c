//! Losses by lists of packets, patterns and models.

use super::*;

#[test]
fn a_list_of_packets_must_make_sense() {
    for (keys, sentence) in [
        (
            "type = \"loss\"\nindices = [1, \"5-9\", 9]",
            ".indices[2]: 9 is not above 9, which stands before it (a number or a range from 1 on, each above the one \
             before it: 7, 12-20, 1000-)",
        ),
        (
            "type = \"loss\"\nindices = [1]\nprobability = \"1%\"",
            ".probability: a packet of indices is lost for certain (remove probability, or thin the list with trigger = { \
             probability = \"50%\" })",
        ),
        (
            "type = \"loss\"\nprobability = \"1%\"\nscope = \"path\"",
            ".scope: scope has no effect without a list or a pattern (remove scope, or write list = \"FILE\", indices = [1, \"5-9\"] or \
             pattern = [\"1%\", \"50%\"])",
        ),
        (
            "type = \"loss\"\nindices = [1]\nlist = \"x\"",
            ".indices: list and indices exclude each other (keep one of them)",
        ),
    ] {
        assert_eq!(about(keys), sentence, "{keys}");
    }
}

#[test]
fn patterns_and_models_must_make_sense() {
    let file = std::env::temp_dir().join(format!("fw-model-{}.json", std::process::id()));
    std::fs::write(&file, r#"{"StaticLossConfig":{"loss":[0.25]}}"#).unwrap();
    let model = format!("model = {:?}", file.display().to_string());
    for (keys, sentence) in [
        ("type = \"loss\"\npattern = []", ".pattern: has no probability"),
        ("type = \"loss\"\npattern = [\"1%\", 2]", ".pattern[1]: \"2\" has no %"),
        (
            "type = \"loss\"\npattern = [\"1%\"]\nprobability = \"1%\"",
            ".probability: the pattern says how likely",
        ),
        (
            "type = \"duplicate\"\npattern = [\"1%\"]\ncopies = 2",
            ".copies: the pattern says how likely and how often",
        ),
        (
            "type = \"loss\"\npattern = [\"1%\"]\nmodel = \"x\"",
            ".model: pattern and model exclude each other",
        ),
        (
            "type = \"loss\"\nprobability = \"1%\"\nrepeat = true",
            ".repeat: repeat has no effect without a model",
        ),
        (
            "type = \"delay\"\ndelay = \"1ms\"\nmodel = \"configs/traces/delay.json\"",
            ".delay: the model says how long",
        ),
        ("type = \"delay\"\nmodel = \"none.json\"", ".model: none.json cannot be read"),
        (&format!("type = \"delay\"\n{model}"), "has a model of loss, not of delay"),
        (&format!("type = \"duplicate\"\n{model}"), "has a model of loss, not of copies"),
    ] {
        let told = about(keys);
        assert!(told.contains(sentence), "{keys}: {told}");
    }
    let ImpairmentParams::Pattern(pattern) =
        stage(&format!("type = \"loss\"\n{model}\necn = true")).impairment
    else {
        panic!("no pattern")
    };
    assert_eq!(pattern.fault, PatternFault::Loss { ecn: true });
    assert_eq!(pattern.patterns.values().collect::<Vec<_>>(), [&vec!["25%".parse().unwrap()]]);
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_list_of_packets_is_read_with_its_file_and_line() {
    let file = std::env::temp_dir().join(format!("fw-list-{}", std::process::id()));
    let keys = format!("type = \"loss\"\nlist = {:?}\nscope = \"path\"", file.display().to_string());
    // A file as a generator would write it: 5,000 numbers.
    let lines: Vec<String> = (1..=5_000).map(|number| (number * 7).to_string()).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let ImpairmentParams::ListedLoss(loss) = stage(&keys).impairment else { panic!("no list") };
    assert_eq!((loss.list.count(), loss.list.bounds()), (5_000, Some((7, 35_000))));
    assert_eq!((loss.scope, loss.ecn), (Scope::Path, false));
    std::fs::write(&file, "1\n2\n\n2\n").unwrap();
    let told = about(&keys);
    assert!(told.contains(&format!("{}:4: 2 is not above 2", file.display())), "{told}");
    std::fs::remove_file(&file).unwrap();
    assert!(about(&keys).contains("cannot be read"));
}
