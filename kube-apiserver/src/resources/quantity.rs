//! Resource quantities as far as writes need them: exact value, canonical text. One quantity is a count of nano units.

use std::cmp::Ordering;

use serde_json::Value;

use super::value::each_value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Binary,
    Decimal,
    Exponent,
}

/// An exact quantity with the notation it was written in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quantity {
    nanos: i128,
    format: Format,
}

const NANO: i128 = 1_000_000_000;
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

impl Quantity {
    /// Parses upstream's syntax; more precision than nano is rounded up.
    pub(crate) fn parse(text: &str) -> Option<Quantity> {
        let (negative, rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > 40 {
            return None;
        }
        let (base, exponent, format) = suffix_scale(suffix)?;
        let digits: i128 = format!("0{whole}{fraction}").parse().ok()?;
        let scale = exponent + 9 - i32::try_from(fraction.len()).ok()?;
        let nanos = scaled(digits.checked_mul(base)?, scale)?;
        Some(Quantity { nanos: if negative { -nanos } else { nanos }, format })
    }

    /// A quantity from a JSON string or number.
    pub(crate) fn of(value: &Value) -> Option<Quantity> {
        match value {
            Value::String(text) => Quantity::parse(text),
            Value::Number(number) => Quantity::parse(&number.to_string()),
            _ => None,
        }
    }

    /// -1, 0 or 1.
    pub(crate) fn sign(self) -> i32 {
        self.nanos.signum() as i32
    }

    /// True when it is a whole number.
    pub(crate) fn is_whole(self) -> bool {
        self.nanos % NANO == 0
    }

    /// The value as an integer, rounded up.
    pub(crate) fn value(self) -> i128 {
        self.nanos.div_euclid(NANO) + i128::from(self.nanos.rem_euclid(NANO) != 0)
    }

    /// Numeric order, whatever the notation.
    pub(crate) fn compare(self, other: Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }

    /// The sum, in this quantity's notation.
    pub(crate) fn plus(self, other: Quantity) -> Quantity {
        Quantity { nanos: self.nanos.saturating_add(other.nanos), format: self.format }
    }

    /// Rounds up to thousandths, as every resource list is.
    pub(crate) fn round_up_milli(self) -> Quantity {
        let milli = NANO / 1000;
        let up = i128::from(self.nanos.rem_euclid(milli) != 0);
        Quantity { nanos: (self.nanos.div_euclid(milli) + up) * milli, format: self.format }
    }

    /// Upstream's canonical text.
    pub(crate) fn canonical(self) -> String {
        if self.nanos == 0 {
            return "0".to_string();
        }
        if self.format == Format::Binary && self.is_whole() && (self.nanos / NANO).abs() >= 1024 {
            let mut value = self.nanos / NANO;
            let mut power = 0;
            while value % 1024 == 0 && power < BINARY.len() {
                value /= 1024;
                power += 1;
            }
            return format!("{value}{}", if power == 0 { "" } else { BINARY[power - 1] });
        }
        let (mut value, mut index) = (self.nanos, 0);
        while value % 1000 == 0 && index + 1 < DECIMAL.len() {
            value /= 1000;
            index += 1;
        }
        let (suffix, exponent) = DECIMAL[index];
        match self.format {
            Format::Exponent if exponent != 0 => format!("{value}e{exponent}"),
            _ => format!("{value}{suffix}"),
        }
    }
}

fn suffix_scale(suffix: &str) -> Option<(i128, i32, Format)> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((1, *exponent, Format::Decimal));
    }
    if let Some(power) = BINARY.iter().position(|name| *name == suffix) {
        return Some((1024_i128.pow(u32::try_from(power).ok()? + 1), 0, Format::Binary));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    (exponent.abs() <= 20).then_some((1, exponent, Format::Exponent))
}

/// `digits * 10^scale`, rounded away from zero when it does not fit nano units.
fn scaled(digits: i128, scale: i32) -> Option<i128> {
    let factor = 10_i128.checked_pow(scale.unsigned_abs());
    match (scale >= 0, factor) {
        (true, Some(factor)) => digits.checked_mul(factor),
        (true, None) => (digits == 0).then_some(0),
        (false, Some(factor)) => Some(digits / factor + i128::from(digits % factor != 0)),
        (false, None) => Some(i128::from(digits != 0)),
    }
}

/// Writes every quantity of a resource list canonically and rounded up to thousandths.
pub(crate) fn canonicalize_list(list: Option<&mut Value>) {
    for value in list.into_iter().flat_map(each_value) {
        if let Some(quantity) = Quantity::of(value) {
            *value = Value::from(quantity.round_up_milli().canonical());
        }
    }
}

/// Canonical `limits` and `requests` of a `resources` object.
pub(crate) fn canonicalize_requirements(resources: Option<&mut Value>) {
    if let Some(resources) = resources {
        canonicalize_list(resources.get_mut("limits"));
        canonicalize_list(resources.get_mut("requests"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_text_is_upstreams() {
        for (text, want) in [
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1024Mi", "1Gi"),
            ("100Mi", "100Mi"),
            ("1.5Gi", "1536Mi"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("1000", "1k"),
            ("1e3", "1e3"),
            ("12E", "12E"),
            ("0", "0"),
            ("-5m", "-5m"),
            ("100u", "100u"),
            ("1500000", "1500k"),
        ] {
            assert_eq!(Quantity::parse(text).map(Quantity::canonical).as_deref(), Some(want), "{text}");
        }
        for bad in ["", "abc", "1.2.3", "1Kii", ".", "1 "] {
            assert!(Quantity::parse(bad).is_none(), "{bad}");
        }
        assert_eq!(Quantity::parse("100u").map(|q| q.round_up_milli().canonical()).as_deref(), Some("1m"));
    }
}
