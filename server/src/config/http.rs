//! The section `[http]`: browsers, Socket.IO clients and the console on a port of their own. Off unless it is asked for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::ConfigError;
use crate::args::HttpArgs;
use crate::config_values::http_address;
use crate::units;

/// Where browsers connect when no address is named.
const DEFAULT_ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), units::DEFAULT_HTTP_PORT);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HttpSection {
    #[serde(deserialize_with = "http_address")]
    listen: Option<SocketAddr>,
    tls: Option<bool>,
    console: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    origins: Vec<String>,
}

/// What is served over HTTP.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HttpSettings {
    pub(crate) listen: SocketAddr,
    pub(crate) tls: bool,
    pub(crate) console: bool,
    /// Web pages that may connect; none: those of the same host.
    pub(crate) origins: Vec<String>,
}

impl HttpSettings {
    /// Puts flags, file and defaults together. `None`: nothing is served over HTTP.
    pub(super) fn resolve(
        section: Option<&HttpSection>,
        flags: &HttpArgs,
        is_open: bool,
        allow_insecure_bind: bool,
    ) -> Result<Option<Self>, ConfigError> {
        let absent = HttpSection::default();
        let is_asked_for = section.is_some() || flags.http.is_some() || flags.console;
        if !is_asked_for {
            return match flags.origins.is_empty() {
                true => Ok(None),
                false => contradiction("--origin is about browsers: give --http, too"),
            };
        }
        let section = section.unwrap_or(&absent);
        let listen = flags.http.or(section.listen).unwrap_or(DEFAULT_ADDR);
        let is_loopback = listen.ip().is_loopback();
        let tls = section.tls.unwrap_or(!is_loopback);
        if !is_loopback && is_open && !allow_insecure_bind {
            return contradiction(&format!(
                "whoever reaches {listen} could publish and subscribe: give --token-file, or a loopback address for \
                 --http, or --allow-insecure-bind"
            ));
        }
        if !is_loopback && !tls && !allow_insecure_bind {
            return contradiction(&format!(
                "tokens would cross the network in plain text to {listen}: set `tls` of [http] to true, or give \
                 --allow-insecure-bind where a proxy does TLS"
            ));
        }
        let origins = if flags.origins.is_empty() { section.origins.clone() } else { flags.origins.clone() };
        if let Some(wrong) = origins.iter().find(|origin| !is_origin(origin)) {
            return contradiction(&format!(
                "`{wrong}` is no origin: write it as browsers do, as in https://example.org, or * for all"
            ));
        }
        Ok(Some(Self { listen, tls, console: flags.console || section.console.unwrap_or(false), origins }))
    }

    pub(super) fn to_section(&self) -> HttpSection {
        HttpSection {
            listen: Some(self.listen),
            tls: Some(self.tls),
            console: Some(self.console),
            origins: self.origins.clone(),
        }
    }
}

fn contradiction<T>(text: &str) -> Result<T, ConfigError> {
    Err(ConfigError::Contradiction(text.to_owned()))
}

/// `scheme://host`, with a port perhaps, and nothing behind it; or `null` or `*`.
fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    matches!(text, "null" | "*")
        || host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '@', ' ']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(section: &str, flags: &HttpArgs, is_open: bool) -> Result<Option<HttpSettings>, String> {
        let section: HttpSection = toml::from_str(section).map_err(|error| error.to_string())?;
        HttpSettings::resolve(Some(&section), flags, is_open, false).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_served_unless_it_is_asked_for() {
        assert_eq!(HttpSettings::resolve(None, &HttpArgs::default(), true, false).unwrap(), None);
        let flags = HttpArgs { console: true, ..HttpArgs::default() };
        let settings = HttpSettings::resolve(None, &flags, true, false).unwrap().unwrap();
        assert_eq!((settings.listen, settings.console, settings.tls), (DEFAULT_ADDR, true, false));
        let settings = resolve("", &HttpArgs::default(), true).unwrap().unwrap();
        assert_eq!((settings.listen, settings.console), (DEFAULT_ADDR, false));
    }

    #[test]
    fn flags_win_over_the_section() {
        let section = "listen = \"localhost:1\"\norigins = [\"https://a.org\"]";
        let flags = HttpArgs {
            http: Some("127.0.0.1:2".parse().unwrap()),
            origins: vec!["https://b.org:8443".to_owned()],
            console: false,
        };
        let settings = resolve(section, &flags, true).unwrap().unwrap();
        assert_eq!((settings.listen.port(), &*settings.origins), (2, &["https://b.org:8443".to_owned()][..]));
        let settings = resolve(section, &HttpArgs::default(), true).unwrap().unwrap();
        assert_eq!((settings.listen.port(), &*settings.origins), (1, &["https://a.org".to_owned()][..]));
    }

    #[test]
    fn beyond_this_machine_it_wants_tokens_and_encryption() {
        let flags = HttpArgs::default();
        assert!(resolve("listen = \"0.0.0.0\"", &flags, true).unwrap_err().contains("--token-file"));
        assert!(resolve("listen = \"0.0.0.0\"", &flags, false).unwrap().unwrap().tls);
        let plain = resolve("listen = \"0.0.0.0\"\ntls = false", &flags, false).unwrap_err();
        assert!(plain.contains("plain text"), "{plain}");
        let section: HttpSection = toml::from_str("listen = \"0.0.0.0\"\ntls = false").unwrap();
        assert!(HttpSettings::resolve(Some(&section), &flags, true, true).unwrap().is_some());
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for wrong in ["example.org", "https://example.org/", "https://", "https://a@b", "ftp://a"] {
            let flags =
                HttpArgs { http: Some(DEFAULT_ADDR), console: false, origins: vec![wrong.to_owned()] };
            assert!(resolve("", &flags, true).unwrap_err().contains("is no origin"), "{wrong}");
        }
        let alone = HttpArgs { origins: vec!["https://a.org".to_owned()], ..HttpArgs::default() };
        assert!(HttpSettings::resolve(None, &alone, true, false).is_err(), "without --http it means nothing");
    }
}
