//! TEMPORARY until common::meta::quantity lands.
pub struct Quantity(i128);
impl Quantity {
    pub fn parse(text: &str) -> Result<Self, ()> {
        let split =
            text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-' || c == '+')).unwrap_or(text.len());
        let (number, suffix) = text.split_at(split);
        let number: f64 = number.parse().map_err(|_| ())?;
        let factor = match suffix {
            "" => 1e3,
            "m" => 1.0,
            "k" => 1e6,
            "M" => 1e9,
            "G" => 1e12,
            "T" => 1e15,
            "Ki" => 1024e3,
            "Mi" => 1048576e3,
            "Gi" => 1073741824e3,
            "Ti" => 1099511627776e3,
            _ => return Err(()),
        };
        Ok(Self((number * factor) as i128))
    }
    pub fn milli_value(&self) -> i64 {
        self.0 as i64
    }
    pub fn value(&self) -> i64 {
        ((self.0 + 999) / 1000) as i64
    }
}
