//! Prometheus' text format for metrics that exist only while they are asked for. Pure.

use std::fmt::Write;

/// Metrics as text.
#[derive(Default)]
pub(super) struct Exposition {
    text: String,
}

/// What kind of metric.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

impl Exposition {
    /// Begins a family; its samples follow.
    pub(super) fn family(&mut self, name: &str, help: &str, kind: Kind) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One sample; `at` in milliseconds since the epoch.
    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64, at: Option<i64>) {
        self.text.push_str(name);
        for (number, (label, value)) in labels.iter().enumerate() {
            self.text.push(if number == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{label}=\"");
            for letter in value.chars() {
                match letter {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    letter => self.text.push(letter),
                }
            }
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = write!(self.text, " {value}");
        if let Some(at) = at {
            let _ = write!(self.text, " {at}");
        }
        self.text.push('\n');
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.text.into_bytes()
    }
}

/// Counters of the kernel as the float that the format wants.
#[allow(clippy::cast_precision_loss, reason = "the text format has floats only")]
pub(super) fn float(value: u64) -> f64 {
    value as f64
}

/// Nanoseconds in seconds.
pub(super) fn seconds(nanos: u64) -> f64 {
    float(nanos) / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format() {
        let mut text = Exposition::default();
        text.family("a_total", "As.", Kind::Counter);
        text.sample("a_total", &[("x", "1\"\\\n"), ("y", "")], 1.5, Some(7));
        text.sample("a_total", &[], 12_345_678_901.0, None);
        let want = "# HELP a_total As.\n# TYPE a_total counter\na_total{x=\"1\\\"\\\\\\n\",y=\"\"} 1.5 7\na_total 12345678901\n";
        assert_eq!(String::from_utf8(text.into_bytes()).unwrap(), want);
    }
}
