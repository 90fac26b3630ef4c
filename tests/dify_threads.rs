//! Our plugin in the settings in which Dify's own SDK was seen to lose calls, tear frames, hang, or be
//! late. Its threads are the system's.

#![cfg(all(feature = "dify", unix))]

#[path = "support/dify.rs"]
mod dify;
mod support;

use std::net::TcpListener;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use dify::endpoint;
use serde_json::{Value, json};
use sessile::session::SessionError;
use sessile::session::dify::{
    Daemon, Dify, EndpointRequest, Environment, HostedPlugin, HttpResponse, Plugin, Reply,
    ReverseCall, RunningPlugin,
};
use support::{PATIENCE, poll_until, promptly};

/// Says twice what an app is asked, at once.
fn says_twice(invoked: ReverseCall) {
    let asked: Value = invoked.parse().unwrap();
    (0..2).for_each(|seq| invoked.send(&json!({"seq": seq, "tag": asked["query"]})).unwrap());
    invoked.finish();
}

/// Asks an app, and takes all it says.
fn chat(dify: &Dify, tag: &str) -> Result<(), SessionError> {
    let pieces = dify.chat("app", tag, &json!({}), None)?;
    let pieces = pieces.into_iter().map(|piece| Ok(piece?.value().unwrap()));
    let said = pieces.collect::<Result<Vec<_>, SessionError>>()?;
    assert_eq!(said, [0, 1].map(|seq| json!({"seq": seq, "tag": tag})), "torn, cut, or another's");
    Ok(())
}

/// So many threads ask so often each, and none of it is lost. How long each took.
fn all_chat(dify: &Dify, threads: usize, rows: usize) -> Vec<Duration> {
    let callers: Vec<_> = (0..threads)
        .map(|thread| {
            let dify = dify.clone();
            thread::spawn(move || -> Vec<Duration> {
                let one = |row| {
                    let begun = Instant::now();
                    chat(&dify, &format!("t{thread}-{row}")).unwrap();
                    begun.elapsed()
                };
                (0..rows).map(one).collect()
            })
        })
        .collect();
    let mut took: Vec<_> = callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
    took.sort();
    took
}

type Act = dyn Fn(&mut EndpointRequest) -> anyhow::Result<()> + Send + Sync;

/// A plugin whose one endpoint does this, at a daemon, over TCP.
fn meet(
    daemon: &Daemon,
    act: impl Fn(&mut EndpointRequest) -> anyhow::Result<()> + Send + Sync + 'static,
) -> (HostedPlugin, RunningPlugin, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let manifest = json!({"author": "sessile", "name": "test", "version": "0.0.1"});
    let act: Box<Act> = Box::new(act);
    let plugin = Plugin::new(manifest).endpoint("GET", "/go", act);
    let running = plugin.run(&Environment::remote(address, "a key")).unwrap();
    (daemon.accept(&listener, PATIENCE).unwrap(), running, listener)
}

fn go(hosted: &HostedPlugin) -> Reply {
    hosted.request("endpoint", "invoke_endpoint", &endpoint("/go")).unwrap()
}

/// Nothing that either side said was torn, or went to somebody else.
fn is_whole(hosted: &HostedPlugin, running: &RunningPlugin) {
    for stats in [hosted.stats(), running.stats()] {
        assert_eq!((stats.malformed, stats.unknown, stats.late), (0, 0, 0), "{stats:?}");
    }
}

#[test]
fn calls_of_threads_are_lost_or_torn_over_tcp() {
    promptly("all are answered", || {
        let daemon = Daemon::new("a key").on_invocation(says_twice);
        let (hosted, running, _) = meet(&daemon, |request| {
            all_chat(&request.dify(), 8, 50);
            Ok(request.respond(HttpResponse::text("done"))?)
        });
        assert_eq!(go(&hosted).filter(Result::is_ok).count(), 1);
        assert_eq!(hosted.stats().requests, 400);
        is_whole(&hosted, &running);
    });
}

/// The example, as a child of the daemon's.
#[test]
fn calls_of_threads_are_lost_or_torn_over_standard_output() {
    let daemon = Daemon::new("a key").on_invocation(says_twice);
    let said: Arc<Mutex<Vec<u8>>> = Arc::default();
    let hears = Arc::clone(&said);
    let daemon = daemon.on_stderr(move |said| hears.lock().unwrap().extend_from_slice(said));
    let hosted = daemon.spawn(Command::new(dify::example()), PATIENCE).unwrap();
    let fields = endpoint("/probe?threads=8&rows=50&app=app");
    let reply = hosted.request("endpoint", "invoke_endpoint", &fields).unwrap();
    let pieces = promptly("all are answered", || reply.filter(Result::is_ok).count());
    assert_eq!(pieces, 1);
    assert_eq!((hosted.stats().requests, hosted.stats().malformed), (400, 0));
    let read = || String::from_utf8(said.lock().unwrap().clone()).unwrap();
    poll_until("it reports", || read().ends_with('\n'));
    assert_eq!(read(), "400 calls, 0 lost\n");
}

/// With Nagle's algorithm against delayed acknowledgements each takes 40 ms.
#[test]
fn a_call_over_tcp_waits_for_an_acknowledgement() {
    promptly("all are answered", || {
        let daemon = Daemon::new("a key").on_invocation(says_twice);
        let (tell, told) = mpsc::channel();
        let (hosted, _running, _) = meet(&daemon, move |request| {
            for threads in [1, 8] {
                tell.send(all_chat(&request.dify(), threads, 40)).unwrap();
            }
            Ok(request.respond(HttpResponse::text("done"))?)
        });
        assert_eq!(go(&hosted).filter(Result::is_ok).count(), 1);
        for _ in 0..2 {
            let took = told.recv().unwrap();
            let median = took[took.len() / 2];
            assert!(median < Duration::from_millis(30), "{median:?}");
        }
    });
}

/// The handlers' own threads call at the same time as those that they have started.
#[test]
fn calls_of_handlers_and_of_their_threads_wait_for_each_other() {
    promptly("all are answered", || {
        let daemon = Daemon::new("a key").on_invocation(says_twice);
        let (tell, told) = mpsc::channel();
        let together = Barrier::new(8);
        let (hosted, running, _) = meet(&daemon, move |request| {
            together.wait();
            let (dify, tell) = (request.dify(), tell.clone());
            thread::spawn(move || tell.send(all_chat(&dify, 2, 10).len()).unwrap());
            (0..10).try_for_each(|row| chat(&request.dify(), &row.to_string()))?;
            Ok(request.respond(HttpResponse::text("done"))?)
        });
        let replies: Vec<_> = (0..8).map(|_| go(&hosted)).collect();
        for reply in replies {
            assert_eq!(reply.filter(Result::is_ok).count(), 1);
        }
        let calls: usize = (0..8).map(|_| told.recv().unwrap()).sum();
        assert_eq!((calls, hosted.stats().requests), (160, 240));
        is_whole(&hosted, &running);
    });
}

#[test]
fn calls_after_a_lost_connection_fail_or_wait_for_those_before_it() {
    promptly("all have ended", || {
        let (is_second, held) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(vec![])));
        let (answers, holds) = (Arc::clone(&is_second), Arc::clone(&held));
        let daemon = Daemon::new("a key").on_invocation(move |invoked| {
            if answers.load(Ordering::SeqCst) {
                says_twice(invoked);
            } else {
                holds.lock().unwrap().push(invoked);
            }
        });
        let (tell, told) = mpsc::channel();
        let (first, running, listener) = meet(&daemon, move |request| {
            let dify = request.dify();
            let calls = (0..8).map(|n| {
                let dify = dify.clone();
                thread::spawn(move || chat(&dify, &n.to_string()))
            });
            tell.send(calls.collect::<Vec<_>>()).unwrap();
            Ok(request.respond(HttpResponse::text("done"))?)
        });
        let reply = go(&first);
        poll_until("all are in flight", || held.lock().unwrap().len() == 8);
        is_second.store(true, Ordering::SeqCst);
        assert!(first.close(PATIENCE));
        drop(reply);
        for call in told.recv().unwrap() {
            assert!(call.join().unwrap().unwrap_err().is_lost());
        }
        // One party connects again, once; and what is called then is answered.
        let second = daemon.accept(&listener, PATIENCE).unwrap();
        for _ in 0..25 {
            let reply = go(&second);
            for call in told.recv().unwrap() {
                call.join().unwrap().unwrap();
            }
            assert_eq!(reply.filter(Result::is_ok).count(), 1);
        }
        assert_eq!((running.stats().connections, second.stats().requests), (2, 200));
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "it has connected twice");
    });
}

#[test]
fn nine_hundred_who_wait_are_in_the_way_of_others_or_of_each_other() {
    const WAIT: usize = 900;
    promptly("all are answered", || {
        let held = Arc::new(Mutex::new(vec![]));
        let holds = Arc::clone(&held);
        let daemon = Daemon::new("a key").on_invocation(move |invoked| {
            let asked: Value = invoked.parse().unwrap();
            if asked["query"].as_str().unwrap().starts_with("held") {
                holds.lock().unwrap().push(invoked);
            } else {
                says_twice(invoked);
            }
        });
        let (tell, told) = mpsc::channel();
        let (hosted, running, _) = meet(&daemon, move |request| {
            let wait = (0..WAIT).map(|n| {
                let dify = request.dify();
                thread::spawn(move || chat(&dify, &format!("held{n}")).unwrap())
            });
            tell.send((wait.collect::<Vec<_>>(), request.dify())).unwrap();
            Ok(request.respond(HttpResponse::text("at once"))?)
        });
        let reply = go(&hosted);
        let (wait, dify) = told.recv().unwrap();
        poll_until("all wait", || held.lock().unwrap().len() == WAIT);
        assert_eq!(all_chat(&dify, 8, 50).len(), 400);
        // The last that asked is the first to be answered.
        while let Some(invoked) = held.lock().unwrap().pop() {
            says_twice(invoked);
        }
        wait.into_iter().for_each(|waits| waits.join().unwrap());
        drop(dify);
        assert_eq!(reply.filter(Result::is_ok).count(), 1);
        is_whole(&hosted, &running);
    });
}
