//! Tables of upstream's behaviour and properties that must hold for every quantity.

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Quantity {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn canonical_texts_are_upstreams() {
    for (text, want) in [
        ("0", "0"),
        ("0m", "0"),
        ("0.0", "0"),
        ("-0", "0"),
        ("100m", "100m"),
        ("1000m", "1"),
        ("0.5", "500m"),
        (".5", "500m"),
        ("5.", "5"),
        ("1.5", "1500m"),
        ("1500m", "1500m"),
        ("100", "100"),
        ("1000", "1k"),
        ("1000000", "1M"),
        ("1001", "1001"),
        ("100k", "100k"),
        ("0.1k", "100"),
        ("1e3", "1e3"),
        ("1E3", "1e3"),
        ("12e4", "120e3"),
        ("1e-3", "1e-3"),
        ("1.2e1", "12"),
        ("1Ki", "1Ki"),
        ("1024Ki", "1Mi"),
        ("1024", "1024"),
        ("0.5Ki", "512"),
        ("0.5Mi", "512Ki"),
        ("1.5Gi", "1536Mi"),
        ("1.1Mi", "1153433600m"),
        ("1Ei", "1Ei"),
        ("8Ei", "9223372036854775807"),
        ("1n", "1n"),
        ("0.1n", "1n"),
        ("1.0000000001", "1000000001n"),
        ("-0.1n", "-1n"),
        ("-1.5", "-1500m"),
        ("-1Gi", "-1Gi"),
        ("+3", "3"),
        ("1E", "1E"),
        ("1T", "1T"),
        ("123456789012345678901", "123456789012345678901"),
    ] {
        assert_eq!(parse(text).to_string(), want, "{text}");
    }
}

#[test]
fn refuses_what_upstream_refuses() {
    for (text, want) in [
        ("", QuantityError::Format),
        ("1.1.", QuantityError::Format),
        ("1 Mi", QuantityError::Format),
        ("abc", QuantityError::Format),
        ("1+1.0M", QuantityError::Format),
        ("1mi", QuantityError::Suffix),
        ("1K", QuantityError::Suffix),
        ("1i", QuantityError::Suffix),
        ("1KiKi", QuantityError::Suffix),
        ("1e", QuantityError::Suffix),
    ] {
        assert_eq!(text.parse::<Quantity>().unwrap_err(), want, "{text}");
    }
}

#[test]
fn values_round_away_from_zero() {
    for (text, value, milli) in [
        ("1", 1, 1000),
        ("100m", 1, 100),
        ("1.0001", 2, 1001),
        ("-100m", -1, -100),
        ("1Ki", 1024, 1_024_000),
        ("1n", 1, 1),
        ("9223372036854775807", i64::MAX, i64::MAX),
    ] {
        assert_eq!((parse(text).value(), parse(text).milli_value()), (value, milli), "{text}");
    }
    assert_eq!(parse("1.5").as_i64(), None);
    assert_eq!(parse("2Mi").as_i64(), Some(2 << 20));
}

#[test]
fn sums_keep_the_format_of_the_first_that_is_not_zero() {
    let mut sum = Quantity::zero();
    sum.add(&parse("512Mi"));
    sum.add(&parse("0.5Gi"));
    assert_eq!(sum.to_string(), "1Gi");
    sum.sub(&parse("1"));
    assert_eq!(sum.to_string(), "1073741823");
    let mut cpu = parse("250m");
    cpu.add(&parse("1.75"));
    assert_eq!(cpu.to_string(), "2");
    cpu.mul(3);
    assert_eq!(cpu.to_string(), "6");
}

#[test]
fn compares_across_formats_and_sizes() {
    assert_eq!(parse("1Ki"), parse("1024"));
    assert_eq!(parse("1e3"), parse("1k"));
    assert!(parse("1E") > parse("1n") && parse("-1E") < parse("-1n"));
    assert!(parse("1e100") > parse("123456789012345678901234567n"));
    assert!(parse("1e100") == parse("10e99"));
}

fn any_text() -> impl Strategy<Value = String> {
    let suffix = prop::sample::select(vec![
        "", "n", "u", "m", "k", "M", "G", "T", "P", "Ki", "Mi", "Gi", "Ti", "e3", "e-2", "E6",
    ]);
    (prop::bool::ANY, 0u64..1_000_000_000, prop::option::of(0u32..1_000_000), suffix).prop_map(
        |(negative, whole, fraction, suffix)| {
            let fraction = fraction.map_or(String::new(), |fraction| format!(".{fraction:06}"));
            format!("{}{whole}{fraction}{suffix}", if negative { "-" } else { "" })
        },
    )
}

proptest! {
    #[test]
    fn canonical_text_is_a_fixed_point(text in any_text()) {
        let quantity = parse(&text);
        let again = parse(&quantity.to_string());
        prop_assert_eq!(again, quantity);
        prop_assert_eq!(again.to_string(), quantity.to_string());
    }

    #[test]
    fn sum_minus_part_is_the_other(left in any_text(), right in any_text()) {
        let (left, right) = (parse(&left), parse(&right));
        let mut sum = left;
        sum.add(&right);
        sum.sub(&right);
        prop_assert_eq!(sum, left);
    }

    #[test]
    fn order_agrees_with_the_sign_of_the_difference(left in any_text(), right in any_text()) {
        let (left, right) = (parse(&left), parse(&right));
        let mut difference = left;
        difference.sub(&right);
        prop_assert_eq!(left.cmp(&right) as i32, difference.sign());
    }

    #[test]
    fn any_bytes_are_parsed_or_refused(text in "\\PC*") {
        if let Ok(quantity) = text.parse::<Quantity>() {
            prop_assert_eq!(parse(&quantity.to_string()), quantity);
        }
    }
}
