//! Whose name a request may call this server by. A page on loopback has no login, so that a stranger's web page must not
//! reach it: whoever owns a name can point it at 127.0.0.1 (DNS rebinding), and the browser then takes both for one site.
//! The Host header tells that name, and a script cannot change it.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use hyper::Request;
use hyper::header::HOST;
use hyper::http::uri::Authority;

use super::error::ApiError;

/// A header can carry a kilobyte; more than this helps nobody in an answer.
const MAX_TOLD_CHARS: usize = 100;

/// A host that may be asked for, without a port: a name in lower case, or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHost(String);

impl FromStr for AllowedHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse::<Authority>() {
            Ok(authority) if authority.host() == text && !text.contains('*') => {
                Ok(Self(text.to_ascii_lowercase()))
            }
            _ => Err(
                "a host is a name or an address without scheme and port, as metrics.example.com"
                    .to_owned(),
            ),
        }
    }
}

/// What requests may call this server, or that it does not matter.
#[derive(Debug)]
pub struct Hosts {
    is_checked: bool,
    bound: IpAddr,
    allowed: Vec<AllowedHost>,
}

impl Hosts {
    /// Checked on loopback, and wherever somebody named a host. Elsewhere the server has names that it cannot know, and
    /// is open to everybody who reaches it.
    pub fn new(bound: SocketAddr, allowed: Vec<AllowedHost>) -> Self {
        Self {
            is_checked: bound.ip().is_loopback() || !allowed.is_empty(),
            bound: bound.ip(),
            allowed,
        }
    }

    /// # Errors
    /// When the request calls this server by another name, by none, or by two.
    pub fn check<B>(&self, request: &Request<B>) -> Result<(), ApiError> {
        if !self.is_checked {
            return Ok(());
        }
        let mut named = request.headers().get_all(HOST).iter();
        let (first, second) = (named.next(), named.next());
        let told = first.and_then(|host| host.to_str().ok()).unwrap_or("");
        // a target that names a host overrules the header
        let authority = match request.uri().authority() {
            Some(authority) => Some(authority.clone()),
            None => told.parse().ok(),
        };
        match authority {
            Some(authority) if second.is_none() && self.is_ours(&authority) => Ok(()),
            other => {
                let host = other.map_or_else(|| told.to_owned(), |a| a.host().to_owned());
                Err(ApiError::Host(host.chars().take(MAX_TOLD_CHARS).collect()))
            }
        }
    }

    /// The port does not matter: a tunnel may have another one, and a rebound name is another name on each.
    fn is_ours(&self, authority: &Authority) -> bool {
        let host = authority.host().to_ascii_lowercase();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse();
        // an address is nobody's name, and cannot be pointed elsewhere
        let is_own = |ip: IpAddr| ip.is_loopback() || ip == self.bound;
        host == "localhost"
            || address.is_ok_and(is_own)
            || self.allowed.iter().any(|allowed| allowed.0 == host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(hosts: &Hosts, named: &[&str]) -> bool {
        let mut request = Request::get("/");
        for host in named {
            request = request.header(HOST, *host);
        }
        hosts.check(&request.body(()).expect("a request")).is_ok()
    }

    fn hosts(bound: &str, allowed: &[&str]) -> Hosts {
        let allowed = allowed.iter().map(|host| host.parse().expect("a host"));
        Hosts::new(bound.parse().expect("an address"), allowed.collect())
    }

    #[test]
    fn on_loopback_only_its_own_names_are_answered() {
        let own = hosts("127.0.0.1:8080", &[]);
        for host in [
            "localhost",
            "LocalHost:9",
            "127.0.0.1:8080",
            "[::1]:8080",
            "127.0.0.5",
        ] {
            assert!(answers(&own, &[host]), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.7",
            "user@evil.example",
            "",
            "a b",
        ] {
            assert!(!answers(&own, &[host]), "{host}");
        }
        assert!(!answers(&own, &[]));
        assert!(!answers(&own, &["localhost", "evil.example"]));
    }

    #[test]
    fn a_target_that_names_a_host_overrules_the_header() {
        let own = hosts("127.0.0.1:8080", &[]);
        let request = Request::get("http://evil.example/").header(HOST, "localhost");
        assert!(own.check(&request.body(()).expect("a request")).is_err());
    }

    #[test]
    fn elsewhere_every_name_is_answered_until_one_is_named() {
        assert!(answers(&hosts("0.0.0.0:80", &[]), &["metrics.example.com"]));
        let named = hosts("10.0.0.7:80", &["Metrics.example.com"]);
        for host in ["metrics.example.com:443", "10.0.0.7", "localhost"] {
            assert!(answers(&named, &[host]), "{host}");
        }
        assert!(!answers(&named, &["evil.example"]));
    }

    #[test]
    fn an_allowed_host_is_a_name_or_an_address_alone() {
        for wrong in ["", "http://a", "a:80", "a/b", "a b", "x@a", "*"] {
            // a star is a name that nobody has, but it would be taken for a pattern
            let is_taken = wrong.parse::<AllowedHost>().is_ok();
            assert!(!is_taken, "{wrong}");
        }
        assert!("[::1]".parse::<AllowedHost>().is_ok());
    }
}
