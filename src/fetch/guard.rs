//! What may be fetched: schemes, hosts, addresses, buckets and folders.
//!
//! A message is a stranger's text, and fetching its `uri` is a request from inside our network.
//! So nothing is allowed that the config does not name, and an address that is not public is
//! refused wherever it comes from: the `uri`, a redirect, or a name that leads there.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use futures::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use schemas::config::{Fetch, Scheme};
use url::{Host, Url};

/// Names to addresses: the system's, or a test's.
pub trait Names: Send + Sync {
    /// All addresses of a name.
    fn addresses(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The system's resolver.
pub struct SystemNames;

impl Names for SystemNames {
    fn addresses(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let name = name.to_owned();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// Why something is not allowed, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAllowed(pub String);

impl std::fmt::Display for NotAllowed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotAllowed {}

/// The config's lists, ready to be asked.
#[derive(Clone, Debug)]
pub struct Rules {
    schemes: Vec<Scheme>,
    hosts: Vec<String>,
    private: Vec<String>,
    buckets: Vec<String>,
}

impl Rules {
    /// The lists of `[fetch]`.
    pub fn new(config: &Fetch) -> Rules {
        let lower = |hosts: &[String]| {
            let plain = |host: &String| plain_host(&host.to_lowercase()).to_owned();
            hosts.iter().map(plain).collect()
        };
        Rules {
            schemes: config.schemes.clone(),
            hosts: lower(&config.hosts),
            private: lower(&config.private_hosts_allowed),
            buckets: config.buckets.clone(),
        }
    }

    /// Whether a `uri` may be asked for at all; a file's folder is checked when it is opened.
    pub fn admit(&self, uri: &str) -> Result<(Scheme, Url), NotAllowed> {
        let no = |why: String| NotAllowed(format!("{}: {why}", shown(uri)));
        let url = Url::parse(uri).map_err(|error| match error {
            url::ParseError::RelativeUrlWithoutBase => no("has no scheme".into()),
            error => no(error.to_string()),
        })?;
        let scheme = Scheme::ALL.into_iter().find(|scheme| scheme.as_str() == url.scheme());
        let scheme = scheme.filter(|scheme| self.schemes.contains(scheme)).ok_or_else(|| {
            let allowed: Vec<&str> = self.schemes.iter().map(|scheme| scheme.as_str()).collect();
            let (is, allowed) = (url.scheme(), allowed.join(", "));
            no(format!("[fetch] schemes has no {is:?}; it has {allowed}"))
        })?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(no("must hold no user or password".into()));
        }
        match scheme {
            Scheme::Https | Scheme::Http => self.admit_host(&url)?,
            Scheme::S3 | Scheme::Gs | Scheme::Az => {
                let bucket = url.host_str().unwrap_or_default();
                if !self.buckets.iter().any(|allowed| allowed == bucket) {
                    return Err(no(format!("[fetch] buckets has no {bucket:?}")));
                }
            }
            Scheme::File if !matches!(url.host_str(), None | Some("" | "localhost")) => {
                return Err(no("is on another machine; file:///FOLDER/NAME is on this one".into()));
            }
            Scheme::File => {}
        }
        Ok((scheme, url))
    }

    /// Whether one may go from `from` to `to`, which a server there said.
    pub fn admit_redirect(&self, from: &Url, to: &Url) -> Result<(), NotAllowed> {
        let no = |why: &str| NotAllowed(format!("redirected to {}: {why}", shown(to.as_str())));
        let (https, http) = (Scheme::Https.as_str(), Scheme::Http.as_str());
        if from.scheme() == https && to.scheme() == http {
            return Err(no("from https to http"));
        }
        if ![https, http].contains(&to.scheme()) {
            return Err(no("from http to another scheme"));
        }
        let admitted = self.admit(to.as_str()).map(|_| ());
        admitted.map_err(|NotAllowed(why)| NotAllowed(format!("redirected to {why}")))
    }

    fn admit_host(&self, url: &Url) -> Result<(), NotAllowed> {
        let no = |why: String| NotAllowed(format!("{}: {why}", shown(url.as_str())));
        let host = url.host().ok_or_else(|| no("names no host".into()))?;
        let text = host.to_string();
        let name = plain_host(&text);
        if !matches_any(&self.hosts, name) {
            return Err(no(format!("[fetch] hosts has no {name:?}")));
        }
        // A client asks no resolver for these.
        let address = match host {
            Host::Domain(_) => return Ok(()),
            Host::Ipv4(address) => IpAddr::V4(address),
            Host::Ipv6(address) => IpAddr::V6(address),
        };
        self.admit_address(name, address).map_err(|NotAllowed(why)| no(why))
    }

    /// Whether `name` may lead to this address.
    pub fn admit_address(&self, name: &str, address: IpAddr) -> Result<(), NotAllowed> {
        match not_public(address) {
            Some(kind) if !matches_any(&self.private, plain_host(name)) => {
                let to = if address.to_string() == plain_host(name) { "is" } else { "leads to" };
                Err(NotAllowed(format!(
                    "{name} {to} {address}, {kind}; only [fetch] private_hosts_allowed may"
                )))
            }
            _ => Ok(()),
        }
    }
}

/// Without the brackets of an IPv6 address, and without the dot that ends a full name.
fn plain_host(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.')
}

fn matches_any(patterns: &[String], host: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_prefix('*') {
        Some("") => true,
        Some(below) => host.len() > below.len() && host.ends_with(below),
        None => pattern == host,
    })
}

/// A `uri` as people may see it: a query often holds a signature.
pub fn shown(uri: &str) -> &str {
    uri.split(['?', '#']).next().unwrap_or(uri)
}

/// What kind of address this is, if one that the public internet does not lead to.
pub fn not_public(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => not_public_v4(address),
        IpAddr::V6(address) => not_public_v6(address),
    }
}

fn not_public_v4(address: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        (0, ..) => Some("unspecified"),
        (127, ..) => Some("this machine"),
        (10, ..) | (172, 16..32, _) | (192, 168, _) => Some("a private address"),
        (169, 254, _) => Some("a link-local address"),
        (100, 64..128, _) => Some("an address shared by a carrier"),
        (192, 0, 0) | (192, 88, 99) | (198, 18..20, _) => Some("a special address"),
        (192, 0, 2) | (198, 51, 100) | (203, 0, 113) => Some("an address for documentation"),
        (224..240, ..) => Some("a multicast address"),
        (240.., ..) => Some("a reserved address"),
        _ => None,
    }
}

fn not_public_v6(address: Ipv6Addr) -> Option<&'static str> {
    let s = address.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        not_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("unspecified"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("this machine"),
        // Mapped, translated (NAT64) and tunnelled (6to4): what counts is the address within.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        [0xfc00..=0xfdff, ..] => Some("a private address"),
        [0xfe80..=0xfebf, ..] => Some("a link-local address"),
        [0xfec0..=0xfeff, ..] => Some("a private address"),
        [0xff00..=0xffff, ..] => Some("a multicast address"),
        // Teredo and others of this block hide an address too.
        [0x2001, 0..=0x1ff, ..] => Some("a special address"),
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Some("an address for documentation"),
        // ISATAP.
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => v4(high, low),
        [0x2000..=0x3fff, ..] => None,
        _ => Some("a reserved address"),
    }
}

/// The resolver that every connection goes through: a name has only those addresses that it may.
pub struct Guarded {
    /// Who is asked.
    pub names: Arc<dyn Names>,
    /// What is allowed.
    pub rules: Arc<Rules>,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let (rules, name) = (self.rules.clone(), name.as_str().to_owned());
        let found = self.names.addresses(&name);
        Box::pin(async move {
            let found = found.await?;
            let (mut allowed, mut refused) = (Vec::new(), None);
            for address in found {
                match rules.admit_address(&name, address) {
                    Ok(()) => allowed.push(SocketAddr::new(address, 0)),
                    Err(why) => refused = Some(why),
                }
            }
            match refused {
                Some(why) if allowed.is_empty() => Err(why.into()),
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        let refused = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "100.64.0.1",
            "100.127.255.255",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::808:808",
            "100::1",
            "2001:0:53aa:64c:0:0:0:1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2600::5efe:127.0.0.1",
            "2600::200:5efe:10.0.0.1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ];
        for text in refused {
            let address = text.parse().expect(text);
            assert!(not_public(address).is_some(), "{text}");
        }
        let public = [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
        ];
        for text in public {
            assert_eq!(not_public(text.parse().expect(text)), None, "{text}");
        }
    }

    fn rules(hosts: &[&str], private: &[&str]) -> Rules {
        let own = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        Rules::new(&Fetch {
            schemes: vec![Scheme::Https, Scheme::Http, Scheme::S3, Scheme::File],
            hosts: own(hosts),
            private_hosts_allowed: own(private),
            buckets: vec!["b".into()],
            ..Fetch::default()
        })
    }

    #[test]
    fn hosts_are_named_or_below_a_named_one() {
        let rules = rules(&["A.example.org", "*.cdn.example.org", "[2606:4700::1111]"], &[]);
        for uri in [
            "https://a.example.org/x",
            "https://A.EXAMPLE.org.:444/x?y",
            "http://i.cdn.example.org/x",
            "http://a.b.cdn.example.org/x",
            "http://[2606:4700::1111]/x",
            "s3://b/x",
            "file:///x",
            "file://localhost/x",
        ] {
            assert!(rules.admit(uri).is_ok(), "{uri}: {:?}", rules.admit(uri));
        }
        for (uri, why) in [
            ("https://b.example.org/x", "hosts"),
            ("https://cdn.example.org/x", "hosts"),
            ("https://evilcdn.example.org/x", "hosts"),
            ("https://a.example.org.evil.org/x", "hosts"),
            ("https://a.example.org@evil.org/x", "user"),
            ("https://me:secret@a.example.org/x", "user"),
            ("ftp://a.example.org/x", "schemes"),
            ("gs://b/x", "schemes"),
            ("data:image/png;base64,AAAA", "schemes"),
            ("s3://c/x", "buckets"),
            ("file://other/x", "another machine"),
            ("a.jpg", "no scheme"),
            ("//a.example.org/x", "no scheme"),
            ("https://", "empty host"),
        ] {
            let said = rules.admit(uri).expect_err(uri).0;
            assert!(said.contains(why), "{uri}: {said}");
        }
        let said = rules.admit("https://x.org/a?signature=s3cret").expect_err("not listed").0;
        assert!(!said.contains("s3cret"), "{said}");
    }

    #[test]
    fn addresses_in_disguise_are_refused_unless_listed() {
        let all = rules(&["*"], &["127.0.0.1", "*.local.example.org"]);
        assert!(all.admit("http://127.0.0.1:9/x").is_ok());
        assert!(all.admit("http://2130706433/x").is_ok(), "127.0.0.1 as a number");
        let none = rules(&["*"], &[]);
        for uri in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://[::1]/",
            "http://[::ffff:7f00:1]/",
            "http://[fd00:ec2::254]/latest",
            "http://169.254.169.254/latest/meta-data",
            "http://0/",
        ] {
            let said = none.admit(uri).expect_err(uri).0;
            assert!(said.contains("private_hosts_allowed"), "{uri}: {said}");
        }
        let address = |name, to: &str| all.admit_address(name, to.parse().expect("an address"));
        assert!(address("a.local.example.org", "10.0.0.1").is_ok());
        assert!(address("local.example.org", "10.0.0.1").is_err());
        assert!(address("b.example.org", "9.9.9.9").is_ok());
    }

    #[test]
    fn redirects_go_to_what_is_allowed_and_never_lose_tls() {
        let rules = rules(&["a.org", "b.org"], &[]);
        let go = |from: &str, to: &str| {
            let [from, to] = [from, to].map(|text| Url::parse(text).expect("a URL"));
            rules.admit_redirect(&from, &to)
        };
        assert_eq!(go("http://a.org/", "https://b.org/"), Ok(()));
        assert_eq!(go("http://a.org/", "http://b.org/"), Ok(()));
        for (from, to, why) in [
            ("https://a.org/", "http://a.org/", "https to http"),
            ("https://a.org/", "https://c.org/", "hosts"),
            ("http://a.org/", "file:///etc/passwd", "another scheme"),
            ("http://a.org/", "s3://b/x", "another scheme"),
            ("http://a.org/", "http://169.254.169.254/", "hosts"),
        ] {
            let said = go(from, to).expect_err(to).0;
            assert!(said.contains(why), "{said}");
        }
    }
}
