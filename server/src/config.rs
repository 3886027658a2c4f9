//! The configuration file, and what it and the flags come to together.
//!
//! Flags win over the file, the file wins over the defaults. Reading a file never starts anything, and the
//! effective settings can be written out as a file that means the same.

mod http;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use serde::{Deserialize, Serialize};
use twinlane::{
    Auth, Channel, EngineConfig, Identity, IoPolicy, Last, Limits, Mode, Storage, TopicName, TopicSpec,
};

use crate::args::ServeArgs;
use crate::config_values::{Age, Deadline, Size, Text, addresses, narrow, non_zero};
use crate::suggest::with_suggestion;
use crate::units;
use http::HttpSection;
pub(crate) use http::HttpSettings;

/// A configuration file larger than this is surely something else.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The folder in a data directory that durable topics are kept in.
pub(crate) const LOG_FOLDER: &str = "log";

/// A configuration file: every key may be left out, unknown keys are errors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConfigFile {
    pub(crate) server: ServerSection,
    pub(crate) limits: LimitsSection,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) http: Option<HttpSection>,
    #[serde(rename = "topic", skip_serializing_if = "Vec::is_empty")]
    pub(crate) topics: Vec<TopicSection>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServerSection {
    #[serde(deserialize_with = "addresses")]
    listen: Vec<SocketAddr>,
    name: Option<String>,
    tcp: Option<bool>,
    quic: Option<bool>,
    plain: Option<bool>,
    data_dir: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    token_file: Option<PathBuf>,
    declare_on_use: Option<bool>,
    #[serde(deserialize_with = "non_zero")]
    io_threads: Option<usize>,
    io_policy: Option<Text<IoPolicy>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LimitsSection {
    #[serde(deserialize_with = "non_zero")]
    connections_max: Option<usize>,
    #[serde(deserialize_with = "non_zero")]
    connections_per_ip_max: Option<usize>,
    #[serde(deserialize_with = "non_zero")]
    sessions_max: Option<usize>,
    #[serde(deserialize_with = "non_zero")]
    topics_max: Option<usize>,
    #[serde(deserialize_with = "non_zero")]
    publishers_per_session_max: Option<usize>,
    #[serde(deserialize_with = "non_zero")]
    subscriptions_per_session_max: Option<usize>,
    #[serde(deserialize_with = "narrow")]
    payload_bytes_max: Option<Size>,
    topic_retain_bytes: Option<Size>,
    durable_retain_bytes: Option<Size>,
    log_bytes_max: Option<Size>,
    #[serde(deserialize_with = "non_zero")]
    last_keys_max: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TopicSection {
    name: Text<TopicName>,
    channel: ChannelWord,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<ModeWord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline: Option<Deadline>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "narrow")]
    payload_bytes_max: Option<Size>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retain_bytes: Option<Size>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retain_messages: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retain_age: Option<Age>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    durable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<LastWord>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum LastWord {
    Topic,
    Key,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ChannelWord {
    Fast,
    Reliable,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ModeWord {
    Ordered,
    Latest,
    Unordered,
}

/// Why a configuration cannot be used. The text names the place and what to change.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// The file is read and makes no sense at one place.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Invalid { path: PathBuf, line: usize, column: usize, message: String },
    /// Settings contradict each other.
    #[error("{0}")]
    Contradiction(String),
}

impl ConfigFile {
    /// Reads a file. Relative paths in it are relative to its directory.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let file_bytes = fs::metadata(path).map_err(unreadable)?.len();
        if FILE_BYTES_MAX < file_bytes {
            return Err(unreadable(io::Error::other(format!("{file_bytes} bytes is no configuration"))));
        }
        let text = fs::read_to_string(path).map_err(unreadable)?;
        let mut file = Self::parse(&text, path)?;
        let dir = path.parent().unwrap_or(Path::new(""));
        let server = &mut file.server;
        for relative in
            [&mut server.data_dir, &mut server.certificate, &mut server.key, &mut server.token_file]
        {
            *relative = relative.take().map(|path| dir.join(path));
        }
        Ok(file)
    }

    /// Reads the text of a file; `path` is for the error only.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let invalid = |at: usize, message: String| {
            let before = text.get(..at).unwrap_or(text);
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            ConfigError::Invalid {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                column: before[line_start..].chars().count() + 1,
                message,
            }
        };
        let file: Self = toml::from_str(text).map_err(|error: toml::de::Error| {
            let at = error.span().map_or(0, |span| span.start);
            invalid(at, with_suggestion(error.message()))
        })?;
        for topic in &file.topics {
            if let Some(why) = topic.contradiction() {
                let (path, name) = (path.display(), &topic.name.0);
                return Err(ConfigError::Contradiction(format!("{path}: topic `{name}` {why}")));
            }
        }
        Ok(file)
    }
}

/// What the machine and the user's environment contribute.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) host_name: String,
    pub(crate) processors: usize,
    /// Where a server keeps its certificate, and nothing else, unless told; `None` when the user has no home.
    pub(crate) data_home: Option<PathBuf>,
}

/// Everything a server needs to know, with every default filled in.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) name: String,
    pub(crate) tcp: bool,
    pub(crate) quic: bool,
    pub(crate) plain: bool,
    pub(crate) identity: Identity,
    /// The data directory, if one was named. A user's default directory is none: two servers would share its log.
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) declare_on_use: bool,
    pub(crate) io_threads: usize,
    pub(crate) io_policy: IoPolicy,
    pub(crate) limits: Limits,
    pub(crate) topics: Vec<(String, TopicSpec)>,
    pub(crate) allow_insecure_bind: bool,
    /// `None`: browsers are not served.
    pub(crate) http: Option<HttpSettings>,
}

impl Settings {
    /// Puts flags, file and defaults together.
    pub(crate) fn resolve(
        file: &ConfigFile,
        flags: &ServeArgs,
        surroundings: &Surroundings,
    ) -> Result<Self, ConfigError> {
        let server = &file.server;
        let listen = [&flags.listen, &server.listen].into_iter().find(|addrs| !addrs.is_empty());
        let default_listen = || vec![SocketAddr::new([127, 0, 0, 1].into(), units::DEFAULT_PORT)];
        let listen = listen.cloned().unwrap_or_else(default_listen);
        let plain = flags.plain || server.plain.unwrap_or(false);
        let tcp = !flags.quic_only && (flags.tcp_only || server.tcp.unwrap_or(true));
        // QUIC has no plain form, so asking for plain TCP switches it off unless it was asked for by name.
        let quic = !flags.tcp_only && (flags.quic_only || server.quic.unwrap_or(!plain));
        if !tcp && !quic {
            let text = "neither TCP nor QUIC is left to listen on: set `tcp` or `quic` to true";
            return Err(ConfigError::Contradiction(text.to_owned()));
        }
        if plain && !tcp {
            let text = "plain is about TCP, and TCP is switched off: QUIC is always encrypted";
            return Err(ConfigError::Contradiction(text.to_owned()));
        }
        let all_loopback = listen.iter().all(|addr| addr.ip().is_loopback());
        let data_dir = flags.data_dir.clone().or_else(|| server.data_dir.clone());
        let topics = topics(&file.topics, &flags.topics);
        check_storage(&topics, data_dir.as_deref())?;
        let token_file = flags.token_file.clone().or_else(|| server.token_file.clone());
        let allow_insecure_bind = flags.allow_insecure_bind;
        let http = HttpSettings::resolve(
            file.http.as_ref(),
            &flags.http,
            token_file.is_none(),
            allow_insecure_bind,
        )?;
        let io_policy = flags.io_policy.or(server.io_policy.map(|text| text.0)).unwrap_or_default();
        Ok(Self {
            name: flags
                .name
                .clone()
                .or_else(|| server.name.clone())
                .unwrap_or_else(|| surroundings.host_name.clone()),
            identity: identity(server, data_dir.as_ref(), surroundings)?,
            data_dir,
            token_file,
            declare_on_use: server.declare_on_use.unwrap_or(all_loopback),
            io_threads: flags
                .io_threads
                .map(usize::from)
                .or(server.io_threads)
                // Between two connections on different threads every message costs one wake more.
                .unwrap_or((surroundings.processors / 2).max(1)),
            io_policy,
            limits: limits(&file.limits),
            topics,
            allow_insecure_bind,
            http,
            listen,
            tcp,
            quic,
            plain,
        })
    }

    /// The engine's part of the settings.
    pub(crate) fn engine_config(&self, auth: Auth) -> EngineConfig {
        let mut config = EngineConfig::default();
        config.name.clone_from(&self.name);
        config.topics.clone_from(&self.topics);
        config.declare_on_use = self.declare_on_use;
        config.auth = auth;
        config.io_threads = self.io_threads;
        config.io_policy = self.io_policy;
        config.limits = self.limits.clone();
        config.data_dir = self.log_dir();
        config
    }

    /// The engine's part of the settings, for an engine that only checks them: it touches no disk.
    pub(crate) fn checking_config(&self, auth: Auth) -> EngineConfig {
        let mut config = self.engine_config(auth);
        config.data_dir = None;
        for (_, spec) in config.topics.iter_mut().filter(|(_, spec)| spec.storage == Storage::Disk) {
            // What a disk keeps does not fit the limits of memory.
            let in_memory =
                TopicSpec { storage: Storage::Memory, retain_bytes: 0, retain_messages: 0, ..*spec };
            *spec = in_memory;
        }
        config
    }

    /// Where durable topics are kept; `None`: there cannot be any.
    pub(crate) fn log_dir(&self) -> Option<PathBuf> {
        self.data_dir.as_ref().map(|dir| dir.join(LOG_FOLDER))
    }

    /// The settings as a file that means the same.
    pub(crate) fn to_file(&self) -> ConfigFile {
        let (certificate, key) = match &self.identity {
            Identity::Pem { cert, key } => (Some(cert.clone()), Some(key.clone())),
            _ => (None, None),
        };
        let limits = &self.limits;
        ConfigFile {
            server: ServerSection {
                listen: self.listen.clone(),
                name: Some(self.name.clone()),
                tcp: Some(self.tcp),
                quic: Some(self.quic),
                plain: Some(self.plain),
                data_dir: self.data_dir.clone(),
                certificate,
                key,
                token_file: self.token_file.clone(),
                declare_on_use: Some(self.declare_on_use),
                io_threads: Some(self.io_threads),
                io_policy: Some(Text(self.io_policy)),
            },
            limits: LimitsSection {
                connections_max: Some(limits.connections_max),
                connections_per_ip_max: Some(limits.connections_per_ip_max),
                sessions_max: Some(limits.sessions_max),
                topics_max: Some(limits.topics_max),
                publishers_per_session_max: Some(limits.publishers_per_session_max),
                subscriptions_per_session_max: Some(limits.subscriptions_per_session_max),
                payload_bytes_max: Some(Size(limits.reliable_payload_bytes_max.into())),
                topic_retain_bytes: Some(Size(limits.topic_retain_bytes)),
                durable_retain_bytes: Some(Size(limits.durable_retain_bytes)),
                log_bytes_max: Some(Size(limits.log_bytes_max)),
                last_keys_max: Some(limits.last_keys_max),
            },
            http: self.http.as_ref().map(HttpSettings::to_section),
            topics: self.topics.iter().map(|(name, spec)| TopicSection::of(name, spec)).collect(),
        }
    }
}

fn identity(
    server: &ServerSection,
    data_dir: Option<&PathBuf>,
    surroundings: &Surroundings,
) -> Result<Identity, ConfigError> {
    let contradiction = |text: &str| Err(ConfigError::Contradiction(text.to_owned()));
    match (&server.certificate, &server.key) {
        (Some(cert), Some(key)) => return Ok(Identity::Pem { cert: cert.clone(), key: key.clone() }),
        (Some(_), None) => {
            return contradiction("`certificate` is set and `key` is not: name both files or neither");
        }
        (None, Some(_)) => {
            return contradiction("`key` is set and `certificate` is not: name both files or neither");
        }
        (None, None) => {}
    }
    match data_dir.or(surroundings.data_home.as_ref()) {
        Some(dir) => Ok(Identity::SelfSigned { dir: dir.clone() }),
        None => contradiction(
            "there is no home directory to keep the certificate in: set `data_dir` or --data-dir",
        ),
    }
}

/// Topics on disk need a directory.
fn check_storage(topics: &[(String, TopicSpec)], data_dir: Option<&Path>) -> Result<(), ConfigError> {
    let durable = topics.iter().find(|(_, spec)| spec.storage == Storage::Disk);
    match (durable, data_dir) {
        (Some((name, _)), None) => Err(ConfigError::Contradiction(format!(
            "topic `{name}` is durable, and there is no directory to keep it in: set `data_dir` or --data-dir"
        ))),
        _ => Ok(()),
    }
}

fn limits(section: &LimitsSection) -> Limits {
    let mut limits = Limits::default();
    for (field, asked) in [
        (&mut limits.connections_max, section.connections_max),
        (&mut limits.connections_per_ip_max, section.connections_per_ip_max),
        (&mut limits.sessions_max, section.sessions_max),
        (&mut limits.topics_max, section.topics_max),
        (&mut limits.publishers_per_session_max, section.publishers_per_session_max),
        (&mut limits.subscriptions_per_session_max, section.subscriptions_per_session_max),
        (&mut limits.last_keys_max, section.last_keys_max),
    ] {
        *field = asked.unwrap_or(*field);
    }
    if let Some(Size(bytes)) = section.payload_bytes_max {
        limits.reliable_payload_bytes_max = narrowed(bytes);
    }
    for (field, asked) in [
        (&mut limits.topic_retain_bytes, section.topic_retain_bytes),
        (&mut limits.durable_retain_bytes, section.durable_retain_bytes),
        (&mut limits.log_bytes_max, section.log_bytes_max),
    ] {
        *field = asked.map_or(*field, |size| size.0);
    }
    limits
}

/// The file's topics and then the flags'; a flag replaces a topic of the same name.
fn topics(sections: &[TopicSection], flags: &[(String, TopicSpec)]) -> Vec<(String, TopicSpec)> {
    let mut topics: Vec<(String, TopicSpec)> =
        sections.iter().map(|section| (section.name.0.to_string(), section.spec())).collect();
    for (name, spec) in flags {
        topics.retain(|(other, _)| other != name);
        topics.push((name.clone(), *spec));
    }
    topics
}

fn narrowed(bytes: u64) -> u32 {
    bytes.try_into().expect("a payload limit was checked to fit when the file was read")
}

impl TopicSection {
    /// What makes no sense together, if anything.
    fn contradiction(&self) -> Option<&'static str> {
        let is_ordered = matches!(self.mode, None | Some(ModeWord::Ordered));
        match self.channel {
            ChannelWord::Reliable if !is_ordered => {
                Some("is reliable, so it is always ordered: remove `mode`, or make it fast")
            }
            ChannelWord::Reliable if self.deadline.is_some() => Some(
                "is reliable, so it delivers every message, however late: make it fast, or set `retain_age` instead of \
                 `deadline`",
            ),
            ChannelWord::Fast if self.durable => {
                Some("is fast, so it is kept in memory: remove `durable`, or make it reliable")
            }
            ChannelWord::Fast if self.last.is_some() => {
                Some("is fast, so it keeps no last values: remove `last`, or make it reliable")
            }
            _ => None,
        }
    }

    fn spec(&self) -> TopicSpec {
        let mut spec = match self.channel {
            ChannelWord::Fast => TopicSpec::fast(),
            ChannelWord::Reliable if self.durable => TopicSpec::durable(),
            ChannelWord::Reliable => TopicSpec::reliable(),
        };
        spec.last = match self.last {
            None => Last::None,
            Some(LastWord::Topic) => Last::Topic,
            Some(LastWord::Key) => Last::Key,
        };
        spec.mode = match self.mode {
            None | Some(ModeWord::Ordered) => Mode::Ordered,
            Some(ModeWord::Latest) => Mode::Latest,
            Some(ModeWord::Unordered) => Mode::Unordered,
        };
        if let Some(Deadline(deadline)) = self.deadline {
            spec = spec.with_deadline(deadline);
        }
        spec.payload_bytes_max = self.payload_bytes_max.map_or(0, |size| narrowed(size.0));
        spec.retain_bytes = self.retain_bytes.map_or(0, |size| size.0);
        spec.retain_messages = self.retain_messages.unwrap_or(0);
        self.retain_age.map_or(spec, |age| spec.with_retain_age(age.0))
    }

    fn of(name: &str, spec: &TopicSpec) -> Self {
        let unless_zero = |number: u64| (number != 0).then_some(number);
        Self {
            name: Text(TopicName::parse(name).expect("a topic's name was checked when it was read")),
            channel: match spec.channel {
                Channel::Fast => ChannelWord::Fast,
                Channel::Reliable => ChannelWord::Reliable,
            },
            mode: (spec.channel == Channel::Fast).then_some(match spec.mode {
                Mode::Ordered => ModeWord::Ordered,
                Mode::Latest => ModeWord::Latest,
                Mode::Unordered => ModeWord::Unordered,
            }),
            deadline: unless_zero(spec.deadline_us.into()).map(|us| Deadline(Duration::from_micros(us))),
            payload_bytes_max: unless_zero(spec.payload_bytes_max.into()).map(Size),
            retain_bytes: unless_zero(spec.retain_bytes).map(Size),
            retain_messages: unless_zero(spec.retain_messages),
            retain_age: unless_zero(spec.retain_age_ms).map(|ms| Age(Duration::from_millis(ms))),
            durable: spec.storage == Storage::Disk,
            last: match spec.last {
                Last::None => None,
                Last::Topic => Some(LastWord::Topic),
                Last::Key => Some(LastWord::Key),
            },
        }
    }
}

#[cfg(test)]
mod tests;
