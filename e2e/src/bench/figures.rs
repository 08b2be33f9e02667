//! Figures with a unit, and the table of several servers' figures.

use std::{fmt::Write, time::Duration};

/// One server's figures in the order they were taken.
#[derive(Debug, Default)]
pub struct Figures(Vec<(String, &'static str, f64)>);

impl Figures {
    /// Adds one and shows it, so that a long run can be followed.
    pub fn push(&mut self, name: impl Into<String>, unit: &'static str, value: f64) {
        let name = name.into();
        eprintln!("{name}: {} {unit}", short(value));
        self.0.push((name, unit, value));
    }

    fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(known, ..)| known == name).map(|(.., value)| *value)
    }
}

/// Durations of requests.
#[derive(Debug, Default)]
pub struct Spread(Vec<Duration>);

impl Spread {
    /// Of these.
    pub fn of(mut spent: Vec<Duration>) -> Self {
        spent.sort_unstable();
        Self(spent)
    }

    /// The quantile in milliseconds.
    pub fn quantile(&self, share: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0.get((last as f64 * share).ceil() as usize).map_or(f64::NAN, |spent| spent.as_secs_f64() * 1e3)
    }
}

/// Markdown: the figures of every server, and how the first compares with the second.
pub fn table(columns: &[(&str, Figures)]) -> String {
    let mut out = "| figure | unit |".to_owned();
    for (name, _) in columns {
        let _ = write!(out, " {name} |");
    }
    let compared = columns.get(1).filter(|(name, _)| *name == "upstream");
    out += if compared.is_some() { " ratio |\n" } else { "\n" };
    out += &"|-".repeat(columns.len() + 2 + usize::from(compared.is_some()));
    out += "|\n";
    let Some((_, first)) = columns.first() else { return out };
    for (name, unit, value) in &first.0 {
        let _ = write!(out, "| {name} | {unit} |");
        for (_, figures) in columns {
            let _ = write!(out, " {} |", figures.get(name).map_or("-".to_owned(), short));
        }
        if let Some((_, other)) = compared {
            // Of what is better when it is more, ours is divided by theirs.
            let ratio = other.get(name).map(|other| if unit.ends_with("/s") { value / other } else { other / value });
            let ratio = ratio.filter(|ratio| ratio.is_finite());
            let _ = write!(out, " {} |", ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.1}")));
        }
        out.push('\n');
    }
    out
}

fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 1.0 => format!("{value:.3}"),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_ratios() {
        let spread = Spread::of((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!((spread.quantile(0.5), spread.quantile(0.99), spread.quantile(1.0)), (51.0, 100.0, 100.0));
        assert!(Spread::default().quantile(0.5).is_nan());
        let figures = |ms, rate| Figures(vec![("a".into(), "ms", ms), ("b".into(), "requests/s", rate)]);
        let text = table(&[("ours", figures(2.0, 100.0)), ("upstream", figures(10.0, 50.0))]);
        assert_eq!(
            text,
            "| figure | unit | ours | upstream | ratio |\n|-|-|-|-|-|\n| a | ms | 2.00 | 10.0 | 5.0 |\n\
             | b | requests/s | 100 | 50.0 | 2.0 |\n"
        );
        assert!(table(&[("ours", figures(2.0, 0.0))]).ends_with("| b | requests/s | 0 |\n"));
    }
}
