//! Cron schedules: the grammar and the arithmetic of robfig/cron v3's standard parser, which the API promises. Pure.

use std::time::Duration;

use common::config::parse_go_duration;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

/// A field of the schedule: its range and the names of its values.
struct Field {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MINUTES: Field = Field { min: 0, max: 59, names: &[] };
const HOURS: Field = Field { min: 0, max: 23, names: &[] };
const DAYS: Field = Field { min: 1, max: 31, names: &[] };
const MONTHS: Field = Field {
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Field = Field { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

/// The values a field allows, as bits; `any`: it was given by a star.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Values {
    bits: u64,
    any: bool,
}

impl Values {
    fn has(self, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|v| self.bits & (1 << v) != 0)
    }
}

/// When something happens.
#[derive(Debug, Clone)]
pub(super) enum Schedule {
    /// At fixed distances from the last time.
    Every(SignedDuration),
    At(Box<Calendar>),
}

/// Minutes of the calendar of a time zone.
#[derive(Debug, Clone)]
pub(super) struct Calendar {
    minutes: Values,
    hours: Values,
    days: Values,
    months: Values,
    weekdays: Values,
    zone: TimeZone,
}

impl Schedule {
    /// Parses a schedule without a time zone prefix.
    ///
    /// # Errors
    /// robfig/cron's text.
    pub(super) fn parse(text: &str, zone: TimeZone) -> Result<Self, String> {
        if text.is_empty() {
            return Err("empty spec string".into());
        }
        let standard = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        if let Some(duration) = standard.strip_prefix("@every ") {
            let delay =
                parse_go_duration(duration).map_err(|e| format!("failed to parse duration @every {duration}: {e}"))?;
            let seconds = delay.max(Duration::from_secs(1)).as_secs();
            return Ok(Self::Every(SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX))));
        }
        if standard.starts_with('@') {
            return Err(format!("unrecognized descriptor: {standard}"));
        }
        let fields: Vec<&str> = standard.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
        };
        Ok(Self::At(Box::new(Calendar {
            minutes: values(minutes, &MINUTES)?,
            hours: values(hours, &HOURS)?,
            days: values(days, &DAYS)?,
            months: values(months, &MONTHS)?,
            weekdays: values(weekdays, &WEEKDAYS)?,
            zone,
        })))
    }

    /// The first time after this one; none within five years means never.
    pub(super) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Every(delay) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(*delay).ok()
            }
            Self::At(calendar) => calendar.next(after),
        }
    }
}

fn values(text: &str, field: &Field) -> Result<Values, String> {
    let mut all = Values { bits: 0, any: false };
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let one = range(part, field)?;
        all = Values { bits: all.bits | one.bits, any: all.any || one.any };
    }
    Ok(all)
}

/// `*`, `n`, `n-m`, each with `/step` if wanted.
fn range(text: &str, field: &Field) -> Result<Values, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let bounds: Vec<&str> = parts[0].split('-').collect();
    let mut any = matches!(bounds[0], "*" | "?");
    let (start, mut end) = match bounds[..] {
        _ if any => (field.min, field.max),
        [only] => (value(only, field)?, value(only, field)?),
        [first, last] => (value(first, field)?, value(last, field)?),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let step = match parts[..] {
        [_] => 1,
        [_, step] => {
            if bounds.len() == 1 {
                end = field.max;
            }
            number(step)?
        }
        _ => return Err(format!("too many slashes: {text}")),
    };
    any &= step <= 1;
    let (min, max) = (field.min, field.max);
    if start < min {
        return Err(format!("beginning of range ({start}) below minimum ({min}): {text}"));
    }
    if end > max {
        return Err(format!("end of range ({end}) above maximum ({max}): {text}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    let bits = (start..=end).step_by(usize::try_from(step).unwrap_or(usize::MAX)).fold(0, |bits, v| bits | 1 << v);
    Ok(Values { bits, any })
}

fn value(text: &str, field: &Field) -> Result<u32, String> {
    let named = field.names.iter().position(|name| name.eq_ignore_ascii_case(text));
    match named.and_then(|place| u32::try_from(place).ok()) {
        Some(place) => Ok(place + field.min),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u32, String> {
    match text.parse::<i64>() {
        Ok(number @ ..0) => Err(format!("negative number ({number}) not allowed: {text}")),
        Ok(number) => Ok(u32::try_from(number).unwrap_or(u32::MAX)),
        Err(_) => Err(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")),
    }
}

impl Calendar {
    fn has_day(&self, at: &Zoned) -> bool {
        let (day, weekday) = (self.days.has(at.day()), self.weekdays.has(at.weekday().to_sunday_zero_offset()));
        // Restricting both means either, as cron always had it.
        if self.days.any || self.weekdays.any { day && weekday } else { day || weekday }
    }

    fn at(&self, date: Date, hour: i8) -> Option<Zoned> {
        let time = DateTime::from_parts(date, Time::new(hour, 0, 0, 0).ok()?);
        self.zone.to_ambiguous_zoned(time).compatible().ok()
    }

    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let second = Timestamp::from_second(after.as_second() + 1).ok()?;
        let mut at = second.to_zoned(self.zone.clone());
        // Schedules are of minutes.
        if at.second() != 0 {
            at = at.checked_add(SignedDuration::from_secs(60 - i64::from(at.second()))).ok()?;
        }
        let limit = second.to_zoned(self.zone.clone()).year() + 5;
        while at.year() <= limit {
            if !self.months.has(at.month()) {
                at = self.at(at.date().first_of_month().checked_add(jiff::Span::new().months(1)).ok()?, 0)?;
            } else if !self.has_day(&at) {
                at = self.midnight_after(&at)?;
            } else if !self.hours.has(at.hour()) {
                let into = SignedDuration::from_secs(i64::from(at.minute()) * 60);
                at = at.checked_add(SignedDuration::from_hours(1) - into).ok()?;
            } else if !self.minutes.has(at.minute()) {
                at = at.checked_add(SignedDuration::from_mins(1)).ok()?;
            } else {
                return Some(at.timestamp());
            }
        }
        None
    }

    /// The start of the next day, also where the clock skips midnight.
    fn midnight_after(&self, at: &Zoned) -> Option<Zoned> {
        let tomorrow = at.date().tomorrow().ok()?;
        self.at(tomorrow, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::cronjob::zones;

    #[test]
    fn next_times() {
        // robfig/cron's own table, in New York where clocks change on 2012-03-11 and 2012-11-04.
        for (from, text, want) in [
            ("2012-07-09T14:45-04:00", "0/15 * * * *", "2012-07-09T15:00-04:00"),
            ("2012-07-09T14:59:59-04:00", "0/15 * * * *", "2012-07-09T15:00-04:00"),
            ("2012-07-09T15:45-04:00", "20-35/15 * * * *", "2012-07-09T16:20-04:00"),
            ("2012-07-09T23:46-04:00", "*/15 * * * *", "2012-07-10T00:00-04:00"),
            ("2012-07-09T23:45-04:00", "20-35/15 1/2 * * *", "2012-07-10T01:20-04:00"),
            ("2012-07-09T23:45-04:00", "20-35/15 10-12 * * *", "2012-07-10T10:20-04:00"),
            ("2012-07-09T23:35-04:00", "20-35/15 1/2 */2 * *", "2012-07-11T01:20-04:00"),
            ("2012-07-09T23:35-04:00", "20-35/15 10-12 9-20 Jul *", "2012-07-10T10:20-04:00"),
            ("2012-07-09T23:35-04:00", "0 0 9 Apr-Oct ?", "2012-08-09T00:00-04:00"),
            ("2012-07-09T23:35-04:00", "0 0 */5 Apr,Aug,Oct Mon", "2012-08-01T00:00-04:00"),
            ("2012-07-09T23:35-04:00", "0 0 */5 Oct Mon", "2012-10-01T00:00-04:00"),
            ("2012-07-09T23:35-04:00", "0 0 * Feb Mon", "2013-02-04T00:00-05:00"),
            ("2012-07-09T23:35-04:00", "0 0 * Feb Mon/2", "2013-02-01T00:00-05:00"),
            ("2012-07-09T23:35-04:00", "0 0 29 Feb ?", "2016-02-29T00:00-05:00"),
            ("2012-03-11T00:00-05:00", "30 2 11 Mar ?", "2013-03-11T02:30-04:00"),
            ("2012-03-11T00:00-05:00", "0 * * * ?", "2012-03-11T01:00-05:00"),
            ("2012-03-11T01:00-05:00", "0 * * * ?", "2012-03-11T03:00-04:00"),
            ("2012-03-11T03:00-04:00", "0 * * * ?", "2012-03-11T04:00-04:00"),
            ("2012-03-11T00:00-05:00", "0 2 * * ?", "2012-03-12T02:00-04:00"),
            ("2012-11-04T00:00-04:00", "30 2 04 Nov ?", "2012-11-04T02:30-05:00"),
            ("2012-11-04T00:45-04:00", "0 * * * ?", "2012-11-04T01:00-04:00"),
            ("2012-11-04T01:00-04:00", "0 * * * ?", "2012-11-04T01:00-05:00"),
            ("2012-11-04T01:00-05:00", "0 * * * ?", "2012-11-04T02:00-05:00"),
            ("2012-07-09T14:00-04:00", "0 15 13 * 5", "2012-07-13T15:00-04:00"),
            ("2012-07-13T15:00-04:00", "0 15 13 * 5", "2012-07-20T15:00-04:00"),
            ("2012-07-09T14:45:30-04:00", "@hourly", "2012-07-09T15:00-04:00"),
            ("2012-07-09T14:45:30-04:00", "@weekly", "2012-07-15T00:00-04:00"),
            ("2012-07-09T14:45:30-04:00", "@every 1h30m", "2012-07-09T16:15:30-04:00"),
        ] {
            let schedule = Schedule::parse(text, zones::load("America/New_York").unwrap()).unwrap();
            let got = schedule.next(from.parse().unwrap());
            assert_eq!(got, Some(want.parse().unwrap()), "{text} after {from}");
        }
        let never = Schedule::parse("59 23 31 2 *", TimeZone::UTC).unwrap();
        assert_eq!(never.next("2026-01-01T00:00:00Z".parse().unwrap()), None);
        // Where the day begins at one o'clock.
        let skipped = Schedule::parse("0 * 4 Nov ?", zones::load("America/Sao_Paulo").unwrap()).unwrap();
        let next = skipped.next("2018-11-03T12:00:00-03:00".parse().unwrap());
        assert_eq!(next, Some("2018-11-04T01:00:00-02:00".parse().unwrap()));
    }

    #[test]
    fn malformed() {
        for (text, want) in [
            ("", "empty spec string"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("*/2/3 * * * *", "too many slashes: */2/3"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("* * * Foo *", "failed to parse int from Foo: strconv.Atoi: parsing \"Foo\": invalid syntax"),
            ("@never", "unrecognized descriptor: @never"),
        ] {
            assert_eq!(Schedule::parse(text, TimeZone::UTC).unwrap_err(), want, "{text}");
        }
    }
}
