//! What a group is: settled by whoever joins first, agreed with by everybody after.

use std::time::Duration;

use twinlane_proto::control::GroupSettings;
use twinlane_proto::{Code, Start};

use super::group::Rules;
use crate::error::DeclareError;

/// How long a job may take, unless the group says otherwise.
const ACK_WAIT_MS: u32 = 30_000;
/// Hand-overs of one message, likewise: what fails five times fails for a reason.
const MAX_DELIVER: u32 = 5;
/// Messages under way in a group, likewise.
const MAX_IN_FLIGHT: u32 = 1_000;

/// The settings of a group, nothing left open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(super) rules: Rules,
    pub(super) start: Start,
    /// Name of the topic for dead letters.
    pub(super) dead_letter: String,
}

impl Settings {
    /// What a new group gets: what was asked for, and the defaults.
    pub(super) fn new(asked: &GroupSettings, topic: &str, group: &str) -> Self {
        let or = |asked: u32, default: u32| if asked == 0 { default } else { asked };
        let dead_letter = match asked.dead_letter.as_str() {
            "" => format!("dead/{topic}/{group}"),
            name => name.to_owned(),
        };
        let rules = Rules {
            ack_wait: Duration::from_millis(or(asked.ack_wait_ms, ACK_WAIT_MS).into()),
            max_deliver: or(asked.max_deliver, MAX_DELIVER),
            max_in_flight: or(asked.max_in_flight, MAX_IN_FLIGHT),
            max_in_flight_per_key: asked.max_in_flight_per_key,
        };
        Self { rules, start: asked.start.unwrap_or(Start::All), dead_letter }
    }

    /// Refuses what contradicts the group as it is.
    pub(super) fn agree(&self, asked: &GroupSettings, group: &str) -> Result<(), DeclareError> {
        let is = self.to_wire();
        let differ = |name: &str, is: u32, asked: u32| {
            (asked != 0 && asked != is).then(|| format!("{name} is {is}, not {asked}"))
        };
        let conflict = differ("ack_wait in ms", is.ack_wait_ms, asked.ack_wait_ms)
            .or_else(|| differ("max_deliver", is.max_deliver, asked.max_deliver))
            .or_else(|| differ("max_in_flight", is.max_in_flight, asked.max_in_flight))
            .or_else(|| {
                differ("max_in_flight_per_key", is.max_in_flight_per_key, asked.max_in_flight_per_key)
            })
            .or_else(|| {
                let start = asked.start.filter(|start| *start != self.start)?;
                Some(format!("it began at {:?}, not {start:?}", self.start))
            })
            .or_else(|| {
                let other = !asked.dead_letter.is_empty() && asked.dead_letter != is.dead_letter;
                other.then(|| {
                    format!("its dead letters go to {:?}, not {:?}", is.dead_letter, asked.dead_letter)
                })
            });
        match conflict {
            None => Ok(()),
            Some(conflict) => Err(refused(Code::TopicConflict, format!("queue group {group:?}: {conflict}"))),
        }
    }

    pub(super) fn to_wire(&self) -> GroupSettings {
        let Rules { ack_wait, max_deliver, max_in_flight, max_in_flight_per_key } = self.rules;
        GroupSettings {
            ack_wait_ms: u32::try_from(ack_wait.as_millis()).unwrap_or(u32::MAX),
            max_deliver,
            max_in_flight,
            max_in_flight_per_key,
            start: Some(self.start),
            dead_letter: self.dead_letter.clone(),
        }
    }
}

pub(super) fn refused(code: Code, message: String) -> DeclareError {
    DeclareError::Refused { code, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_opinion_agrees_with_everything_and_a_contradiction_names_both_sides() {
        let asked = GroupSettings { max_deliver: 2, ..GroupSettings::default() };
        let settings = Settings::new(&asked, "orders", "billing");
        assert_eq!(settings.dead_letter, "dead/orders/billing");
        assert_eq!(settings.agree(&GroupSettings::default(), "billing"), Ok(()));
        assert_eq!(settings.agree(&settings.to_wire(), "billing"), Ok(()));
        let other = GroupSettings { max_deliver: 3, ..GroupSettings::default() };
        let error = settings.agree(&other, "billing").unwrap_err().to_string();
        assert!(error.contains("max_deliver is 2, not 3"), "{error}");
        let other = GroupSettings { start: Some(Start::New), ..GroupSettings::default() };
        assert!(settings.agree(&other, "billing").is_err());
    }
}
