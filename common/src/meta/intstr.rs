//! Numbers that may be percentages (maxSurge, maxUnavailable, minAvailable).

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The number, or the percentage of `total`, rounded up or down.
pub fn scaled(value: &IntOrString, total: i32, round_up: bool) -> Result<i32, String> {
    let text = match value {
        IntOrString::Int(number) => return Ok(*number),
        IntOrString::String(text) => text,
    };
    let Some(percent) = text.strip_suffix('%') else {
        return Err("invalid value for IntOrString: invalid type: string is not a percentage".into());
    };
    let percent: i64 = percent.parse().map_err(|_| format!("invalid value for IntOrString: invalid value {text:?}"))?;
    let product = percent.saturating_mul(i64::from(total));
    let quotient = product.div_euclid(100);
    let number = if round_up && product.rem_euclid(100) != 0 { quotient + 1 } else { quotient };
    Ok(number.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_asked() {
        let percent = |text: &str| IntOrString::String(text.into());
        assert_eq!(scaled(&IntOrString::Int(3), 10, true), Ok(3));
        assert_eq!(scaled(&percent("25%"), 10, true), Ok(3));
        assert_eq!(scaled(&percent("25%"), 10, false), Ok(2));
        assert_eq!(scaled(&percent("0%"), 10, true), Ok(0));
        assert!(scaled(&percent("25"), 10, true).is_err() && scaled(&percent("x%"), 10, true).is_err());
    }
}
