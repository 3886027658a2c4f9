//! What the log keeps of a durable topic and of its publisher streams, beside their messages: small JSON texts, so
//! that `twinlane log dump` can be read.

use serde::{Deserialize, Serialize};
use twinlane_proto::{Channel, Last, Mode, Storage, TopicName, TopicSpec};

/// A topic as it was declared.
pub(crate) struct TopicRecord {
    pub(crate) name: TopicName,
    pub(crate) epoch: u64,
    pub(crate) spec: TopicSpec,
    pub(crate) declared_by: String,
    /// Publisher streams with a lower number may have existed.
    pub(crate) sources: u32,
}

/// A publisher stream as it was opened.
#[derive(Serialize, Deserialize)]
pub(crate) struct StreamRecord {
    pub(crate) client: String,
    pub(crate) source: u32,
    /// Seqs that an earlier session of the publisher used up.
    pub(crate) seq_base: u64,
}

/// The log holds something that this version did not write.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Name(#[from] twinlane_proto::topic::NameError),
}

#[derive(Serialize, Deserialize)]
struct Written {
    name: String,
    epoch: u64,
    payload_bytes_max: u32,
    retain_bytes: u64,
    retain_messages: u64,
    retain_age_ms: u64,
    last: String,
    declared_by: String,
    sources: u32,
}

impl TopicRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let spec = &self.spec;
        let last = match spec.last {
            Last::None => "none",
            Last::Topic => "topic",
            Last::Key => "key",
        };
        let written = Written {
            name: self.name.to_string(),
            epoch: self.epoch,
            payload_bytes_max: spec.payload_bytes_max,
            retain_bytes: spec.retain_bytes,
            retain_messages: spec.retain_messages,
            retain_age_ms: spec.retain_age_ms,
            last: last.to_owned(),
            declared_by: self.declared_by.clone(),
            sources: self.sources,
        };
        serde_json::to_vec(&written).expect("plain fields are always JSON")
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self, RecordError> {
        let written: Written = serde_json::from_slice(value)?;
        let last = match written.last.as_str() {
            "topic" => Last::Topic,
            "key" => Last::Key,
            _ => Last::None,
        };
        let spec = TopicSpec {
            channel: Channel::Reliable,
            mode: Mode::Ordered,
            storage: Storage::Disk,
            last,
            payload_bytes_max: written.payload_bytes_max,
            retain_bytes: written.retain_bytes,
            retain_messages: written.retain_messages,
            retain_age_ms: written.retain_age_ms,
            // Only fast topics have one, and those are not recorded.
            deadline_us: 0,
        };
        Ok(Self {
            name: TopicName::parse(&written.name)?,
            epoch: written.epoch,
            spec,
            declared_by: written.declared_by,
            sources: written.sources,
        })
    }
}

impl StreamRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain fields are always JSON")
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self, RecordError> {
        Ok(serde_json::from_slice(value)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_reads_back_as_it_was_declared() {
        let record = TopicRecord {
            name: TopicName::parse("orders/eu").unwrap(),
            epoch: u64::MAX - 1,
            spec: TopicSpec::durable().with_retain_bytes(1 << 40).with_last(Last::Key),
            declared_by: "a \"test\"".to_owned(),
            sources: 7,
        };
        let read = TopicRecord::decode(&record.encode()).unwrap();
        assert_eq!((read.name, read.epoch, read.spec), (record.name, record.epoch, record.spec));
        assert_eq!((read.declared_by, read.sources), (record.declared_by, record.sources));
        assert!(TopicRecord::decode(b"{}").is_err());
    }
}
