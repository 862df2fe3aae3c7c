//! Suggests the known word that is nearest to a mistyped one.

/// Maximum number of candidates that a hint lists.
const LISTED: usize = 12;

/// The candidate nearest to `word`, if it is near enough: at most a third of its letters may differ. Swapped
/// neighbours count as one edit (optimal string alignment).
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Long texts are not typing errors, and the comparison is quadratic.
    const LONGEST: usize = 64;
    if word.len() > LONGEST {
        return None;
    }
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&word, candidate), candidate))
        .filter(|&(distance, candidate)| distance <= (candidate.chars().count().max(3)) / 3)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// The hint for `word` where only `candidates` are allowed: the nearest one, those that begin with or contain `word`,
/// or all of them.
pub fn hint(word: &str, candidates: &[&str]) -> String {
    if let Some(candidate) = nearest(word, candidates.iter().copied()) {
        return format!("did you mean \"{candidate}\"?");
    }
    let typed = word.to_lowercase();
    let contain: Vec<_> = candidates.iter().filter(|name| typed.len() > 2 && name.contains(&typed)).collect();
    match contain[..] {
        [] => format!("allowed: {}", candidates.join(", ")),
        [one] => format!("did you mean \"{one}\"?"),
        ref some => {
            let names: Vec<_> = some.iter().take(LISTED).map(|name| format!("\"{name}\"")).collect();
            format!("did you mean one of {}?", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_mistake_finds_its_word() {
        let words = ["loss", "delay", "duplicate", "fragment-filter"];
        for (typed, meant) in
            [("los", "loss"), ("dealy", "delay"), ("duplicat", "duplicate"), ("LOSS", "loss")]
        {
            assert_eq!(nearest(typed, words), Some(meant));
        }
    }

    #[test]
    fn a_strange_word_finds_none() {
        assert_eq!(nearest("quux", ["loss", "delay"]), None);
        assert_eq!(hint("quux", &["loss", "delay"]), "allowed: loss, delay");
        assert_eq!(nearest(&"x".repeat(10_000), ["loss"]), None);
    }

    #[test]
    fn the_beginning_of_a_name_finds_all_that_have_it() {
        let names = ["mtu-100-receive", "mtu-threshold", "paws-no-fin", "rst-before-ack"];
        assert_eq!(hint("mtu-100", &names), "did you mean \"mtu-100-receive\"?");
        assert_eq!(hint("mtu", &names), "did you mean one of \"mtu-100-receive\", \"mtu-threshold\"?");
        assert_eq!(hint("Paws", &names), "did you mean \"paws-no-fin\"?");
        assert!(hint("s", &names).starts_with("allowed: "));
    }
}
