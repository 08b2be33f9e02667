//! Node ports: one bitmap in the store, changed by compare-and-swap.

use std::{ops::RangeInclusive, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use parking_lot::Mutex;
use rand::RngExt as _;
use serde_json::{Value, json};

use super::{Record, RecordError, Records};
use crate::resources::value::{set, str_at};

const NAME: &str = "servicenodeports";
/// Lost races before an allocation gives up.
const MAX_RACES: usize = 64;

#[derive(Debug, thiserror::Error)]
pub(super) enum PortError {
    #[error("range is full")]
    Full,
    #[error("provided port is already allocated")]
    Allocated,
    #[error("provided port is not in the valid range. The range of valid ports is {0}")]
    NotInRange(String),
    #[error("{0}")]
    Store(String),
}

pub(super) struct PortAllocator {
    records: Arc<dyn Records>,
    first: u16,
    size: usize,
    /// Taken ports that no Service had at the last repair.
    suspects: Mutex<Vec<usize>>,
}

/// Bit i says whether port `first + i` is taken. Stored as upstream does: a big-endian number without leading zeros.
#[derive(Clone, Debug, Default, PartialEq)]
struct Bitmap(Vec<u8>);

impl Bitmap {
    fn from_big_endian(bytes: &[u8], size: usize) -> Bitmap {
        let mut bits: Vec<u8> = bytes.iter().rev().copied().collect();
        bits.resize(size.div_ceil(8), 0);
        Bitmap(bits)
    }

    fn to_big_endian(&self) -> Vec<u8> {
        self.0.iter().rev().copied().skip_while(|b| *b == 0).collect()
    }

    fn has(&self, bit: usize) -> bool {
        self.0.get(bit / 8).is_some_and(|byte| byte >> (bit % 8) & 1 == 1)
    }

    fn put(&mut self, bit: usize, on: bool) {
        if let Some(byte) = self.0.get_mut(bit / 8) {
            *byte = if on { *byte | 1 << (bit % 8) } else { *byte & !(1 << (bit % 8)) };
        }
    }
}

impl PortAllocator {
    pub(super) fn new(records: Arc<dyn Records>, range: RangeInclusive<u16>) -> PortAllocator {
        let size = usize::from(range.end().saturating_sub(*range.start())) + 1;
        PortAllocator { records, first: *range.start(), size, suspects: Mutex::default() }
    }

    /// Marks the ports that Services have. A port that nobody has in two repairs in a row is a leak of a crash and freed;
    /// one may just be waiting for its Service to be written.
    pub(super) async fn repair(&self, used: &[u16]) -> Result<(), RecordError> {
        let taken: Vec<usize> = used.iter().filter_map(|port| self.bit(*port)).collect();
        let before = std::mem::take(&mut *self.suspects.lock());
        let mut suspects = Vec::new();
        let result = self.change(|bitmap| {
            taken.iter().for_each(|bit| bitmap.put(*bit, true));
            suspects = (0..self.size).filter(|bit| bitmap.has(*bit) && !taken.contains(bit)).collect();
            suspects.iter().filter(|bit| before.contains(bit)).for_each(|bit| bitmap.put(*bit, false));
            Ok(())
        });
        result.await.map_err(|error| RecordError::Other(error.to_string()))?;
        suspects.retain(|bit| !before.contains(bit));
        *self.suspects.lock() = suspects;
        Ok(())
    }

    fn range_text(&self) -> String {
        format!("{}-{}", self.first, usize::from(self.first) + self.size - 1)
    }

    fn bit(&self, port: u16) -> Option<usize> {
        port.checked_sub(self.first).map(usize::from).filter(|bit| *bit < self.size)
    }

    pub(super) async fn allocate(&self, port: i64) -> Result<(), PortError> {
        let bit = u16::try_from(port).ok().and_then(|port| self.bit(port));
        let bit = bit.ok_or_else(|| PortError::NotInRange(self.range_text()))?;
        self.change(|bitmap| {
            if bitmap.has(bit) {
                return Err(PortError::Allocated);
            }
            bitmap.put(bit, true);
            Ok(())
        })
        .await
    }

    /// Whether a chosen port could be taken; `exclude` are ports that this request has taken already.
    pub(super) async fn check(&self, port: i64, exclude: &[i64]) -> Result<(), PortError> {
        let bit = u16::try_from(port).ok().and_then(|port| self.bit(port));
        let bit = bit.ok_or_else(|| PortError::NotInRange(self.range_text()))?;
        let (_, bitmap) = self.load().await?;
        if bitmap.has(bit) || exclude.contains(&port) { Err(PortError::Allocated) } else { Ok(()) }
    }

    /// A free port that stays free: for dry runs.
    pub(super) async fn peek(&self, exclude: &[i64]) -> Result<i64, PortError> {
        let (_, mut bitmap) = self.load().await?;
        for port in exclude {
            if let Some(bit) = u16::try_from(*port).ok().and_then(|port| self.bit(port)) {
                bitmap.put(bit, true);
            }
        }
        self.free(&bitmap).map(|bit| self.port(bit)).ok_or(PortError::Full)
    }

    pub(super) async fn allocate_next(&self) -> Result<i64, PortError> {
        let mut chosen = 0;
        self.change(|bitmap| {
            chosen = self.free(bitmap).ok_or(PortError::Full)?;
            bitmap.put(chosen, true);
            Ok(())
        })
        .await?;
        Ok(self.port(chosen))
    }

    pub(super) async fn release(&self, ports: &[i64]) -> Result<(), PortError> {
        let bits: Vec<usize> =
            ports.iter().filter_map(|port| u16::try_from(*port).ok().and_then(|port| self.bit(port))).collect();
        if bits.is_empty() {
            return Ok(());
        }
        self.change(|bitmap| {
            bits.iter().for_each(|bit| bitmap.put(*bit, false));
            Ok(())
        })
        .await
    }

    fn port(&self, bit: usize) -> i64 {
        i64::from(self.first) + i64::try_from(bit).unwrap_or_default()
    }

    /// Ports at the start of the range are for Services that choose theirs: 1/32, between 16 and 128.
    fn free(&self, bitmap: &Bitmap) -> Option<usize> {
        let reserved = if self.size <= 16 { 0 } else { (self.size / 32).clamp(16, 128) };
        let pick = |low: usize, high: usize| {
            let size = high.checked_sub(low).filter(|size| *size > 0)?;
            let start = rand::rng().random_range(0..size);
            (0..size).map(|i| low + (start + i) % size).find(|bit| !bitmap.has(*bit))
        };
        pick(reserved, self.size).or_else(|| pick(0, reserved))
    }

    async fn load(&self) -> Result<(Option<Value>, Bitmap), PortError> {
        let record = self.records.get(Record::Range, NAME).await.map_err(|e| PortError::Store(e.to_string()))?;
        let bytes = record.as_ref().map(|r| BASE64_STANDARD.decode(str_at(r, "data")).unwrap_or_default());
        Ok((record, Bitmap::from_big_endian(&bytes.unwrap_or_default(), self.size)))
    }

    async fn change(
        &self,
        mut decide: impl FnMut(&mut Bitmap) -> Result<(), PortError> + Send,
    ) -> Result<(), PortError> {
        for _ in 0..MAX_RACES {
            let (record, before) = self.load().await?;
            let mut bitmap = before.clone();
            decide(&mut bitmap)?;
            let data = BASE64_STANDARD.encode(bitmap.to_big_endian());
            let result = match record {
                Some(_) if bitmap == before => return Ok(()),
                Some(mut record) => {
                    set(&mut record, "range", self.range_text());
                    set(&mut record, "data", data);
                    self.records.update(Record::Range, NAME, record).await
                }
                None => {
                    let record = json!({
                        "kind": "RangeAllocation",
                        "apiVersion": "v1",
                        "metadata": {},
                        "range": self.range_text(),
                        "data": data,
                    });
                    self.records.create(Record::Range, NAME, record).await
                }
            };
            match result {
                Ok(()) => return Ok(()),
                Err(RecordError::Exists | RecordError::Conflict) => {}
                Err(RecordError::Other(text)) => return Err(PortError::Store(text)),
            }
        }
        Err(PortError::Store("too many concurrent changes of the node port range".to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmap_is_upstreams_big_integer() {
        let mut bitmap = Bitmap::from_big_endian(&[], 20);
        bitmap.put(0, true);
        bitmap.put(9, true);
        assert_eq!(bitmap.to_big_endian(), [0b10, 0b1]);
        assert_eq!(Bitmap::from_big_endian(&[0b10, 0b1], 20), bitmap);
        bitmap.put(9, false);
        assert!(bitmap.has(0) && !bitmap.has(9));
    }
}
