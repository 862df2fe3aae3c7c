//! Did you mean: the known word nearest to a mistyped one.

/// The candidate nearest to `word`, if it is near enough to be what was meant: a third of its letters may differ.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|&(distance, candidate)| distance <= (candidate.chars().count().max(3)) / 3)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// What to say to somebody who wrote `word` where one of `candidates` is allowed.
pub fn hint(word: &str, candidates: &[&str]) -> String {
    match nearest(word, candidates.iter().copied()) {
        Some(candidate) => format!("did you mean \"{candidate}\"?"),
        None => format!("allowed: {}", candidates.join(", ")),
    }
}

/// Edit distance with swapped neighbours as one edit (optimal string alignment).
fn distance(left: &str, right: &str) -> usize {
    // Long texts are no typing mistakes, and the table is quadratic.
    const LONGEST: usize = 64;
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    if left.len().max(right.len()) > LONGEST {
        return usize::MAX;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    for (i, &a) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &b) in right.iter().enumerate() {
            let mut best = (previous[j] + usize::from(a != b)).min(previous[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a == right[j - 1] && left[i - 1] == b {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut previous, row);
    }
    previous[right.len()]
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
}
