//! Streamable HTTP: one address, for whoever has the token.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::server::{Server, Shared};
use super::tell;

/// How many connections there are at most; further ones wait.
const CONNECTIONS: usize = 1024;

/// How long a connection may say nothing between two requests. Longer than clients keep theirs: one that
/// is closed as a client takes it up again costs that client its request.
const IDLE: Duration = Duration::from_secs(120);

/// Where the protocol is.
const PATH: &str = "/mcp";

pub(super) struct Options {
    pub(super) address: SocketAddr,
    pub(super) token: Option<String>,
    pub(super) origins: Vec<String>,
    pub(super) hosts: Vec<String>,
    pub(super) max_body: usize,
}

type Service = StreamableHttpService<Server, LocalSessionManager>;
type Body = BoxBody<Bytes, Infallible>;

/// Serves until it is told to end.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    options: Options,
    mut ends: watch::Receiver<bool>,
) -> Result<()> {
    let Options { address, token, origins, hosts, max_body } = options;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("--http {address}: nobody can listen there"))?;
    let config = StreamableHttpServerConfig::default()
        .with_allowed_origins(origins)
        .enforce_origin_validation()
        .with_max_request_body_bytes(max_body);
    // A page that had its name lead here would come with that name as the host.
    let config = match hosts.is_empty() && !address.ip().is_loopback() {
        true => config.disable_allowed_hosts(), // and a token is demanded
        false => {
            let known = config.allowed_hosts.clone();
            config.with_allowed_hosts(known.into_iter().chain(hosts).collect::<Vec<_>>())
        }
    };
    let stop = config.cancellation_token.clone();
    let connect = Arc::clone(shared);
    let service: Service = StreamableHttpService::new(
        move || Ok::<_, io::Error>(connect.connect()),
        Arc::default(),
        config,
    );
    tell(&format!("listening at http://{}{PATH}", listener.local_addr()?));

    let token: Option<Arc<str>> = token.map(Into::into);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut ended = pin!(ends.wait_for(|ended| *ended));
    loop {
        let place = Arc::clone(&room).acquire_owned().await?;
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Too many open files, say: others are served meanwhile.
                    tell(&format!("a connection was not accepted: {error}"));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            _ = &mut ended => break,
        };
        let _ = stream.set_nodelay(true);
        let (service, token) = (service.clone(), token.clone());
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let (service, token) = (service.clone(), token.clone());
                async move { Ok::<_, Infallible>(answer(&service, token.as_deref(), request).await) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(IDLE);
            let _ = http.serve_connection(TokioIo::new(stream), answer).await; // who is gone is gone
            drop(place);
        });
    }
    stop.cancel();
    Ok(())
}

async fn answer(
    service: &Service,
    token: Option<&str>,
    request: Request<Incoming>,
) -> Response<Body> {
    if let Some(token) = token {
        let given = request.headers().get(AUTHORIZATION).and_then(|given| given.to_str().ok());
        let given = given.and_then(|given| {
            let (scheme, given) = given.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| given.trim())
        });
        if !given.is_some_and(|given| is_same(given.as_bytes(), token.as_bytes())) {
            let mut refused = plain(StatusCode::UNAUTHORIZED, "a bearer token is needed\n");
            let scheme = http::HeaderValue::from_static("Bearer");
            refused.headers_mut().insert(WWW_AUTHENTICATE, scheme);
            return refused;
        }
    }
    if request.uri().path() != PATH {
        return plain(StatusCode::NOT_FOUND, "the protocol is at /mcp\n");
    }
    service.handle(request).await
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())).boxed());
    *response.status_mut() = status;
    response
}

/// Compares without telling by its time where the difference is.
fn is_same(given: &[u8], wanted: &[u8]) -> bool {
    let differences = given.iter().zip(wanted).fold(0, |all, (a, b)| all | (a ^ b));
    given.len() == wanted.len() && std::hint::black_box(differences) == 0
}
