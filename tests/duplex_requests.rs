//! What can go wrong with what the peer asks for.

#![cfg(all(feature = "duplex", unix))]

#[path = "support/peer.rs"]
mod peer;
mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use peer::{Apart, Peer, SHORT, pair, pair_with};
use serde_json::{Value, json};
use sessile::session::duplex::{OverStream, Request, Session};
use sessile::session::{JsonRpc, Mcp, RemoteError};
use sessile::{Pool, Workers, from_fn};
use support::{FOR_EVER, Gate, PATIENCE, poll_until};

fn workers(threads: usize, queue: usize) -> Workers<()> {
    let pool = Pool::builder(from_fn(|_| ()));
    Workers::<()>::builder(pool).threads(threads).queue_capacity(queue).build().unwrap()
}

fn ask(peer: &Peer, id: &str, method: &str) {
    peer.say(&json!({"ask": id, "method": method}));
}

/// Hands requests to the test, to be answered there.
fn holding() -> (Session, Peer, peer::Place, mpsc::Receiver<Request>) {
    let (tell, told) = mpsc::channel();
    let (session, peer, place) = pair_with(Apart, move |builder| {
        builder.on_request(move |request| tell.send(request).unwrap())
    });
    (session, peer, place, told)
}

/// The failure that this is built against: a handler answers at once, and threads that it has started
/// go on calling back.
#[test]
fn calls_of_threads_that_outlive_their_handler_are_dropped_without_a_word() {
    let (done, over) = mpsc::channel();
    let (session, mut peer, _place) = pair_with(Apart, move |builder| {
        let done = Mutex::new(done);
        builder.request_handlers(workers(2, 16), move |(), request: Request| {
            for row in 0..24 {
                let (invoker, done) = (request.invoker(), done.lock().unwrap().clone());
                thread::spawn(move || {
                    let answers = invoker.invoke("chat", row).unwrap();
                    let heard: Vec<u64> =
                        answers.into_iter().map(|a| a.unwrap().parse().unwrap()).collect();
                    done.send((row, heard)).unwrap();
                });
            }
            request.respond("at once").unwrap();
        })
    });
    ask(&peer, "s", "go");
    let mut asked = Vec::new();
    let mut answered = false;
    while asked.len() < 24 || !answered {
        let frame = peer.hear().unwrap();
        assert!(frame.get("end").is_none(), "the end was said while callers were alive");
        match frame.get("ask") {
            Some(id) => {
                assert_eq!(frame["within"], "s");
                asked.push((id.as_u64().unwrap(), frame["params"].as_u64().unwrap()));
            }
            None => {
                assert_eq!(frame["item"], "at once");
                answered = true;
            }
        }
    }
    for (id, row) in asked {
        peer.say(&json!({"item": row * 10, "to": id}));
        peer.say(&json!({"end": id}));
    }
    let mut rows: Vec<_> = (0..24).map(|_| over.recv_timeout(PATIENCE).unwrap()).collect();
    rows.sort();
    assert!(
        rows.iter().enumerate().all(|(n, (row, heard))| *row == n as u64 && *heard == [row * 10])
    );
    // Only now nobody can call any more.
    assert_eq!(peer.hear().unwrap(), json!({"end": "s"}));
    assert_eq!(session.stats().in_flight, 0);
}

#[test]
fn an_end_that_was_said_on_purpose_lets_later_calls_wait() {
    let (_session, mut peer, _place, told) = holding();
    ask(&peer, "s", "m");
    let request = told.recv_timeout(PATIENCE).unwrap();
    let invoker = request.invoker();
    request.item(&1).unwrap();
    request.finish_now();
    let error = invoker.invoke("late", ()).unwrap_err();
    assert!(error.is_ended(), "{error:?}");
    drop(invoker);
    assert_eq!(peer.hear().unwrap()["item"], 1);
    assert_eq!(peer.hear().unwrap(), json!({"end": "s"}));
    // Once, and nothing after it.
    ask(&peer, "t", "m");
    told.recv_timeout(PATIENCE).unwrap().finish();
    assert_eq!(peer.hear().unwrap(), json!({"end": "t"}));
}

#[test]
fn an_invoker_that_is_forgotten_keeps_the_end_back_for_ever() {
    let (tell, told) = mpsc::channel();
    let (_session, mut peer, _place) = pair_with(Apart, move |builder| {
        builder.end_timeout(SHORT).on_request(move |request| tell.send(request).unwrap())
    });
    ask(&peer, "s", "m");
    let request = told.recv_timeout(PATIENCE).unwrap();
    let forgotten = request.invoker();
    request.respond(&1).unwrap();
    assert_eq!(peer.hear().unwrap()["item"], 1);
    assert_eq!(peer.hear().unwrap(), json!({"end": "s"}));
    assert!(forgotten.invoke("late", ()).unwrap_err().is_ended());
}

#[test]
fn a_request_that_is_dropped_or_whose_handler_panics_is_never_answered() {
    let (session, mut peer, _place) = pair(|builder| {
        builder.request_handlers(workers(1, 16), |(), request: Request| match request.method() {
            "panics" => panic!("on purpose"),
            "drops" => {}
            _ => request.respond(&true).unwrap(),
        })
    });
    for (id, method, why) in
        [(1, "panics", "the handler panicked"), (2, "drops", "the handler gave no answer")]
    {
        peer.say(&json!({"jsonrpc": "2.0", "id": id, "method": method}));
        let heard = peer.hear().unwrap();
        assert_eq!((&heard["id"], &heard["error"]["message"]), (&id.into(), &why.into()));
    }
    peer.say(&json!({"jsonrpc": "2.0", "id": "x", "method": "fine"}));
    assert_eq!(peer.hear().unwrap(), json!({"jsonrpc": "2.0", "id": "x", "result": true}));
    assert_eq!(session.stats().requests, 3);
}

#[test]
fn handlers_that_are_all_busy_block_the_session_or_fill_the_memory() {
    let gate = Gate::new();
    let held = gate.clone();
    let (session, mut peer, _place) = pair(move |builder| {
        builder.request_handlers(workers(1, 1), move |(), request: Request| {
            held.pass();
            request.respond(&()).unwrap();
        })
    });
    let say = |id| peer.say(&json!({"jsonrpc": "2.0", "id": id, "method": "m"}));
    say(1);
    gate.wait_for_arrival();
    (2..=5).for_each(say); // one may wait
    for id in [3, 4, 5] {
        let refused = peer.hear().unwrap();
        assert_eq!((&refused["id"], refused["error"]["code"].as_i64()), (&json!(id), Some(-32000)));
    }
    // Its own calls go on meanwhile.
    let call = session.invoker().invoke("m", ()).unwrap();
    let (id, _) = peer.asked();
    peer.answer(id, 1);
    assert_eq!(call.answer().unwrap().as_str(), "1");
    gate.open();
    for id in [1, 2] {
        assert_eq!(peer.hear().unwrap()["id"], id);
    }
}

#[test]
fn more_requests_than_may_be_are_taken() {
    let (tell, told) = mpsc::channel();
    let (_session, mut peer, _place) = pair(move |builder| {
        builder.max_requests(2).on_request(move |request| tell.send(request).unwrap())
    });
    for id in 1..=3 {
        peer.say(&json!({"jsonrpc": "2.0", "id": id, "method": "m"}));
    }
    assert_eq!(peer.hear().unwrap()["error"]["code"], -32000);
    for _ in 0..2 {
        told.recv_timeout(PATIENCE).unwrap().respond(&()).unwrap();
        peer.hear().unwrap();
    }
    peer.say(&json!({"jsonrpc": "2.0", "id": 4, "method": "m"}));
    told.recv_timeout(PATIENCE).unwrap().respond(&()).unwrap();
    assert_eq!(peer.hear().unwrap()["id"], 4);
}

#[test]
fn an_id_that_is_in_use_is_answered_twice() {
    let (session, mut peer, _place, told) = holding();
    ask(&peer, "s", "first");
    let request = told.recv_timeout(PATIENCE).unwrap();
    ask(&peer, "s", "second");
    poll_until("it is counted", || session.stats().malformed == 1);
    request.respond(&1).unwrap();
    assert_eq!(peer.hear().unwrap()["item"], 1);
    assert_eq!(peer.hear().unwrap(), json!({"end": "s"}));
    assert!(told.try_recv().is_err());
}

/// An id is free once it is answered, whatever the handler and its threads still do.
#[test]
fn an_id_that_is_used_again_after_its_answer_is_taken_for_one_in_use() {
    let kept = Mutex::new(Vec::new());
    let (session, mut peer, _place) = pair(move |builder| {
        builder.request_handlers(workers(2, 16), move |(), request: Request| {
            kept.lock().unwrap().push(request.invoker());
            let asked: u64 = request.parse().unwrap();
            request.respond(&asked).unwrap();
        })
    });
    for n in 0..2000 {
        peer.say(&json!({"jsonrpc": "2.0", "id": 1, "method": "m", "params": n}));
        assert_eq!(peer.hear().unwrap()["result"], n);
    }
    assert_eq!((session.stats().requests, session.stats().malformed), (2000, 0));
}

#[test]
fn a_request_that_ends_takes_the_next_one_of_its_id_with_it() {
    let (tell, told) = mpsc::channel();
    let (_session, mut peer, _place) =
        pair(move |builder| builder.on_request(move |request| tell.send(request).unwrap()));
    let ask = || peer.say(&json!({"jsonrpc": "2.0", "id": 1, "method": "m"}));
    ask();
    let first: Request = told.recv_timeout(PATIENCE).unwrap();
    let kept = first.invoker();
    first.respond(&1).unwrap();
    ask();
    let second = told.recv_timeout(PATIENCE).unwrap();
    drop(kept); // only now the first is over
    peer.say(&json!({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": 1}}));
    poll_until("the second is called off", || second.is_cancelled());
    assert_eq!(peer.hear().unwrap()["result"], 1);
}

#[test]
fn an_answer_to_a_connection_that_is_gone_goes_over_the_next() {
    let (tell, told) = mpsc::channel();
    let (session, peer, place) = pair_with(Apart, move |builder| {
        builder
            .reconnect(Duration::from_millis(1), SHORT)
            .drain_timeout(FOR_EVER)
            .on_request(move |request| tell.send(request).unwrap())
    });
    ask(&peer, "s", "m");
    let request = told.recv_timeout(PATIENCE).unwrap();
    let invoker = request.invoker();
    peer.die();
    assert!(request.wait_cancelled(PATIENCE), "it is told at once, not after draining");
    let mut next = place.accept();
    assert!(invoker.invoke("late", ()).unwrap_err().is_lost());
    assert!(request.is_cancelled());
    assert!(request.respond(&1).unwrap_err().is_lost());
    drop(invoker);
    ask(&next, "s", "m"); // the peer may use its id again
    told.recv_timeout(PATIENCE).unwrap().respond(&2).unwrap();
    assert_eq!(next.hear().unwrap()["item"], 2);
    assert_eq!(next.hear().unwrap(), json!({"end": "s"}));
    assert_eq!(session.stats().connections, 2);
}

#[test]
fn a_request_that_was_called_off_is_answered_only_where_the_protocol_says_so() {
    let (tell, told) = mpsc::channel();
    let (_session, mut peer, _place) = pair_with(Mcp::new(), move |builder| {
        builder.on_request(move |request| tell.send(request).unwrap())
    });
    peer.say(&json!({"jsonrpc": "2.0", "id": 1, "method": "m"}));
    let request: Request = told.recv_timeout(PATIENCE).unwrap();
    let cancel = json!({"method": "notifications/cancelled", "params": {"requestId": 1}});
    peer.say(&cancel);
    assert!(request.wait_cancelled(PATIENCE));
    assert!(request.respond(&1).unwrap_err().is_ended());
    peer.say(&json!({"jsonrpc": "2.0", "id": 2, "method": "m"}));
    told.recv_timeout(PATIENCE).unwrap().respond(&2).unwrap();
    assert_eq!(peer.hear().unwrap(), json!({"jsonrpc": "2.0", "id": 2, "result": 2}));

    let (tell, told) = mpsc::channel();
    let (_session, mut peer, _place) =
        pair(move |builder| builder.on_request(move |request| tell.send(request).unwrap()));
    for (id, say) in [(1, "respond"), (2, "fail"), (3, "drop")] {
        let params = json!({"partialResultToken": "p", "workDoneToken": "w"});
        peer.say(&json!({"jsonrpc": "2.0", "id": id, "method": "m", "params": params}));
        let request: Request = told.recv_timeout(PATIENCE).unwrap();
        let (woken, wakes) = mpsc::channel();
        assert!(!request.is_cancelled() && !request.wait_cancelled(Duration::ZERO));
        request.on_cancel(move || woken.send(()).unwrap());
        peer.say(&json!({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": id}}));
        wakes.recv_timeout(PATIENCE).unwrap(); // without looking again and again
        assert!(request.is_cancelled());
        let late = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&late);
        request.on_cancel(move || seen.store(true, Ordering::SeqCst));
        assert!(late.load(Ordering::SeqCst), "it has been called off already");
        assert!(request.item(&1).unwrap_err().is_ended(), "nobody wants it in pieces");
        assert!(request.progress(&json!({})).unwrap_err().is_ended());
        match say {
            "respond" => request.respond(&1).unwrap(),
            "fail" => request.fail(&RemoteError::new("no").with_code(-1)),
            _ => drop(request),
        }
        let heard = peer.hear().unwrap();
        assert_eq!(heard["id"], id);
        let code = heard["error"]["code"].as_i64();
        let is = [None, Some(-1), Some(RemoteError::REQUEST_CANCELLED)][id - 1];
        assert_eq!(code, is, "{heard}");
    }
}

#[test]
fn answers_of_a_stream_are_reordered_or_its_end_is_missing() {
    let (_session, mut peer, _place) = pair(|builder| {
        builder.request_handlers(workers(2, 16), |(), request: Request| {
            (0..100).for_each(|n| request.item(&n).unwrap());
            request.finish();
        })
    });
    let params = json!({"partialResultToken": "of theirs"});
    peer.say(&json!({"jsonrpc": "2.0", "id": "s", "method": "m", "params": params}));
    for n in 0..100 {
        let token = "of theirs";
        assert_eq!(peer.hear().unwrap()["params"], json!({"token": token, "value": n}));
    }
    assert_eq!(peer.hear().unwrap(), json!({"jsonrpc": "2.0", "id": "s", "result": null}));
}

#[test]
fn a_notification_is_lost_or_a_panic_over_it_ends_the_session() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    let (session, mut peer, _place) = pair(move |builder| {
        builder.on_notification(move |_, told| {
            assert!(told.method != "panic", "on purpose");
            let params: Value = told.parse().unwrap();
            hears.lock().unwrap().push((told.method, params));
        })
    });
    for method in ["one", "panic", "two"] {
        peer.say(&json!({"jsonrpc": "2.0", "method": method, "params": [1]}));
    }
    let call = session.invoker().invoke("m", ()).unwrap();
    let (id, _) = peer.asked();
    peer.answer(id, 1);
    call.answer().unwrap();
    let heard = heard.lock().unwrap();
    assert_eq!(*heard, [("one".to_owned(), json!([1])), ("two".to_owned(), json!([1]))]);
    assert_eq!(session.stats().panics, 1);
}

/// As with `cat requests | server`, and a client that closes its side for writing.
#[test]
fn what_was_asked_before_the_end_of_input_is_answered() {
    for inline in [true, false] {
        let (session, mut peer, _place) = pair(|builder| match inline {
            true => builder.on_request(|request| request.respond(&1).unwrap()),
            false => builder.handlers(workers(1, 16), |(), _| Ok(1)),
        });
        for id in 0..10 {
            peer.say(&json!({"jsonrpc": "2.0", "id": id, "method": "m"}));
        }
        peer.stream().shutdown(Shutdown::Write).unwrap();
        for id in 0..10 {
            assert_eq!(peer.hear().unwrap(), json!({"jsonrpc": "2.0", "id": id, "result": 1}));
        }
        assert_eq!(peer.hear(), None);
        assert!(session.wait_closed(PATIENCE));
        assert_eq!(session.stats().dropped_answers, 0);
    }
}

#[test]
fn a_batch_is_answered_in_one_frame_and_bad_parameters_by_their_number() {
    let (_session, mut peer, _place) = pair(|builder| {
        builder.handlers(workers(1, 16), |(), request| {
            let [a, b]: [i64; 2] = request.parse()?;
            Ok(a + b)
        })
    });
    let one = |id: u64, params: Value| json!({"jsonrpc": "2.0", "id": id, "method": "m", "params": params});
    peer.say(&json!([one(1, json!([1, 2])), 5, one(2, json!("x"))]));
    let heard = peer.hear().unwrap();
    let all = heard.as_array().expect("one frame for all");
    assert_eq!(all.len(), 3, "{heard}");
    let code = |code| all.iter().any(|one| one["error"]["code"] == code);
    assert!(code(-32602) && code(-32600), "{heard}");
    assert!(all.iter().any(|one| one["result"] == 3), "{heard}");
}

/// A peer that only says no more is answered, however long that takes; one that is gone is noticed as
/// soon as the stream tells. A Unix socket tells by itself, TCP once something was written.
#[test]
fn a_peer_that_is_gone_is_told_from_one_that_only_says_no_more() {
    fn held<S: Read + Write + AsFd + Send + 'static>(
        ours: S,
    ) -> (Session, mpsc::Receiver<Request>) {
        let (tell, told) = mpsc::channel();
        let builder = Session::builder(JsonRpc::new().partial_results()).drain_timeout(FOR_EVER);
        let builder = builder.on_request(move |request| tell.send(request).unwrap());
        (builder.connect(OverStream::new(ours)).unwrap(), told)
    }
    let params = json!({"partialResultToken": "t"});
    let line = format!("{}\n", json!({"jsonrpc": "2.0", "id": 1, "method": "m", "params": params}));
    let tcp = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, theirs)
    };
    let mut answer = String::new();

    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let (session, told) = held(ours);
    theirs.write_all(line.as_bytes()).unwrap();
    let request = told.recv_timeout(PATIENCE).unwrap();
    theirs.shutdown(Shutdown::Write).unwrap();
    poll_until("the end is seen", || session.wait_connected(Duration::ZERO).is_err());
    assert!(!request.wait_cancelled(SHORT));
    request.respond(&1).unwrap();
    theirs.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"result\":1"), "{answer}");
    assert!(session.wait_closed(PATIENCE));

    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let (session, told) = held(ours);
    theirs.write_all(line.as_bytes()).unwrap();
    let request = told.recv_timeout(PATIENCE).unwrap();
    theirs.shutdown(Shutdown::Write).unwrap();
    poll_until("the end is seen", || session.wait_connected(Duration::ZERO).is_err());
    drop(theirs);
    assert!(request.wait_cancelled(PATIENCE));
    assert!(session.wait_closed(PATIENCE));

    let (ours, mut theirs) = tcp();
    let (session, told) = held(ours);
    theirs.write_all(line.as_bytes()).unwrap();
    let request = told.recv_timeout(PATIENCE).unwrap();
    drop(theirs);
    poll_until("the end is seen", || session.wait_connected(Duration::ZERO).is_err());
    assert!(!request.is_cancelled(), "nobody can know yet");
    request.item(&1).unwrap(); // just one: its reset is noticed without another
    assert!(request.wait_cancelled(PATIENCE));
    assert!(session.wait_closed(PATIENCE));
}
