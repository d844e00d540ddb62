//! Stop strings against a naive search over the whole text.

use kilotok_text::{StopMatcher, TextError};
use proptest::prelude::*;

/// Earliest end, then longest, by trying every end and every pattern.
fn oracle(text: &str, stop: &[String], include: bool) -> (String, Option<String>) {
    for end in (0..=text.len()).filter(|&end| text.is_char_boundary(end)) {
        let hit = stop.iter().filter(|s| text[..end].ends_with(s.as_str())).max_by_key(|s| s.len());
        if let Some(hit) = hit {
            let cut = if include { end } else { end - hit.len() };
            return (text[..cut].to_owned(), Some(hit.clone()));
        }
    }
    (text.to_owned(), None)
}

/// Longest proper suffix that begins a stop string, by trying all.
fn longest_open_suffix(text: &str, stop: &[String]) -> usize {
    (0..text.len())
        .filter(|&at| text.is_char_boundary(at))
        .map(|at| &text[at..])
        .find(|suffix| stop.iter().any(|s| s.len() > suffix.len() && s.starts_with(suffix)))
        .map_or(0, str::len)
}

fn pieces() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[abé🙂]{0,4}", 0..24)
}

fn stops() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[abé🙂]{1,5}", 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn equals_the_naive_search(pieces in pieces(), stop in stops(), include in any::<bool>()) {
        let mut matcher = StopMatcher::new(&stop, include).unwrap();
        let (mut shown, mut fed, mut found) = (String::new(), String::new(), None);
        for piece in &pieces {
            fed.push_str(piece);
            let step = matcher.push(piece);
            shown.push_str(&step.text);
            if let Some(hit) = step.matched {
                prop_assert_eq!(&stop[hit.index], &hit.text);
                found = Some(hit.text);
                break;
            }
            // Nothing that could become a stop string is visible, and nothing else is held back.
            prop_assert_eq!(shown.len(), fed.len() - longest_open_suffix(&fed, &stop));
        }
        shown.push_str(&matcher.finish());
        prop_assert_eq!(matcher.finish(), "");
        prop_assert_eq!((shown, found), oracle(&pieces.concat(), &stop, include));
    }
}

fn owned(stop: &[&str]) -> Vec<String> {
    stop.iter().map(|&s| s.to_owned()).collect()
}

#[test]
fn a_match_may_span_many_pieces() {
    let mut matcher = StopMatcher::new(&owned(&["\n\nQ:"]), false).unwrap();
    let shown: Vec<String> =
        ["A\n", "\n", "Q", "!\n", "\nQ", ": never"].iter().map(|p| matcher.push(p).text).collect();
    assert_eq!(shown, ["A", "", "", "\n\nQ!", "", ""]);
    assert!(matcher.is_done());
    assert_eq!(matcher.push("more").text, "");
}

#[test]
fn finishing_releases_held_text() {
    let mut matcher = StopMatcher::new(&owned(&["</end>"]), false).unwrap();
    assert_eq!(matcher.push("x</en").text, "x");
    assert_eq!(matcher.finish(), "</en");
}

#[test]
fn the_longest_of_two_matches_with_one_end_wins() {
    let mut matcher = StopMatcher::new(&owned(&["c", "abc"]), false).unwrap();
    let step = matcher.push("xabcd");
    assert_eq!(step.text, "x");
    assert_eq!(step.matched.unwrap().index, 1);
}

#[test]
fn work_is_linear_for_hostile_patterns() {
    let stop = vec![format!("{}b", "a".repeat(4000))];
    let mut matcher = StopMatcher::new(&stop, false).unwrap();
    let mut shown = 0;
    for _ in 0..400_000 {
        shown += matcher.push("a").text.len();
    }
    assert_eq!(shown, 400_000 - 4000);
}

#[test]
fn bad_stop_strings_are_named() {
    for stop in [vec![String::new()], vec!["x".repeat(5000)], vec!["x".to_owned(); 300]] {
        let error = StopMatcher::new(&stop, false).unwrap_err();
        assert!(matches!(error, TextError::InvalidRequest { parameter: "stop", .. }), "{error}");
    }
}
