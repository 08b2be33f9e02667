//! Sets of completion indexes in their text form, `1,3-5,7`.

/// The intervals of the set, first and last index each, in order.
///
/// # Errors
/// Upstream's text for what is wrong with it.
pub(super) fn parse(text: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    let mut intervals: Vec<(i64, i64)> = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = interval(part, completions)?;
        if let Some((_, before)) = intervals.last().filter(|(_, before)| *before >= first) {
            return Err(format!("non-increasing order, previous: {before}, current: {first}"));
        }
        intervals.push((first, last));
    }
    Ok(intervals)
}

fn interval(part: &str, completions: i64) -> Result<(i64, i64), String> {
    let number = |text: &str| -> Result<i64, String> {
        let number =
            text.parse::<i64>().map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        if number >= completions { Err(format!("too large index: {text:?}")) } else { Ok(number) }
    };
    let limits: Vec<&str> = part.split('-').collect();
    match limits.as_slice() {
        [one] => number(one).map(|n| (n, n)),
        [first, last] => {
            let (first, last) = (number(first)?, number(last)?);
            if first >= last {
                return Err(format!("non-increasing order, previous: {first}, current: {last}"));
            }
            Ok((first, last))
        }
        _ => Err(format!(
            "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        )),
    }
}

/// The first index that two sets share; what can't be read is left out.
pub(super) fn overlap(one: &str, other: &str, completions: i64) -> Option<i64> {
    let read = |text: &str| -> Vec<(i64, i64)> {
        text.split(',').filter_map(|part| interval(part, completions).ok()).collect()
    };
    let other = read(other);
    read(one)
        .into_iter()
        .flat_map(|(a, b)| other.iter().map(move |(c, d)| (a.max(*c), b.min(*d))))
        .find(|(a, b)| a <= b)
        .map(|(a, _)| a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_and_compared() {
        assert_eq!(parse("1,3-5", 6), Ok(vec![(1, 1), (3, 5)]));
        assert_eq!(parse("", 6), Ok(vec![]));
        assert_eq!(parse("3,1", 6), Err("non-increasing order, previous: 3, current: 1".into()));
        assert_eq!(parse("x", 6), Err("cannot convert string to integer for index: \"x\"".into()));
        assert_eq!(overlap("1,3-5", "0,4", 6), Some(4));
        assert_eq!(overlap("1", "2", 6), None);
    }
}
