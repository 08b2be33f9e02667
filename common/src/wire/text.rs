//! Scalars as JSON text: strings, times, durations.

use jiff::Timestamp;

use super::WireError;

/// Appends a JSON string. Invalid UTF-8 becomes U+FFFD, as Go's encoder has it.
pub(super) fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => put_str(out, text),
        Err(_) => put_str(out, &String::from_utf8_lossy(bytes)),
    }
}

/// Appends a JSON string.
pub(super) fn put_str(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if *byte >= 0x20 && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[from..at]);
        from = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            other => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(other >> 4)], HEX[usize::from(other & 15)]]);
            }
        }
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}

/// Appends a decimal number.
pub(super) fn put_int(out: &mut Vec<u8>, value: i64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = value.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

/// Go's zero time, the first of January of the year 1.
const ZERO_TIME: i64 = -62_135_596_800;

/// Appends RFC 3339 text, or null for Go's zero time. `micros` is given for times with microseconds.
pub(super) fn put_time(out: &mut Vec<u8>, seconds: i64, micros: Option<u32>) -> Result<(), WireError> {
    if seconds == ZERO_TIME && micros.unwrap_or(0) == 0 {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days).ok_or_else(|| WireError::malformed("time out of range"))?;
    out.push(b'"');
    put_digits(out, year, 4);
    for (mark, value) in [(b'-', month), (b'-', day)] {
        out.push(mark);
        put_digits(out, value, 2);
    }
    for (mark, value) in [(b'T', of_day / 3600), (b':', of_day / 60 % 60), (b':', of_day % 60)] {
        out.push(mark);
        put_digits(out, value as u32, 2);
    }
    if let Some(micros) = micros {
        out.push(b'.');
        put_digits(out, micros, 6);
    }
    out.extend_from_slice(b"Z\"");
    Ok(())
}

fn put_digits(out: &mut Vec<u8>, value: u32, width: u32) {
    for place in (0..width).rev() {
        out.push(b'0' + (value / 10u32.pow(place) % 10) as u8);
    }
}

/// The date of a day since 1970, within the years 0 to 9999 (Howard Hinnant's algorithm).
fn civil(days: i64) -> Option<(u32, u32, u32)> {
    let z = days.checked_add(719_468)?;
    let (era, of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (0..=9999).contains(&year).then_some((year as u32, month as u32, day as u32))
}

/// Seconds and nanoseconds since 1970 of RFC 3339 text.
pub(super) fn parse_time(text: &str) -> Result<(i64, i32), WireError> {
    if let Some(seconds) = whole_seconds(text.as_bytes()) {
        return Ok((seconds, 0));
    }
    let time: Timestamp = text.parse().map_err(|_| WireError::Json(format!("cannot parse {text:?} as a time")))?;
    // Before 1970 the library counts fractions backwards.
    let nanos = time.as_nanosecond();
    Ok((nanos.div_euclid(1_000_000_000) as i64, nanos.rem_euclid(1_000_000_000) as i32))
}

/// The form in which servers write times, `2006-01-02T15:04:05Z`; other forms take the long way.
fn whole_seconds(text: &[u8]) -> Option<i64> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', n1, n2, b':', s1, s2, b'Z'] = *text else {
        return None;
    };
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0i64, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0')))
    };
    let (year, month, day) = (number(&[y1, y2, y3, y4])?, number(&[m1, m2])?, number(&[d1, d2])?);
    let (hour, minute, second) = (number(&[h1, h2])?, number(&[n1, n2])?, number(&[s1, s2])?);
    // Days that not every month has are left to the calendar of the long way.
    let plain = (1..=12).contains(&month) && (1..=28).contains(&day) && hour < 24 && minute < 60 && second < 60;
    let shifted = year - i64::from(month <= 2);
    let (era, of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468;
    plain.then_some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Whether a time is Go's zero time.
pub(super) fn is_zero_time(seconds: i64, nanos: i32) -> bool {
    seconds == ZERO_TIME && nanos == 0
}

/// Go's text of a duration in nanoseconds.
pub(super) fn go_duration(nanos: i64) -> String {
    let (sign, total) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let fraction = |value: u64, unit: u64, suffix: &str| {
        let (whole, rest) = (value / unit, value % unit);
        let width = unit.ilog10() as usize;
        let digits = format!("{rest:0width$}");
        let digits = digits.trim_end_matches('0');
        if digits.is_empty() { format!("{whole}{suffix}") } else { format!("{whole}.{digits}{suffix}") }
    };
    let text = match total {
        0 => "0s".to_owned(),
        1..1_000 => format!("{total}ns"),
        1_000..1_000_000 => fraction(total, 1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(total, 1_000_000, "ms"),
        _ => {
            let (hours, minutes) = (total / 3_600_000_000_000, total / 60_000_000_000 % 60);
            let seconds = fraction(total % 60_000_000_000, 1_000_000_000, "s");
            match (hours, minutes) {
                (0, 0) => seconds,
                (0, m) => format!("{m}m{seconds}"),
                (h, m) => format!("{h}h{m}m{seconds}"),
            }
        }
    };
    format!("{sign}{text}")
}

/// The nanoseconds of Go's text of a duration.
pub(super) fn parse_duration(text: &str) -> Result<i64, WireError> {
    let invalid = || WireError::Json(format!("time: invalid duration {text:?}"));
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(invalid()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || whole.len() > 19 || fraction.contains('.') {
            return Err(invalid());
        }
        let parse = |digits: &str| if digits.is_empty() { Ok(0) } else { digits.parse::<i128>() };
        total += parse(whole).map_err(|_| invalid())? * scale;
        let fraction = fraction.get(..fraction.len().min(18)).unwrap_or_default();
        total += parse(fraction).map_err(|_| invalid())? * scale / 10i128.pow(fraction.len() as u32);
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_gos() {
        for (nanos, want) in [
            (0, "0s"),
            (1_500, "1.5µs"),
            (2_000_000, "2ms"),
            (1_500_000_000, "1.5s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (-1, "-1ns"),
        ] {
            assert_eq!(go_duration(nanos), want);
            assert_eq!(parse_duration(want), Ok(nanos));
        }
        for wrong in ["", "1", "s", "1.5", "1x", "1.2.3s", "99999999999h"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    fn time(seconds: i64, micros: Option<u32>) -> String {
        let mut out = Vec::new();
        put_time(&mut out, seconds, micros).map_or_else(|e| e.to_string(), |()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn times_beyond_four_digits_are_refused_and_the_zero_time_is_null() {
        assert_eq!(time(ZERO_TIME, None), "null");
        assert_eq!(time(0, None), "\"1970-01-01T00:00:00Z\"");
        assert_eq!(time(-1, Some(5)), "\"1969-12-31T23:59:59.000005Z\"");
        assert!(time(i64::MAX, None).contains("out of range"));
        assert!(time(253_402_300_800, None).contains("out of range"));
    }

    proptest! {
        #[test]
        fn the_short_way_of_times_is_the_long_one(seconds in -62_135_596_800i64..253_402_300_799) {
            let text = time(seconds, None);
            let text = text.trim_matches('"');
            let long: Result<Timestamp, _> = text.parse();
            prop_assert_eq!(parse_time(text).ok().map(|(s, _)| s), long.ok().map(|t| t.as_second()));
        }

        #[test]
        fn times_are_what_they_were(seconds in -60_000_000_000i64..253_402_300_799, micros in 0u32..1_000_000) {
            let text = time(seconds, Some(micros));
            prop_assert_eq!(parse_time(text.trim_matches('"')), Ok((seconds, micros as i32 * 1000)));
        }

        #[test]
        fn strings_and_numbers_are_jsons(text in ".{0,40}", number: i64) {
            let mut out = Vec::new();
            put_str(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
            out.clear();
            put_int(&mut out, number);
            prop_assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }

        #[test]
        fn durations_are_what_they_were(nanos: i64) {
            prop_assert_eq!(parse_duration(&go_duration(nanos)), Ok(nanos));
        }
    }
}
