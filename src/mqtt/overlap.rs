//! What two valid topic filters have in common. Read MQTT 5 section 4.7 first.

/// Is one of the filters for topics that begin with `$` and the other not?
fn apart(one: &str, other: &str) -> bool {
    let wild = |filter: &str| filter.starts_with(['+', '#']);
    one.starts_with('$') && wild(other) || other.starts_with('$') && wild(one)
}

/// Is there a topic that both filters match?
pub fn overlaps(one: &str, other: &str) -> bool {
    if apart(one, other) {
        return false;
    }
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    loop {
        match (one.next(), other.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some(a), Some(b)) if a == b || a == "+" || b == "+" => {}
            _ => return false,
        }
    }
}

/// Does `wide` match every topic that `filter` matches?
pub fn covers(wide: &str, filter: &str) -> bool {
    if apart(wide, filter) {
        return false;
    }
    // What has a level at all, that is everything.
    let wide = if wide == "+/#" { "#" } else { wide };
    let (mut wide, mut filter) = (wide.split('/'), filter.split('/'));
    loop {
        match (wide.next(), filter.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(a), Some(b)) if a == b && a != "+" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::topic;
    use crate::vocab::Rng;

    /// A filter or topic of few different levels.
    fn random(rng: &mut Rng, levels: &[&str]) -> String {
        let count = 1 + rng.below(3);
        let len = u64::try_from(levels.len()).unwrap();
        let level = |_| levels[usize::try_from(rng.below(len)).unwrap()];
        (0..count).map(level).collect::<Vec<_>>().join("/")
    }

    #[test]
    fn filters_overlap_and_cover_as_their_topics_say() {
        let mut rng = Rng::new(3);
        let names = ["a", "b", "$s", ""];
        // The empty one, which nobody can publish to, is what `+` and `/#` have in common.
        let mut topics: Vec<String> = Vec::new();
        for one in names {
            topics.push(one.to_owned());
            for two in names {
                topics.push(format!("{one}/{two}"));
                for three in names {
                    topics.push(format!("{one}/{two}/{three}"));
                    topics.push(format!("{one}/{two}/{three}/a"));
                }
            }
        }
        let mut seen = [0; 4];
        for _ in 0..20_000 {
            let one = random(&mut rng, &["a", "b", "$s", "+", "#", ""]);
            let other = random(&mut rng, &["a", "b", "$s", "+", "#", ""]);
            if !topic::is_filter(&one) || !topic::is_filter(&other) {
                continue;
            }
            let of = |filter: &str| -> Vec<&String> {
                topics.iter().filter(|topic| topic::matches(filter, topic)).collect()
            };
            let (a, b) = (of(&one), of(&other));
            assert_eq!(overlaps(&one, &other), a.iter().any(|t| b.contains(t)), "{one} {other}");
            // A level of our four names is not every level there is: `+` is more than they are.
            if covers(&one, &other) {
                assert!(b.iter().all(|t| a.contains(t)), "{one} {other}");
            } else {
                let names =
                    topics.iter().any(|t| topic::matches(&other, t) && !topic::matches(&one, t));
                assert!(names, "{one} does cover {other}");
            }
            seen[usize::from(overlaps(&one, &other)) + 2 * usize::from(covers(&one, &other))] += 1;
        }
        assert!(seen[0] > 100 && seen[1] > 100 && seen[3] > 100, "{seen:?}");
    }
}
