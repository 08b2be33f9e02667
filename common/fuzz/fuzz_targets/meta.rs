//! Small texts: quantities, durations, selectors. What parses prints as something that parses to the same.
#![no_main]

use common::{
    config::duration::{format_go_duration, parse_go_duration},
    meta::{
        names,
        quantity::Quantity,
        selector::{FieldSelector, LabelSelector},
    },
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(quantity) = text.parse::<Quantity>() {
        let printed = quantity.to_string();
        let again = printed.parse::<Quantity>().expect("own text does not parse");
        assert_eq!(again.to_string(), printed);
    }
    if let Ok(duration) = parse_go_duration(text) {
        let printed = format_go_duration(duration);
        assert_eq!(parse_go_duration(&printed), Ok(duration), "{printed}");
    }
    if let Ok(selector) = LabelSelector::parse(text) {
        let printed = selector.to_string();
        assert_eq!(LabelSelector::parse(&printed).map(|again| again.to_string()), Ok(printed));
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        // Terms are in the order of what was written.
        let terms = |selector: FieldSelector| {
            let mut all: Vec<_> = selector.terms.into_iter().map(|term| (term.path, term.equal, term.value)).collect();
            all.sort();
            all
        };
        assert_eq!(FieldSelector::parse(&selector.to_string()).map(terms), Ok(terms(selector)));
    }
    let _ = (names::label_key(text), names::label_value(text), names::dns1123_subdomain(text));
});
