//! How many connections or sessions there may be, in all and from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Counts what is open.
#[derive(Debug)]
pub(crate) struct Admission {
    max: usize,
    per_ip_max: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_network: HashMap<IpAddr, usize>,
}

/// A place among what is open; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    /// `None`: not counted by address.
    network: Option<IpAddr>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// Too many in all.
    All,
    /// Too many from this address.
    Network,
}

impl Admission {
    pub(crate) fn new(max: usize, per_ip_max: usize) -> Arc<Self> {
        Arc::new(Self { max, per_ip_max, open: Mutex::default() })
    }

    /// Takes a place for a peer at `address`.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Permit, Full> {
        let network = network(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.all >= self.max {
            return Err(Full::All);
        }
        if let Some(network) = network {
            let here = open.by_network.entry(network).or_default();
            if *here >= self.per_ip_max {
                return Err(Full::Network);
            }
            *here += 1;
        }
        open.all += 1;
        Ok(Permit { admission: Arc::clone(self), network })
    }

    /// How many places are taken.
    pub(crate) fn open(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).all
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.admission.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all -= 1;
        let Some(network) = self.network else { return };
        if let Some(here) = open.by_network.get_mut(&network) {
            *here -= 1;
            if *here == 0 {
                open.by_network.remove(&network);
            }
        }
    }
}

/// What counts as one address: with IPv6 everybody has a /64 network of them. Loopback is exempt, since it is this machine
/// or a proxy on it.
fn network(address: IpAddr) -> Option<IpAddr> {
    match address.to_canonical() {
        address if address.is_loopback() => None,
        IpAddr::V4(address) => Some(address.into()),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Some(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_gets_its_share_and_gives_it_back() {
        let admission = Admission::new(10, 2);
        let first = admission.admit(ip("10.0.0.1")).unwrap();
        let _second = admission.admit(ip("10.0.0.1")).unwrap();
        assert_eq!(admission.admit(ip("::ffff:10.0.0.1")).unwrap_err(), Full::Network);
        let _other = admission.admit(ip("10.0.0.2")).unwrap();
        drop(first);
        let _again = admission.admit(ip("10.0.0.1")).unwrap();
        assert_eq!(admission.open(), 3);
    }

    #[test]
    fn a_v6_network_is_one_address() {
        let admission = Admission::new(10, 1);
        let _first = admission.admit(ip("2001:db8::1")).unwrap();
        assert_eq!(admission.admit(ip("2001:db8::2")).unwrap_err(), Full::Network);
        let _other = admission.admit(ip("2001:db8:0:1::1")).unwrap();
    }

    #[test]
    fn loopback_is_bounded_only_by_the_whole() {
        let admission = Admission::new(3, 1);
        let _three = [(); 3].map(|()| admission.admit(ip("127.0.0.1")).unwrap());
        assert_eq!(admission.admit(ip("::1")).unwrap_err(), Full::All);
    }

    #[test]
    fn nothing_is_kept_of_addresses_that_left() {
        let admission = Admission::new(10, 2);
        drop(admission.admit(ip("10.0.0.1")).unwrap());
        assert!(admission.open.lock().unwrap().by_network.is_empty());
    }
}
