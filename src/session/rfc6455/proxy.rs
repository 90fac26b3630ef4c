//! A way through a proxy: `CONNECT` of HTTP, or SOCKS5 (RFC 1928, RFC 1929).

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};

use url::{Host, Url};

use super::connect_error::Problem;
use super::head;
use super::stream::Tcp;
use super::target::{self, Target};

pub(super) struct Proxy {
    kind: Kind,
    pub(super) host: String,
    pub(super) port: u16,
}

enum Kind {
    /// What shows who we are, as a line.
    Http {
        authorization: Vec<u8>,
    },
    Socks5 {
        user: Option<(Vec<u8>, Vec<u8>)>,
        looks_up: bool,
    },
}

impl Proxy {
    pub(super) fn of(url: &str) -> Result<Self, &'static str> {
        // The usual variables may hold a host and a port only.
        let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let url = Url::parse(&url).map_err(target::explain)?;
        let kind = match url.scheme() {
            "http" => {
                let credentials = target::credentials(&url)?;
                let line = |value: String| format!("Proxy-Authorization: {value}\r\n").into_bytes();
                Kind::Http { authorization: credentials.map(line).unwrap_or_default() }
            }
            scheme @ ("socks5" | "socks5h") => {
                let user = target::user(&url);
                let fits = |text: &Vec<u8>| text.len() <= 255;
                if user.as_ref().is_some_and(|(name, word)| !fits(name) || !fits(word)) {
                    return Err("has credentials that are longer than SOCKS5 can tell");
                }
                Kind::Socks5 { user, looks_up: scheme == "socks5h" }
            }
            _ => return Err("must begin with http://, socks5:// or socks5h://"),
        };
        let host = match url.host() {
            // Of a scheme that is not the web's, a name is not looked into.
            Some(Host::Domain(name)) if !name.is_empty() => name.to_ascii_lowercase(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            _ => return Err("has no host"),
        };
        let port = url.port_or_known_default().unwrap_or(1080);
        Ok(Self { kind, host, port })
    }

    /// Whether the target's address has to be found on this side.
    pub(super) fn wants_address(&self) -> bool {
        matches!(self.kind, Kind::Socks5 { looks_up: false, .. })
    }

    /// Asks for the way to `target`; as patient as `tcp` is. Behind it nothing has been read.
    pub(super) fn tunnel(
        &self,
        tcp: &mut Tcp,
        target: &Target,
        address: Option<SocketAddr>,
    ) -> Result<(), Problem> {
        match &self.kind {
            Kind::Http { authorization } => connect(tcp, target, authorization),
            Kind::Socks5 { user, .. } => {
                let host = address.map(|address| address.ip()).or(target.host.parse().ok());
                socks5(tcp, host.ok_or(&target.host), target.port, user.as_ref())
            }
        }
    }
}

fn connect(tcp: &mut Tcp, target: &Target, authorization: &[u8]) -> Result<(), Problem> {
    // With the port, also where it is the usual one.
    let host = match target.host.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{}", target.port),
        _ => format!("{}:{}", target.host, target.port),
    };
    let request = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n");
    let request = [request.as_bytes(), authorization, b"\r\n"].concat();
    tcp.write_all(&request).map_err(Problem::Io)?;
    let (answer, rest) = head::read_answer(tcp)?;
    if !(200..300).contains(&answer.status) {
        return Err(head::refusal(tcp, answer, rest, &[]));
    }
    // The other side waits for us to speak first, with TLS and without.
    if rest.is_empty() { Ok(()) } else { Err(Problem::Head("the proxy spoke for the server")) }
}

fn socks5(
    tcp: &mut Tcp,
    host: Result<IpAddr, &String>,
    port: u16,
    user: Option<&(Vec<u8>, Vec<u8>)>,
) -> Result<(), Problem> {
    const NO_AUTHENTICATION: u8 = 0;
    const BY_PASSWORD: u8 = 2;
    let odd = Problem::Head("the proxy does not speak SOCKS5");
    let mut methods = vec![NO_AUTHENTICATION];
    methods.extend(user.map(|_| BY_PASSWORD));
    let hello = [&[5, methods.len() as u8], &*methods].concat();
    tcp.write_all(&hello).map_err(Problem::Io)?;
    match (read(tcp)?, user) {
        ([5, NO_AUTHENTICATION], _) => {}
        ([5, BY_PASSWORD], Some((name, password))) => {
            let length = |text: &Vec<u8>| [text.len() as u8];
            let who = [&[1], &length(name)[..], name, &length(password), password].concat();
            tcp.write_all(&who).map_err(Problem::Io)?;
            let [_, status] = read(tcp)?;
            if status != 0 {
                return Err(Problem::Head("the proxy refuses the credentials in its URL"));
            }
        }
        ([5, _], _) => return Err(Problem::Head("the proxy wants another authentication")),
        _ => return Err(odd),
    }
    let mut request = vec![5, 1, 0];
    match host {
        Ok(IpAddr::V4(address)) => request.extend([&[1][..], &address.octets()].concat()),
        Ok(IpAddr::V6(address)) => request.extend([&[4][..], &address.octets()].concat()),
        Err(name) => {
            let length = u8::try_from(name.len());
            let length = length.map_err(|_| Problem::Head("the name is too long for SOCKS5"))?;
            request.extend([&[3, length], name.as_bytes()].concat());
        }
    }
    request.extend(port.to_be_bytes());
    tcp.write_all(&request).map_err(Problem::Io)?;
    let [version, reply, _, form] = read(tcp)?;
    if version != 5 {
        return Err(odd);
    }
    if reply != 0 {
        return Err(Problem::Head(match reply {
            1 => "the proxy says: general failure",
            2 => "the proxy says: not allowed by its rules",
            3 => "the proxy says: network unreachable",
            4 => "the proxy says: host unreachable",
            5 => "the proxy says: connection refused",
            6 => "the proxy says: TTL expired",
            7 => "the proxy says: command not supported",
            8 => "the proxy says: address type not supported",
            _ => "the proxy refuses, with an unknown reason",
        }));
    }
    // From where it connected. Nobody wants to know.
    let length = match form {
        1 => 4,
        3 => usize::from(read::<1>(tcp)?[0]),
        4 => 16,
        _ => return Err(odd),
    };
    tcp.read_exact(&mut vec![0; length + 2]).map_err(Problem::Io)
}

fn read<const N: usize>(tcp: &mut Tcp) -> Result<[u8; N], Problem> {
    let mut bytes = [0; N];
    let hung_up = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Problem::Head("the proxy hung up"),
        _ => Problem::Io(error),
    };
    tcp.read_exact(&mut bytes).map_err(hung_up)?;
    Ok(bytes)
}

/// The proxy that the environment names for a target.
pub(super) fn from(target: &Target, get: impl Fn(&str) -> Option<String>) -> Option<String> {
    let get = |name: &str| get(name).filter(|value| !value.is_empty());
    let either = |name: &str| get(name).or_else(|| get(&name.to_ascii_uppercase()));
    if either("no_proxy").is_some_and(|list| is_excepted(&target.host, target.port, &list)) {
        return None;
    }
    let special = if target.tls {
        either("wss_proxy").or_else(|| either("https_proxy"))
    } else {
        either("ws_proxy").or_else(|| get("http_proxy"))
    };
    special.or_else(|| either("all_proxy"))
}

/// Whether a host is in a list of names, each of which stands for its subdomains too.
fn is_excepted(host: &str, port: u16, list: &str) -> bool {
    let of_port = format!(":{port}");
    list.split([',', ' ']).map(|name| name.strip_suffix(&of_port).unwrap_or(name)).any(|name| {
        let name = name.strip_prefix("*.").unwrap_or(name);
        let name = name.trim_start_matches(['.', '[']).trim_end_matches(']').to_ascii_lowercase();
        let parent = host.strip_suffix(&*name);
        !name.is_empty()
            && (name == "*" || parent.is_some_and(|sub| sub.is_empty() || sub.ends_with('.')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(url: &str, variables: &[(&str, &str)]) -> Option<String> {
        let target = Target::of(url, "ws", "wss").unwrap();
        let get = |name: &str| variables.iter().find(|(is, _)| *is == name);
        from(&target, |name| get(name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_environment_names_the_proxy_of_a_scheme_and_its_exceptions() {
        let all = [("http_proxy", "h:1"), ("HTTPS_PROXY", "s:1"), ("all_proxy", "a:1")];
        assert_eq!(chosen("ws://x/", &all).as_deref(), Some("h:1"));
        assert_eq!(chosen("wss://x/", &all).as_deref(), Some("s:1"));
        assert_eq!(chosen("wss://x/", &all[2..]).as_deref(), Some("a:1"));
        assert_eq!(chosen("ws://x/", &[("HTTP_PROXY", "evil:1")]), None);
        assert_eq!(chosen("ws://x/", &[("ws_proxy", "w:1"), all[0]]).as_deref(), Some("w:1"));
        for (host, list, excepted) in [
            ("a.example.org", "example.org", true),
            ("example.org", ".example.org", true),
            ("badexample.org", "example.org", false),
            ("a.example.org", "*.example.org", true),
            ("anything", "*", true),
            ("[::1]:9", "localhost,[::1]", true),
            ("127.0.0.1:9", "127.0.0.1:9", true),
            ("127.0.0.1:9", "127.0.0.1:8", false),
            ("Example.ORG", "x, EXAMPLE.org", true),
            ("x", "", false),
        ] {
            let found =
                chosen(&format!("ws://{host}/"), &[("all_proxy", "a:1"), ("no_proxy", list)]);
            assert_eq!(found.is_none(), excepted, "{host} {list}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_refused() {
        for bad in ["https://p:1", "p:99999", "socks4://p", "http://", "", "socks5://"] {
            assert!(Proxy::of(bad).is_err(), "{bad}");
        }
        let proxy = Proxy::of("socks5h://Name:1").unwrap();
        assert_eq!((&*proxy.host, proxy.port, proxy.wants_address()), ("name", 1, false));
        assert_eq!(
            Proxy::of("socks5://[::1]").map(|proxy| (proxy.host, proxy.port)).ok(),
            Some(("::1".to_owned(), 1080))
        );
        assert_eq!(
            Proxy::of("proxy").map(|proxy| (proxy.host, proxy.port)).ok(),
            Some(("proxy".to_owned(), 80))
        );
    }
}
