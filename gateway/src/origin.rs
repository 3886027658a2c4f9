//! Which web pages may talk to the gateway.
//!
//! Browsers say in `Origin` which page a request comes from; other programs say nothing and are let in, since they
//! could say anything. So this protects a user's browser, not the server: who may do what is decided when a client
//! joins a namespace.

/// The pages whose requests are answered.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Origins {
    /// Pages of the host that the request goes to. What a gateway on a loopback address takes as its own host is
    /// `localhost` and loopback addresses only: else any site could point a name of its own at 127.0.0.1.
    #[default]
    SameHost,
    /// These and no others, written as browsers do: `https://example.org`, `http://localhost:3000`; `null` is a page
    /// without origin. Cookies are taken from them.
    List(Vec<String>),
    /// Every page. Cookies are not taken.
    Any,
}

/// What is thought of a request's origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No page, or one of the same host.
    Own,
    /// A page of elsewhere that may read the answer.
    Foreign {
        /// Also where the browser sent cookies along.
        credentials: bool,
    },
    /// A page of elsewhere that may not.
    Refused,
}

impl Verdict {
    /// Whether the request is answered.
    pub(crate) fn allowed(self) -> bool {
        self != Self::Refused
    }
}

impl Origins {
    /// Judges a request with these `Origin` and `Host` headers, at a gateway on a loopback address or another.
    pub(crate) fn judge(&self, origin: Option<&str>, host: Option<&str>, on_loopback: bool) -> Verdict {
        let Some(origin) = origin else { return Verdict::Own };
        let own = host.is_some_and(|host| same_host(origin, host) && (!on_loopback || is_loopback(host)));
        match self {
            Self::SameHost if own => Verdict::Own,
            Self::SameHost => Verdict::Refused,
            Self::List(list) if list.iter().any(|listed| listed.eq_ignore_ascii_case(origin)) => {
                Verdict::Foreign { credentials: true }
            }
            Self::List(_) => Verdict::Refused,
            Self::Any if own => Verdict::Own,
            Self::Any => Verdict::Foreign { credentials: false },
        }
    }
}

/// `scheme://host[:port]` and `host[:port]`, whole and letter for letter; a missing port is the scheme's.
fn same_host(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let default_port = match scheme {
        "http" => "80",
        "https" => "443",
        _ => return false,
    };
    let (origin_name, origin_port) = split_port(authority);
    let (host_name, host_port) = split_port(host);
    !origin_name.is_empty()
        && origin_name.eq_ignore_ascii_case(host_name)
        && origin_port.unwrap_or(default_port) == host_port.unwrap_or(default_port)
}

fn is_loopback(host: &str) -> bool {
    let (name, _) = split_port(host);
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Name and port; the colons of `[::1]` are the name's.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(origin: &str) -> Verdict {
        let list = vec!["https://example.org".into(), "http://localhost:3000".into()];
        Origins::List(list).judge(Some(origin), Some("api.example.org"), false)
    }

    #[test]
    fn without_origin_it_is_no_page_and_allowed() {
        for origins in [Origins::SameHost, Origins::List(Vec::new()), Origins::Any] {
            assert_eq!(origins.judge(None, Some("example.org"), false), Verdict::Own);
            assert_eq!(origins.judge(None, None, true), Verdict::Own);
        }
    }

    #[test]
    fn a_page_of_the_same_host_and_port_is_allowed() {
        let own = [
            ("http://example.org", "example.org"),
            ("https://example.org", "example.org"),
            ("http://Example.org:8080", "example.ORG:8080"),
            ("https://example.org:443", "example.org"),
            ("http://example.org", "example.org:80"),
            ("http://[::1]:4780", "[::1]:4780"),
        ];
        for (origin, host) in own {
            assert_eq!(
                Origins::SameHost.judge(Some(origin), Some(host), false),
                Verdict::Own,
                "{origin} {host}"
            );
        }
    }

    #[test]
    fn foreign_pages_null_and_suffix_tricks_are_refused() {
        let foreign = [
            "null",
            "",
            "http://",
            "example.org",
            "http://example.org.evil.net",
            "http://evilexample.org",
            "http://example.org@evil.net",
            "http://evil.net/http://example.org",
            "http://sub.example.org",
            "http://example.org:81",
            "file://example.org",
            "http://example.org:80:80",
        ];
        for origin in foreign {
            let verdict = Origins::SameHost.judge(Some(origin), Some("example.org"), false);
            assert_eq!(verdict, Verdict::Refused, "{origin}");
        }
        assert_eq!(Origins::SameHost.judge(Some("http://example.org"), None, false), Verdict::Refused);
    }

    #[test]
    fn a_name_that_points_at_loopback_is_not_our_own_host() {
        let judge = |host: &str| Origins::SameHost.judge(Some(&format!("http://{host}")), Some(host), true);
        assert_eq!(judge("evil.net:4780"), Verdict::Refused);
        for own in ["localhost:4780", "127.0.0.1:4780", "127.1.2.3", "[::1]:4780", "LOCALHOST"] {
            assert_eq!(judge(own), Verdict::Own, "{own}");
        }
    }

    #[test]
    fn a_list_is_exact() {
        assert_eq!(listed("https://example.org"), Verdict::Foreign { credentials: true });
        assert_eq!(listed("http://localhost:3000"), Verdict::Foreign { credentials: true });
        for other in ["http://example.org", "https://example.org.evil.net", "https://api.example.org", "null"]
        {
            assert_eq!(listed(other), Verdict::Refused, "{other}");
        }
        let null = Origins::List(vec!["null".into()]);
        assert!(null.judge(Some("null"), Some("example.org"), false).allowed());
    }

    #[test]
    fn any_takes_everyone_but_not_their_cookies() {
        for origin in ["null", "https://evil.net"] {
            let verdict = Origins::Any.judge(Some(origin), Some("example.org"), false);
            assert_eq!(verdict, Verdict::Foreign { credentials: false });
        }
    }
}
