//! Where a connection goes, taken from a URL.

use std::fmt;

use data_encoding::BASE64;
use percent_encoding::percent_decode_str;
use url::{Host, ParseError, Position, Url};

/// Where the connection goes.
pub(crate) struct Target {
    pub(crate) tls: bool,
    /// A name, in the letters of ASCII, or an address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Host and port, as they are told to the other side.
    authority: String,
    path: String,
    query: Option<String>,
    /// What the URL says about who we are, as the value of `Authorization`: it may be a secret.
    pub(crate) credentials: Option<String>,
    pub(super) password: Option<String>,
    scheme: &'static str,
}

impl Target {
    /// `plain` and `secure` are the schemes that are possible.
    pub(crate) fn of(
        text: &str,
        plain: &'static str,
        secure: &'static str,
    ) -> Result<Self, &'static str> {
        let url = Url::parse(text).map_err(explain)?;
        let tls = match url.scheme() {
            scheme if scheme == plain => false,
            scheme if scheme == secure => true,
            _ if plain == "ws" => return Err("must begin with ws:// or wss://"),
            _ => return Err("must begin with http:// or https://"),
        };
        let host = match url.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => return Err("has no host"),
        };
        let port = url.port_or_known_default().filter(|port| *port != 0);
        Ok(Self {
            tls,
            host,
            port: port.ok_or("has the port 0, where nobody can listen")?,
            authority: url[Position::BeforeHost..Position::AfterPort].to_owned(),
            path: url.path().to_owned(),
            query: url.query().map(str::to_owned),
            credentials: credentials(&url)?,
            password: user(&url).map(|(_, word)| String::from_utf8_lossy(&word).into_owned()),
            scheme: if tls { secure } else { plain },
        })
    }

    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    #[cfg(feature = "jupyter")]
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// Path and query, as the request asks for them.
    pub(super) fn resource(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }
}

/// Without path, query and credentials: any of them may be a secret.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

/// Name and password, without percent-encoding.
pub(super) fn user(url: &Url) -> Option<(Vec<u8>, Vec<u8>)> {
    let plain = |text| percent_decode_str(text).collect::<Vec<u8>>();
    let (name, password) = (plain(url.username()), plain(url.password().unwrap_or_default()));
    (!name.is_empty() || !password.is_empty()).then_some((name, password))
}

/// As basic authentication.
pub(super) fn credentials(url: &Url) -> Result<Option<String>, &'static str> {
    let Some((name, password)) = user(url) else { return Ok(None) };
    if name.contains(&b':') {
        return Err("has a colon in the name of the user, which basic authentication cannot tell");
    }
    Ok(Some(format!("Basic {}", BASE64.encode(&[&*name, b":", &*password].concat()))))
}

/// Without the URL: it may hold a secret.
pub(super) fn explain(error: ParseError) -> &'static str {
    match error {
        ParseError::EmptyHost => "has no host",
        ParseError::InvalidPort => "has a port that is no number from 1 to 65535",
        ParseError::IdnaError => "has a host that is no name of the internet",
        ParseError::InvalidIpv4Address | ParseError::InvalidIpv6Address => {
            "has a host that looks like an address and is none"
        }
        ParseError::InvalidDomainCharacter => "has a character in its host that no name has",
        ParseError::RelativeUrlWithoutBase => "is no URL: it has no scheme, such as wss://",
        _ => "is no URL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_as_browsers_read_it() {
        let read = |url| Target::of(url, "ws", "wss").map(|of| (of.to_string(), of.resource()));
        let is = |target: &str, resource: &str| Ok((target.to_owned(), resource.to_owned()));
        assert_eq!(read("ws://host?token=1"), is("ws://host", "/?token=1"));
        assert_eq!(read("WS://HOST:80/a b#part"), is("ws://host", "/a%20b"));
        assert_eq!(
            read("wss://bücher.example/ü?ü=é"),
            is("wss://xn--bcher-kva.example", "/%C3%BC?%C3%BC=%C3%A9")
        );
        assert_eq!(read("ws://[::1]:9/a?b?c"), is("ws://[::1]:9", "/a?b?c"));
        assert_eq!(read(" ws://host:8080/\n"), is("ws://host:8080", "/"));
        for bad in [
            "",
            "host",
            "/path",
            "ws://",
            "ws:///",
            "ws://:80/",
            "ws://host:99999/",
            "ws://host:x/",
            "ws://host:-1/",
            "ws://host:0/",
            "ws://a b/",
            "ws://[::1/",
            "ws://1.2.3.999/",
            "http://host/",
            "ws://a%3Ab:c@host/",
            "ws://ho\u{0}st/",
        ] {
            let what = read(bad).expect_err(bad);
            assert!(bad.is_empty() || !what.contains(bad), "an error quotes the URL: {what}");
        }
    }

    #[test]
    fn credentials_become_basic_authentication_and_are_told_nobody_else() {
        let target = Target::of("ws://us%C3%A9r:p%40ss%3Aw@host/", "ws", "wss").unwrap();
        let basic = BASE64.encode("usér:p@ss:w".as_bytes());
        assert_eq!(target.credentials, Some(format!("Basic {basic}")));
        assert_eq!((target.authority(), &*target.to_string()), ("host", "ws://host"));
        assert_eq!(Target::of("ws://@host/", "ws", "wss").unwrap().credentials, None);
    }
}
