//! A quantity as Go holds it: 64 bits and a decimal scale, or for what does not fit a big decimal.
//! It depends on how the number was written, not only on its value: the server's text is canonical.

use std::fmt::{self, Write};

use common::meta::quantity::Quantity;

const NONE: &str = "d:(resource.infDecAmount){Dec:(*inf.Dec)<nil>}";
const DECIMAL: [(&str, i32); 10] =
    [("", 0), ("n", -9), ("u", -6), ("m", -3), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

enum Suffix {
    Decimal(i32),
    Exponent(i32),
    Binary(u32),
}

fn suffix(text: &str) -> Option<Suffix> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == text) {
        return Some(Suffix::Decimal(*exponent));
    }
    if let Some((_, exponent)) = BINARY.iter().find(|(name, _)| *name == text) {
        return Some(Suffix::Binary(*exponent));
    }
    text.strip_prefix(['e', 'E'])?.parse().ok().map(Suffix::Exponent)
}

/// A number as it is written.
struct Written<'a> {
    negative: bool,
    /// Digits before the point, without leading zeros.
    whole: &'a str,
    fraction: &'a str,
    unit: Suffix,
}

fn scan(text: &str) -> Option<Written<'_>> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(unsigned.len());
    let (number, unit) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = Some(whole.trim_start_matches('0')).filter(|whole| !whole.is_empty()).unwrap_or("0");
    Some(Written { negative: text.starts_with('-'), whole, fraction, unit: suffix(unit)? })
}

/// Prints the fields of a quantity. The server hands out what was written if upstream takes it for canonical, else the canonical text.
pub(super) fn print(text: &str, out: &mut impl Write) -> fmt::Result {
    let as_written = scan(text).filter(|written| small(written).is_some_and(|small| small.keeps_text));
    if let Some(written) = as_written {
        return print_written(text, &written, out);
    }
    let canonical = text.parse::<Quantity>().map_err(|_| fmt::Error)?.to_string();
    print_written(&canonical, &scan(&canonical).ok_or(fmt::Error)?, out)
}

fn print_written(text: &str, written: &Written<'_>, out: &mut impl Write) -> fmt::Result {
    let Some(Small { value, scale, keeps_text }) = small(written) else {
        let number: i128 = written.whole.parse().map_err(|_| fmt::Error)?;
        return big(if written.negative { -number } else { number }, &written.unit, out);
    };
    let text = if keeps_text { text } else { "" };
    write!(out, "{{i:(resource.int64Amount){{value:(int64){value} scale:(resource.Scale){scale}}} {NONE} ")?;
    write!(out, "s:(string){text} Format:(resource.Format){}}}", format(&written.unit))
}

fn format(unit: &Suffix) -> &'static str {
    match unit {
        Suffix::Decimal(_) => "DecimalSI",
        Suffix::Exponent(_) => "DecimalExponent",
        Suffix::Binary(_) => "BinarySI",
    }
}

/// What fits 64 bits.
struct Small {
    value: i64,
    scale: i32,
    /// Upstream keeps the text of what it can tell to be canonical.
    keeps_text: bool,
}

/// None: upstream's bounds call the number too big or too fine for 64 bits.
fn small(written: &Written<'_>) -> Option<Small> {
    let digits = format!("{}{}", written.whole, written.fraction);
    let count = i32::try_from(digits.len()).ok()?;
    let places = i32::try_from(written.fraction.len()).ok()?;
    let (factor, scale, spare) = match written.unit {
        Suffix::Decimal(scale) | Suffix::Exponent(scale) => (1, scale - places, 18 - count),
        Suffix::Binary(_) if places > 0 => return None,
        Suffix::Binary(exponent) => {
            let spent = (exponent as f32 * 3.0 / 10.0) as i32;
            (1_i64 << exponent, 0, 15 - count - spent - 1)
        }
    };
    (spare >= 0 && scale >= -9).then_some(())?;
    let number: i64 = digits.parse().ok()?;
    let value = number.checked_mul(factor)?;
    let keeps_text = match written.unit {
        _ if digits == "0" => matches!(written.unit, Suffix::Decimal(0)),
        Suffix::Binary(_) => number & 7 != 0,
        _ => scale % 3 == 0 && !digits.ends_with("000") && !digits.starts_with('0'),
    };
    Some(Small { value: if written.negative { -value } else { value }, scale, keeps_text })
}

fn big(number: i128, unit: &Suffix, out: &mut impl Write) -> fmt::Result {
    const NANOS: i32 = 9;
    let shifted = |number: i128, places: i32| {
        let factor = u32::try_from(places).ok().and_then(|places| 10_i128.checked_pow(places));
        factor.and_then(|factor| number.checked_mul(factor)).ok_or(fmt::Error)
    };
    let (mut unscaled, mut scale) = match *unit {
        Suffix::Binary(exponent) => (shifted(number.checked_mul(1 << exponent).ok_or(fmt::Error)?, NANOS)?, NANOS),
        Suffix::Decimal(exponent) | Suffix::Exponent(exponent) => (shifted(number, exponent + NANOS)?, NANOS),
    };
    let most = i128::from(i64::MAX);
    if matches!(unit, Suffix::Binary(_)) && unscaled.abs() > shifted(most, NANOS)? {
        (unscaled, scale) = (most * unscaled.signum(), 0);
    }
    let magnitude = unscaled.unsigned_abs();
    write!(out, "{{i:(resource.int64Amount){{value:(int64)0 scale:(resource.Scale)0}} d:(resource.infDecAmount)")?;
    write!(out, "{{Dec:(*inf.Dec){{unscaled:(big.Int){{neg:(bool){} abs:(big.nat)[{}", unscaled < 0, magnitude as u64)?;
    let high = (magnitude >> 64) as u64;
    if high > 0 {
        write!(out, " {high}")?;
    }
    write!(out, "]}} scale:(inf.Scale){scale}}}}} s:(string) Format:(resource.Format){}}}", format(unit))
}
