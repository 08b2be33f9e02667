//! Exact quantities: upstream's parsing, rounding (up, at nano), caps and canonical text.
//!
//! A quantity is `mantissa * 10^scale` with an i128 mantissa. Upstream computes without bounds; numbers whose mantissa does not
//! fit (more than 38 digits) are refused here, and arithmetic saturates.

use std::{cmp::Ordering, fmt, str::FromStr};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const NANO: i32 = -9;
const MAX_EXPONENT: i32 = 18;
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// How a quantity was written, and will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `12e6`.
    DecimalExponent,
    /// `12Mi`.
    BinarySI,
    /// `12M`.
    #[default]
    DecimalSI,
}

/// Why a text is no quantity; the words are upstream's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not even the form of a number with a suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number is out of bounds.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// No such suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// An exact amount. Equality and order are by value, whatever the format.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    mantissa: i128,
    scale: i32,
    format: Format,
}

impl Quantity {
    /// A whole number.
    pub const fn new(value: i64, format: Format) -> Self {
        Self { mantissa: value as i128, scale: 0, format }
    }

    /// A number of thousandths.
    pub const fn from_milli(value: i64, format: Format) -> Self {
        Self { mantissa: value as i128, scale: -3, format }
    }

    /// Zero.
    pub const fn zero() -> Self {
        Self::new(0, Format::DecimalSI)
    }

    /// How it will be written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether it is zero.
    pub fn is_zero(&self) -> bool {
        self.mantissa == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        self.mantissa.signum() as i32
    }

    /// The number of whole units, rounded away from zero; saturates.
    pub fn value(&self) -> i64 {
        self.scaled_value(0)
    }

    /// The number of thousandths, rounded away from zero; saturates.
    pub fn milli_value(&self) -> i64 {
        self.scaled_value(-3)
    }

    /// The number of `10^scale` units, rounded away from zero; saturates.
    pub fn scaled_value(&self, scale: i32) -> i64 {
        let (value, _) = rescale(self.mantissa, self.scale, scale);
        value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }

    /// The nearest float.
    pub fn as_f64(&self) -> f64 {
        self.mantissa as f64 * 10f64.powi(self.scale)
    }

    /// The whole number it is, if it is one that fits.
    pub fn as_i64(&self) -> Option<i64> {
        let (value, exact) = rescale(self.mantissa, self.scale, 0);
        i64::try_from(value).ok().filter(|_| exact)
    }

    /// Rounds away from zero to multiples of `10^scale`; tells whether nothing was lost.
    pub fn round_up(&mut self, scale: i32) -> bool {
        if self.scale >= scale {
            return true;
        }
        let (mantissa, exact) = rescale(self.mantissa, self.scale, scale);
        (self.mantissa, self.scale) = (mantissa, scale);
        exact
    }

    /// Adds; zero takes the other's format.
    pub fn add(&mut self, other: &Self) {
        if self.is_zero() {
            self.format = other.format;
        }
        let scale = self.scale.min(other.scale);
        let (left, right) =
            (rescale(self.mantissa, self.scale, scale).0, rescale(other.mantissa, other.scale, scale).0);
        (self.mantissa, self.scale) = (left.saturating_add(right), scale);
    }

    /// Subtracts; zero takes the other's format.
    pub fn sub(&mut self, other: &Self) {
        let mut negated = *other;
        negated.neg();
        self.add(&negated);
    }

    /// Multiplies; saturates.
    pub fn mul(&mut self, factor: i64) {
        self.mantissa = self.mantissa.saturating_mul(i128::from(factor));
    }

    /// Changes the sign.
    pub fn neg(&mut self) {
        self.mantissa = self.mantissa.saturating_neg();
    }
}

/// `mantissa * 10^from` in units of `10^to`, rounded away from zero; the flag tells whether that is exact.
fn rescale(mantissa: i128, from: i32, to: i32) -> (i128, bool) {
    let shift = from - to;
    if mantissa == 0 || shift == 0 {
        return (mantissa, true);
    }
    let factor = 10i128.checked_pow(shift.unsigned_abs());
    if shift > 0 {
        let scaled = factor.and_then(|factor| mantissa.checked_mul(factor));
        return scaled.map_or((if mantissa > 0 { i128::MAX } else { i128::MIN }, false), |scaled| (scaled, true));
    }
    let Some(factor) = factor else { return (mantissa.signum(), false) };
    let (quotient, rest) = (mantissa / factor, mantissa % factor);
    (quotient + rest.signum(), rest == 0)
}

struct Parts<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

fn split(text: &str) -> Option<Parts<'_>> {
    if text.is_empty() {
        return None;
    }
    let negative = text.starts_with('-');
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = unsigned.split_at(digits(unsigned));
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    let letters = suffix.bytes().take_while(|byte| b"eEinumkKMGTP".contains(byte)).count();
    let after = suffix[letters..].strip_prefix(['-', '+']).unwrap_or(&suffix[letters..]);
    after.bytes().all(|byte| byte.is_ascii_digit()).then_some(Parts { negative, whole, fraction, suffix })
}

/// Base (10 or 2), exponent and format of a suffix.
fn interpret(suffix: &str) -> Option<(u32, i32, Format)> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((10, *exponent, Format::DecimalSI));
    }
    if let Some(power) = BINARY.iter().position(|name| *name == suffix) {
        return Some((2, power as i32 * 10, Format::BinarySI));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).filter(|digits| !digits.is_empty())?;
    Some((10, exponent.parse().ok()?, Format::DecimalExponent))
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let parts = split(text).ok_or(QuantityError::Format)?;
        let (base, exponent, mut format) = interpret(parts.suffix).ok_or(QuantityError::Suffix)?;
        if exponent.abs() > 1000 {
            return Err(QuantityError::Numeric);
        }
        let fraction = parts.fraction.trim_end_matches('0');
        let digits = format!("{}{fraction}", parts.whole);
        let digits = digits.trim_start_matches('0');
        let mut mantissa: i128 =
            if digits.is_empty() { 0 } else { digits.parse().map_err(|_| QuantityError::Numeric)? };
        let mut scale = -(fraction.len() as i32);
        if base == 2 {
            mantissa = mantissa.checked_mul(1i128 << exponent).ok_or(QuantityError::Numeric)?;
        } else {
            scale += exponent;
        }
        if mantissa == 0 {
            scale = 0;
        }
        if scale < NANO {
            (mantissa, scale) = (rescale(mantissa, scale, NANO).0, NANO);
        }
        if format == Format::BinarySI {
            if rescale(mantissa, scale, 0).0 > i128::from(i64::MAX) {
                (mantissa, scale) = (i128::from(i64::MAX), 0);
            } else if mantissa > 0 && rescale(mantissa, scale, NANO).0 < 1_000_000_000 {
                format = Format::DecimalSI;
            }
        }
        let mantissa = if parts.negative { -mantissa } else { mantissa };
        Ok(Self { mantissa, scale, format })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return formatter.write_str("0");
        }
        if self.format == Format::BinarySI {
            let (mut whole, exact) = rescale(self.mantissa, self.scale, 0);
            if exact && whole.unsigned_abs() >= 1024 {
                let mut power = 0;
                while whole % 1024 == 0 && power + 1 < BINARY.len() {
                    whole /= 1024;
                    power += 1;
                }
                return write!(formatter, "{whole}{}", BINARY[power]);
            }
        }
        let (mut mantissa, mut exponent) = (self.mantissa, self.scale);
        while mantissa % 10 == 0 {
            mantissa /= 10;
            exponent += 1;
        }
        let largest = if self.format == Format::DecimalExponent { i32::MAX } else { MAX_EXPONENT };
        while exponent % 3 != 0 || exponent > largest {
            mantissa = mantissa.saturating_mul(10);
            exponent -= 1;
        }
        match self.format {
            Format::DecimalExponent if exponent == 0 => write!(formatter, "{mantissa}"),
            Format::DecimalExponent => write!(formatter, "{mantissa}e{exponent}"),
            _ => {
                let suffix = DECIMAL.iter().find(|(_, known)| *known == exponent).map_or("", |(name, _)| name);
                write!(formatter, "{mantissa}{suffix}")
            }
        }
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_sign = self.mantissa.signum().cmp(&other.mantissa.signum());
        if by_sign.is_ne() || self.is_zero() {
            return by_sign;
        }
        let (left, left_scale) = normal(self.mantissa, self.scale);
        let (right, right_scale) = normal(other.mantissa, other.scale);
        let scale = left_scale.min(right_scale);
        let up = |mantissa: i128, from: i32| {
            10i128.checked_pow((from - scale) as u32).and_then(|factor| mantissa.checked_mul(factor))
        };
        match (up(left, left_scale), up(right, right_scale)) {
            (Some(left), Some(right)) => left.cmp(&right),
            // Only the one with the larger scale can overflow: its absolute value is larger.
            (None, _) => left.signum().cmp(&0),
            (_, None) => 0.cmp(&right.signum()),
        }
    }
}

fn normal(mut mantissa: i128, mut scale: i32) -> (i128, i32) {
    while mantissa != 0 && mantissa % 10 == 0 {
        mantissa /= 10;
        scale += 1;
    }
    (mantissa, scale)
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Quantity {}

impl TryFrom<&ApiQuantity> for Quantity {
    type Error = QuantityError;

    fn try_from(quantity: &ApiQuantity) -> Result<Self, QuantityError> {
        quantity.0.trim().parse()
    }
}

impl From<Quantity> for ApiQuantity {
    fn from(quantity: Quantity) -> Self {
        ApiQuantity(quantity.to_string())
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => text.trim().parse().map_err(D::Error::custom),
            serde_json::Value::Number(number) => number.to_string().parse().map_err(D::Error::custom),
            serde_json::Value::Null => Ok(Self::zero()),
            _ => Err(D::Error::custom(QuantityError::Format)),
        }
    }
}

#[cfg(test)]
#[path = "quantity_tests.rs"]
mod tests;
