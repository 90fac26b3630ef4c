//! A Dify plugin whose endpoint answers at once, and whose threads go on calling an app after that.
//!
//! ```sh
//! cargo run --features dify --example dify_plugin -- --with-host   # beside a daemon of our own
//! INSTALL_METHOD=remote REMOTE_INSTALL_URL=localhost:5003 REMOTE_INSTALL_KEY=... \
//!     cargo run --features dify --example dify_plugin              # at a real one
//! ```
//!
//! The endpoint is `/probe?threads=8&rows=3&app=APP_ID`. With Dify's own SDK such calls hang: the
//! handler has returned, so the session has ended, and the daemon drops what comes after that without a
//! word. Here the session ends when the last thread is done with it.

use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use lexopt::ValueExt;
use serde_json::{Value, json};
use sessile::session::SessionError;
use sessile::session::dify::{
    Daemon, Dify, Environment, HttpRequest, HttpResponse, Manifest, Plugin, ReverseCall,
};

fn main() -> anyhow::Result<()> {
    let mut with_host = false;
    let (mut threads, mut rows) = (8, 3);
    let mut args = lexopt::Parser::from_env();
    while let Some(arg) = args.next()? {
        match arg {
            lexopt::Arg::Long("with-host") => with_host = true,
            lexopt::Arg::Long("threads") => threads = args.value()?.parse()?,
            lexopt::Arg::Long("rows") => rows = args.value()?.parse()?,
            other => return Err(other.unexpected().into()),
        }
    }
    if with_host { beside_a_host(threads, rows) } else { at_a_daemon() }
}

/// What the threads of one request report: for each call how long it took, or what went wrong.
type Report = Vec<Result<Duration, SessionError>>;

fn plugin(report: mpsc::Sender<Report>) -> Plugin {
    let manifest = Manifest::new("sessile", "probe", "0.0.1").label("Probe");
    let icon = "<svg xmlns='http://www.w3.org/2000/svg'/>";
    Plugin::new(manifest).asset("icon.svg", icon).endpoint("GET", "/probe", move |request| {
        let number = |name| request.http().parameter(name).and_then(|n| n.parse().ok());
        let (threads, rows) = (number("threads").unwrap_or(8), number("rows").unwrap_or(3));
        let app = request.http().parameter("app").unwrap_or("app".to_owned());
        let callers: Vec<_> = (0..threads)
            .map(|thread| {
                let (dify, app) = (request.dify(), app.clone());
                thread::spawn(move || call(&dify, &app, thread, rows))
            })
            .collect();
        let report = report.clone();
        thread::spawn(move || {
            let all = callers.into_iter().flat_map(|caller| caller.join().unwrap_or_default());
            let _ = report.send(all.collect());
        });
        Ok(request.respond(HttpResponse::text("at once"))?) // and the callers go on
    })
}

fn call(dify: &Dify, app: &str, thread: u32, rows: u32) -> Report {
    (0..rows)
        .map(|row| {
            let query = format!("t{thread}-{row}");
            let begun = Instant::now();
            let answers = dify.chat(app, &query, &json!({}), None)?;
            let answer: Result<Vec<_>, _> = answers.into_iter().collect();
            answer.map(|_| begun.elapsed())
        })
        .collect()
}

fn print(report: &Report) {
    let mut took: Vec<Duration> = report.iter().flatten().copied().collect();
    took.sort();
    let at = |part: usize| {
        took.get(took.len().saturating_sub(1) * part / 100).copied().unwrap_or_default()
    };
    for error in report.iter().filter_map(|call| call.as_ref().err()) {
        println!("lost: {error}");
    }
    println!(
        "{} calls after the answer: {} answered, {} lost; median {:.1?}, 99th percentile {:.1?}",
        report.len(),
        took.len(),
        report.len() - took.len(),
        at(50),
        at(99),
    );
}

fn at_a_daemon() -> anyhow::Result<()> {
    let (tell, told) = mpsc::channel();
    let environment = Environment::from_process()?;
    let plugin = plugin(tell).run(&environment)?;
    thread::spawn(move || {
        for report in told {
            // Standard output is the daemon's, where it is a pipe to it.
            eprintln!(
                "{} calls, {} lost",
                report.len(),
                report.iter().filter(|c| c.is_err()).count()
            );
        }
    });
    plugin.wait()?;
    Ok(())
}

fn beside_a_host(threads: u32, rows: u32) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let daemon = Daemon::new("a key").on_invocation(|invoked: ReverseCall| {
        let query = invoked.parse::<Value>().map(|request| request["query"].clone());
        let query = query.unwrap_or_default();
        for seq in 0..2 {
            let piece = json!({"event": "message", "seq": seq, "answer": query});
            if invoked.send(&piece).is_err() {
                return;
            }
        }
        invoked.finish();
    });
    let (tell, told) = mpsc::channel();
    let running = plugin(tell).run(&Environment::remote(address, "a key"))?;
    let hosted = daemon.accept(&listener, Duration::from_secs(10))?;

    let target = format!("/probe?threads={threads}&rows={rows}&app=app");
    let request = HttpRequest::new("GET", &target, "");
    let begun = Instant::now();
    let reply = hosted.begin_endpoint(&request, &json!({}))?;
    let answer = reply.response();
    println!("GET {target}");
    let text = String::from_utf8_lossy(&answer.body);
    println!("{} {text:?} after {:.1?}", answer.status, begun.elapsed());
    let report = told.recv_timeout(Duration::from_secs(60))?;
    print(&report);
    let rest = reply.count(); // the session ends when nobody can call back any more
    println!("the session ended after {:.1?}, with {rest} pieces more", begun.elapsed());
    anyhow::ensure!(report.iter().all(Result::is_ok), "calls were lost");
    running.close(Duration::from_secs(5));
    Ok(())
}
