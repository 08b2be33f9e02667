//! A PriorityLevelConfiguration, as far as it matters here.

use serde::Deserialize;
use serde_json::Value;

/// What a priority level is configured to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    /// Name.
    pub name: String,
    /// The object's uid, empty while there is no object.
    pub uid: String,
    /// Its part of the server's seats, beside the parts of the others.
    pub shares: u32,
    /// The percentage of its seats that others may use while it does not.
    pub lendable: u32,
    /// How many more seats it may get, in percent of its own; as many as there are if absent.
    pub borrowable: Option<u32>,
    /// What happens to requests that find no seat.
    pub queuing: Queuing,
}

/// What happens to requests that find no seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queuing {
    /// There is always one.
    Exempt,
    /// They are refused.
    Refuse,
    /// They wait.
    Wait {
        /// How many queues there are.
        queues: u32,
        /// Among how many of them a flow's requests choose.
        hand: u32,
        /// How many requests wait in a queue at most.
        length: u32,
    },
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Spec {
    Exempt { exempt: Exempt },
    Limited { limited: Limited },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Exempt {
    nominal_concurrency_shares: Option<u32>,
    lendable_percent: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Limited {
    nominal_concurrency_shares: Option<u32>,
    lendable_percent: Option<u32>,
    borrowing_limit_percent: Option<u32>,
    limit_response: LimitResponse,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum LimitResponse {
    Reject,
    Queue { queuing: Queues },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Queues {
    queues: u32,
    hand_size: u32,
    queue_length_limit: u32,
}

/// Upstream's default.
const SHARES: u32 = 30;

impl Level {
    /// Reads an object; `None` when it is broken, which counts as if it did not exist.
    #[must_use]
    pub fn of(object: &Value) -> Option<Self> {
        let text = |member: &str| object["metadata"][member].as_str().unwrap_or_default().to_owned();
        let name = text("name");
        let (shares, lendable, borrowable, queuing) = match Spec::deserialize(object.get("spec")?).ok()? {
            Spec::Exempt { exempt } => {
                (exempt.nominal_concurrency_shares.unwrap_or(0), exempt.lendable_percent, None, Queuing::Exempt)
            }
            Spec::Limited { limited } => (
                limited.nominal_concurrency_shares.unwrap_or(SHARES),
                limited.lendable_percent,
                limited.borrowing_limit_percent,
                match limited.limit_response {
                    LimitResponse::Reject => Queuing::Refuse,
                    LimitResponse::Queue { queuing } => Queuing::Wait {
                        queues: queuing.queues.max(1),
                        hand: queuing.hand_size.max(1),
                        length: queuing.queue_length_limit,
                    },
                },
            ),
        };
        if (queuing == Queuing::Exempt) != (name == super::EXEMPT) {
            return None;
        }
        Some(Self { uid: text("uid"), name, shares, lendable: lendable.unwrap_or(0), borrowable, queuing })
    }

    /// Its seats by shares, of `seats` for `all` shares.
    #[must_use]
    pub fn budget(&self, seats: u32, all: u32) -> Budget {
        let nominal =
            if all == 0 { 0 } else { (f64::from(seats) * f64::from(self.shares) / f64::from(all)).ceil() as u32 };
        let percent = |part: u32| (f64::from(nominal) * f64::from(part) / 100.0).round() as u32;
        let lendable = percent(self.lendable).min(nominal);
        Budget {
            nominal,
            least: nominal - lendable,
            most: nominal.saturating_add(self.borrowable.map_or(seats, percent)),
            start: nominal - lendable / 2,
        }
    }

    /// The seats that one request may take at most: few enough for every hand to have some, and 15% of all.
    #[must_use]
    pub fn widest(&self, nominal: u32) -> Option<u64> {
        let Queuing::Wait { hand, .. } = self.queuing else { return None };
        Some(((f64::from(nominal) * 0.15).ceil() as u64).min(u64::from(nominal / hand)).max(1))
    }
}

/// How many seats a priority level has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budget {
    /// By its shares.
    pub nominal: u32,
    /// When it has lent what it may.
    pub least: u32,
    /// When it has borrowed what it may.
    pub most: u32,
    /// Before it is known what it needs.
    pub start: u32,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_are_read_and_broken_ones_ignored() {
        let of = |name: &str, spec: Value| Level::of(&json!({"metadata": {"name": name, "uid": "u"}, "spec": spec}));
        let queuing = json!({"queues": 64, "handSize": 6, "queueLengthLimit": 50});
        let limited = json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 40, "lendablePercent": 25,
            "limitResponse": {"type": "Queue", "queuing": queuing}}});
        let level = of("l", limited.clone()).unwrap();
        assert_eq!(level.queuing, Queuing::Wait { queues: 64, hand: 6, length: 50 });
        let budget = level.budget(600, 245);
        assert_eq!(budget, Budget { nominal: 98, least: 73, most: 698, start: 86 });
        assert_eq!(level.widest(98), Some(15));
        assert_eq!(level.widest(3), Some(1));
        assert!(of("exempt", limited).is_none());
        assert_eq!(of("exempt", json!({"type": "Exempt", "exempt": {}})).unwrap().queuing, Queuing::Exempt);
        assert!(of("l", json!({"type": "Exempt", "exempt": {}})).is_none());
        assert!(of("l", json!({"type": "Limited"})).is_none());
        let refuse =
            json!({"type": "Limited", "limited": {"borrowingLimitPercent": 50, "limitResponse": {"type": "Reject"}}});
        assert_eq!(of("l", refuse).unwrap().budget(100, 60), Budget { nominal: 50, least: 50, most: 75, start: 50 });
    }
}
