//! What the engine's log says of a topic, as far as the tools for logs need it: its name, and its epoch.
//!
//! The engine writes these records as JSON; a test here opens what it wrote and what was changed. Other fields are
//! passed on as they are.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use serde_json::Value;
use twinlane::TopicName;

/// A topic's record in the log.
pub(crate) struct TopicRecord {
    pub(crate) name: TopicName,
    pub(crate) epoch: u64,
    all: Value,
}

/// The record is of a version that this program does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "what the log says of topic {topic} cannot be read ({why}); use the program that wrote it, or a newer one"
)]
pub(crate) struct UnknownRecord {
    topic: u32,
    why: String,
}

impl TopicRecord {
    /// Reads the record of topic number `topic`.
    pub(crate) fn read(topic: u32, value: &[u8]) -> Result<Self, UnknownRecord> {
        let unknown = |why: String| UnknownRecord { topic, why };
        let all: Value = serde_json::from_slice(value).map_err(|error| unknown(error.to_string()))?;
        let name = all["name"].as_str().ok_or_else(|| unknown("it has no name".to_owned()))?;
        let name = TopicName::parse(name).map_err(|error| unknown(error.to_string()))?;
        let epoch = all["epoch"].as_u64().ok_or_else(|| unknown("it has no epoch".to_owned()))?;
        Ok(Self { name, epoch, all })
    }

    /// The same topic in another epoch: its offsets name other messages from now on.
    pub(crate) fn in_new_epoch(mut self) -> Vec<u8> {
        // Keyed afresh from the system's random numbers.
        let epoch = RandomState::new().build_hasher().finish();
        self.all["epoch"] = Value::from(epoch);
        serde_json::to_vec(&self.all).expect("what was read as JSON can be written as JSON")
    }
}

#[cfg(test)]
mod tests {
    use twinlane::{Engine, EngineConfig, TopicSpec};
    use twinlane_log::tool::{self, Access};

    use super::*;

    #[tokio::test]
    async fn an_engine_takes_up_the_new_epoch_of_a_topic_that_it_declared_itself() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let engine = || {
            let mut config = EngineConfig::default();
            config.data_dir = Some(log.clone());
            Engine::new(config).unwrap()
        };
        let declared = engine().declare("a/b", TopicSpec::durable().with_retain_messages(7)).unwrap();

        let topics = tool::check(&log, Access::Alone).unwrap().topics;
        let record = TopicRecord::read(topics[0].id, &topics[0].value).unwrap();
        assert_eq!((record.name.as_str(), record.epoch), ("a/b", declared.epoch));
        let renewed = TopicRecord::read(topics[0].id, &record.in_new_epoch()).unwrap();
        assert_ne!(renewed.epoch, declared.epoch);
        let (opened, _) = twinlane_log::Log::open(&log, twinlane_log::LogConfig::default()).unwrap();
        let value = serde_json::to_vec(&renewed.all).unwrap();
        opened.append(&[twinlane_log::Entry::Topic { id: topics[0].id, value: &value }], None).unwrap();
        opened.commit().unwrap();
        drop(opened);

        let status = engine().status();
        let topic = status.topics.iter().find(|topic| topic.name == "a/b").unwrap();
        assert_eq!((topic.epoch, topic.retain_messages), (renewed.epoch, 7));
    }

    #[test]
    fn a_record_of_another_kind_is_refused_before_anything_is_changed() {
        for value in [&b"\xFF"[..], b"{}", b"{\"name\":\"a\"}", b"{\"name\":\"a//b\",\"epoch\":1}"] {
            assert!(TopicRecord::read(3, value).is_err());
        }
    }
}
