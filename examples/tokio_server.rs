//! An async HTTP server whose conversations have a session each. Requests of one conversation run in
//! its keyed instance, in order, on a worker's thread, where they may block; the server's tasks await
//! the handles. Try `curl -d hello localhost:8080/alice`; Ctrl-C ends it in good order.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use sessile::workers::ShutdownReport;
use sessile::{Pool, Workers, from_fn};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};

/// A conversation. It is not `Send`, and does not have to be.
pub(crate) struct Session {
    said: Vec<Rc<str>>,
}

impl Session {
    fn hear(&mut self, words: &str) -> String {
        assert_ne!(words, "panic", "as you wish");
        self.said.push(words.into());
        format!("{}: {}", self.said.len(), self.said.join(" "))
    }
}

/// Two threads for all conversations; the idle ones are closed after ten minutes.
pub(crate) fn sessions() -> Workers<Session> {
    let pool = Pool::builder_local(from_fn(|_| Session { said: Vec::new() }))
        .name("conversations")
        .idle_timeout(Duration::from_secs(600));
    Workers::builder(pool).threads(2).build().expect("threads can be had")
}

async fn answer(
    sessions: Arc<Workers<Session>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let who = request.uri().path().to_owned();
    let words = request.into_body().collect().await?.to_bytes();
    let work = move |session: &mut Session| session.hear(&String::from_utf8_lossy(&words));
    // Without waiting for room: a task must not block. A full queue is the client's to know of.
    let (status, text) = match sessions.keyed(who).try_submit(work) {
        Err(refused) => (StatusCode::SERVICE_UNAVAILABLE, refused.to_string()),
        Ok(handle) => match handle.await {
            Ok(text) => (StatusCode::OK, text),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        },
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    Ok(response)
}

/// Serves until `end`; then answers what has been asked, and closes every conversation.
pub(crate) async fn serve(
    listener: TcpListener,
    sessions: Workers<Session>,
    end: impl Future<Output = ()>,
) -> io::Result<ShutdownReport> {
    let sessions = Arc::new(sessions);
    let (ending, _) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut end = pin!(end);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            Some(_) = connections.join_next() => continue,
            () = &mut end => break,
        };
        let (sessions, mut ended) = (Arc::clone(&sessions), ending.subscribe());
        connections.spawn(async move {
            let service = service_fn(|request| answer(Arc::clone(&sessions), request));
            let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            let mut serving = pin!(serving);
            tokio::select! {
                served = serving.as_mut() => return served,
                _ = ended.changed() => serving.as_mut().graceful_shutdown(),
            }
            serving.await
        });
    }
    drop(ending);
    while connections.join_next().await.is_some() {}
    Ok(spawn_blocking(move || sessions.shutdown(Duration::from_secs(5))).await?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    println!("listening on {}", listener.local_addr()?);
    let end = async { tokio::signal::ctrl_c().await.expect("signals can be had") };
    let report = serve(listener, sessions(), end).await?;
    println!("ended: {report:?}");
    Ok(())
}
