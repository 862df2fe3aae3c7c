//! Tests the grammar of docs/grammar.md against the parser: generated sentences are accepted, and changed ones cause
//! no panic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use proptest::prelude::*;

use crate::config::{expression, spec};

const PAGE: &str = include_str!("../../../docs/grammar.md");

/// How deep rules may be in each other before the shortest alternatives are taken.
const DEEP: usize = 24;

/// A part of a rule.
#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Rule(String),
    Number(u64, u64),
    Sequence(Vec<Part>),
    Choice(Vec<Part>),
    Option(Box<Part>),
    Repeat(Box<Part>),
}

/// Reads the rules of EBNF.
struct Reader<'a> {
    words: Vec<&'a str>,
    next: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> &'a str {
        self.words.get(self.next).copied().unwrap_or_else(|| panic!("the grammar ends in the middle"))
    }

    fn take(&mut self) -> &'a str {
        let word = self.peek();
        self.next += 1;
        word
    }

    fn choice(&mut self, end: &str) -> Part {
        let mut alternatives = vec![self.sequence(end)];
        while self.peek() == "|" {
            self.next += 1;
            alternatives.push(self.sequence(end));
        }
        assert_eq!(self.take(), end);
        if alternatives.len() == 1 { alternatives.remove(0) } else { Part::Choice(alternatives) }
    }

    fn sequence(&mut self, end: &str) -> Part {
        let mut parts = Vec::new();
        while ![end, "|"].contains(&self.peek()) {
            parts.push(match self.take() {
                "[" => Part::Option(Box::new(self.choice("]"))),
                "{" => Part::Repeat(Box::new(self.choice("}"))),
                "(" => self.choice(")"),
                "?" => {
                    let low = self.take().parse().unwrap();
                    assert_eq!(self.take(), "to");
                    let high = self.take().parse().unwrap();
                    assert_eq!(self.take(), "?");
                    Part::Number(low, high)
                }
                word if word.starts_with('"') => Part::Text(word.trim_matches('"').to_owned()),
                word => Part::Rule(word.to_owned()),
            });
        }
        Part::Sequence(parts)
    }
}

static RULES: LazyLock<BTreeMap<String, Part>> = LazyLock::new(rules);

fn rules() -> BTreeMap<String, Part> {
    let block = PAGE.split("```ebnf\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    // Comments end with their line.
    let text: String = block.lines().map(|line| line.split("(*").next().unwrap().to_owned() + "\n").collect();
    let mut reader = Reader { words: text.split_whitespace().collect(), next: 0 };
    let mut rules = BTreeMap::new();
    while reader.next < reader.words.len() {
        let name = reader.take().to_owned();
        assert_eq!(reader.take(), "=");
        assert!(rules.insert(name.clone(), reader.choice(";")).is_none(), "{name} has two rules");
    }
    rules
}

/// Makes sentences.
struct Generator<'a> {
    rules: &'a BTreeMap<String, Part>,
    seed: u64,
    depth: usize,
    /// Rules that were used.
    used: BTreeSet<String>,
}

impl<'a> Generator<'a> {
    fn new(rules: &'a BTreeMap<String, Part>, seed: u64) -> Self {
        Self { rules, seed, depth: 0, used: BTreeSet::new() }
    }

    /// A number below `end` (`SplitMix64`).
    fn below(&mut self, end: u64) -> u64 {
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end.max(1)
    }

    /// The words of `part`; of a rule in capitals one.
    fn words(&mut self, part: &Part) -> Vec<String> {
        match part {
            Part::Text(text) => vec![text.clone()],
            Part::Number(low, high) => {
                let span = (high - low).saturating_add(1);
                // Ends are where mistakes are.
                let number = match self.below(8) {
                    0 => *low,
                    1 => *high,
                    _ => low + self.below(span),
                };
                vec![number.to_string()]
            }
            Part::Sequence(parts) => parts.iter().flat_map(|part| self.words(part)).collect(),
            Part::Choice(parts) if self.depth > DEEP => {
                let last = parts.last().unwrap().clone();
                self.words(&last)
            }
            Part::Choice(parts) => {
                let chosen = &parts[self.below(parts.len() as u64) as usize];
                self.words(chosen)
            }
            Part::Option(part) if self.depth <= DEEP && self.below(2) == 0 => self.words(part),
            Part::Option(_) => Vec::new(),
            Part::Repeat(part) => {
                let count = if self.depth > DEEP { 0 } else { self.below(3) };
                (0..count).flat_map(|_| self.words(part)).collect()
            }
            Part::Rule(name) => self.rule(name),
        }
    }

    fn rule(&mut self, name: &str) -> Vec<String> {
        self.used.insert(name.to_owned());
        if name == "FILE" {
            return vec![concat!(env!("CARGO_MANIFEST_DIR"), "/configs/traces/sawtooth.trace").to_owned()];
        }
        if name == "faults" {
            return self.faults();
        }
        let part = self.rules.get(name).unwrap_or_else(|| panic!("{name} has no rule"));
        self.depth += 1;
        let words = self.words(part);
        self.depth -= 1;
        if name.chars().all(|letter| letter.is_ascii_uppercase() || letter.is_ascii_digit()) {
            return vec![words.concat()];
        }
        words
    }

    /// Each alternative of `fault` at most once, in any order.
    fn faults(&mut self) -> Vec<String> {
        let Some(Part::Choice(all)) = self.rules.get("fault") else { panic!("fault is no choice") };
        let mut left = all.clone();
        let count = 1 + self.below(4);
        let chosen = (0..count).map(|_| left.swap_remove(self.below(left.len() as u64) as usize));
        let chosen: Vec<Part> = chosen.collect();
        chosen.iter().flat_map(|part| self.words(part)).collect()
    }

    fn sentence(&mut self, rule: &str) -> String {
        // The colon stands alone, or ends the word before it.
        let glued = self.below(2) == 0;
        let text = self.rule(rule).join(" ");
        if glued { text.replace(" :", ":") } else { text }
    }
}

/// What the page says is refused: a sentence, and words of the answer.
fn refusals() -> Vec<(&'static str, &'static str)> {
    let table = PAGE.split("## Further refusals").nth(1).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let (sentence, words) = row[3..].split_once("` | ").unwrap();
        (sentence, words.trim_end_matches(" |"))
    })
    .collect()
}

/// Whether everything that is said about a sentence is in the page's table.
fn is_documented(said: &str) -> bool {
    refusals().iter().any(|(_, words)| said.contains(words))
}

/// A sentence with one thing about it changed: a letter, a word, or its end.
fn mutated(sentence: &str, generator: &mut Generator<'_>) -> String {
    let letters: Vec<char> = sentence.chars().collect();
    let at = generator.below(letters.len() as u64) as usize;
    let mut words: Vec<&str> = sentence.split(' ').collect();
    let word = generator.below(words.len() as u64) as usize;
    match generator.below(6) {
        0 => letters[..at].iter().collect(),
        1 => letters[at.min(letters.len())..].iter().collect(),
        2 => {
            words.remove(word);
            words.join(" ")
        }
        3 => {
            let other = words[generator.below(words.len() as u64) as usize];
            words.insert(word, other);
            words.join(" ")
        }
        4 => {
            let strange =
                [":", ";", "(", ")", "not", "-1", "1e400", "µ", "%", "99999999999999999999999", "\u{0}"];
            words[word] = strange[generator.below(strange.len() as u64) as usize];
            words.join(" ")
        }
        _ => {
            let mut changed = letters;
            if let Some(letter) = changed.get_mut(at) {
                *letter = ['x', ' ', ':', ';', '.', '-', 'ü'][generator.below(7) as usize];
            }
            changed.into_iter().collect()
        }
    }
}

#[test]
fn what_the_page_says_is_refused_is_refused_so() {
    for (sentence, words) in refusals() {
        let error = spec::parse(sentence).expect_err(sentence).to_string();
        assert!(error.contains(words), "{sentence}: {error}");
    }
}

/// Every word of a fault and of a condition is in the grammar, and every rule is used.
#[test]
fn the_grammar_is_whole() {
    let mut used = BTreeSet::new();
    for seed in 0..300 {
        let mut generator = Generator::new(&RULES, seed);
        generator.rule("spec");
        used.extend(generator.used);
    }
    // The alternatives of `fault` are chosen by `faults`.
    let unused: Vec<&str> =
        RULES.keys().map(String::as_str).filter(|&name| name != "fault" && !used.contains(name)).collect();
    assert_eq!(unused, [""; 0]);
    for word in super::words::all().chain(expression::WORDS) {
        assert!(PAGE.contains(&format!("\"{word}\"")), "{word}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn sentences_of_the_grammar_are_read(seed in any::<u64>()) {
        let mut generator = Generator::new(&RULES, seed);
        let sentence = generator.sentence("spec");
        if let Err(error) = spec::parse(&sentence) {
            // What follows from the first mistake is not the grammar's.
            prop_assert!(is_documented(&error.problems[0].what), "{error}");
        }
        let condition = generator.sentence("condition");
        match expression::parse(&condition) {
            Err(error) => prop_assert!(error.what().contains("no packet matches"), "{error}"),
            // One grammar: what is a condition is the front of a clause.
            Ok(select) => {
                let spec = spec::parse(&format!("{condition} : drop"));
                prop_assert_eq!(&spec.unwrap().stages[0].select, &select);
            }
        }
    }

    #[test]
    fn whatever_becomes_of_a_sentence_is_answered(seed in any::<u64>()) {
        let mut generator = Generator::new(&RULES, seed);
        let mut sentence = generator.sentence("spec");
        for _ in 0..4 {
            if sentence.is_empty() {
                break;
            }
            sentence = mutated(&sentence, &mut generator);
            if let Err(error) = spec::parse(&sentence) {
                prop_assert!(error.problems.iter().all(|problem| sentence.get(problem.at.clone()).is_some()));
                let _ = error.to_string();
            }
            if let Err(error) = expression::parse(&sentence) {
                let _ = error.to_string();
            }
        }
    }
}
