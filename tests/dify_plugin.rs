//! The plugin's side: our plugin on our daemon, over real sockets and as a real child.

#![cfg(all(feature = "dify", unix))]

#[path = "support/dify.rs"]
mod dify;
mod support;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use dify::{endpoint, example};
use serde_json::{Value, json};
use sessile::session::SessionError;
use sessile::session::dify::{
    ActionError, Daemon, Dify, Environment, ErrorType, HostedPlugin, HttpRequest, HttpResponse,
    InvokeKind, LateInvocations, Plugin, PluginEvent, ReverseCall, RunningPlugin, Setting,
    ToolMessage,
};
use support::{PATIENCE, poll_until, promptly};

fn manifest() -> Value {
    json!({"author": "sessile", "name": "test", "version": "0.0.1"})
}

/// Keeps what is stored, says twice what an app is asked, and refuses all else.
fn daemon() -> Daemon {
    let store = Mutex::new(HashMap::new());
    Daemon::new("a key").on_invocation(move |invoked: ReverseCall| {
        let asked: Value = invoked.parse().unwrap();
        match invoked.kind() {
            "app" => {
                for seq in 0..2 {
                    invoked.send(&json!({"seq": seq, "tag": asked["query"]})).unwrap();
                }
                invoked.finish();
            }
            "storage" => {
                let key = asked["key"].as_str().unwrap().to_owned();
                let mut store = store.lock().unwrap();
                let data = match asked["opt"].as_str().unwrap() {
                    "set" => {
                        store.insert(key, asked["value"].clone());
                        json!("ok")
                    }
                    "del" => {
                        store.remove(&key);
                        json!("ok")
                    }
                    "exist" => json!(store.contains_key(&key)),
                    _ => match store.get(&key) {
                        Some(value) => value.clone(),
                        None => return invoked.fail("there is no such key"),
                    },
                };
                invoked.respond(&json!({"data": data})).unwrap();
            }
            _ => invoked.fail("permission denied"),
        }
    })
}

fn meet(daemon: &Daemon, plugin: Plugin) -> (HostedPlugin, RunningPlugin) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let running = plugin.run(&Environment::remote(address, "a key")).unwrap();
    (daemon.accept(&listener, PATIENCE).unwrap(), running)
}

fn get(target: &str) -> HttpRequest {
    HttpRequest::new("GET", target, "")
}

fn ask(hosted: &HostedPlugin, target: &str) -> HttpResponse {
    hosted.endpoint(&get(target), &json!({"colour": "red"})).unwrap()
}

#[test]
fn a_plugin_is_not_what_it_declares() {
    let icon = vec![7; 20_000];
    let plugin = Plugin::new(manifest())
        .asset("icon.svg", icon.clone())
        .asset("empty.svg", "")
        .endpoint("GET", "/hello", |_| Ok(()))
        .tool("desk", "count", |_| Ok(()))
        .endpoint_setting(Setting::secret("key"));
    let (hosted, _running) = meet(&daemon(), plugin);
    let told = hosted.declarations();
    assert_eq!(
        (&told.manifest["name"], &told.manifest["type"]),
        (&json!("test"), &json!("plugin"))
    );
    assert_eq!(told.declarations["endpoint_declaration"]["endpoints"][0]["path"], "/hello");
    assert_eq!(told.declarations["tool_declaration"]["tools"][0]["identity"]["name"], "count");
    assert_eq!(told.declarations["endpoint_declaration"]["settings"][0]["name"], "key");
    assert_eq!((told.assets.len(), &told.assets["icon.svg"]), (1, &icon)); // an empty file sends nothing
}

#[test]
fn an_endpoint_answers_badly_or_not_at_all() {
    let plugin = Plugin::new(manifest())
        .endpoint("POST", "/echo", |request| {
            let said = format!("{} {}", request.settings()["colour"], request.http().body.len());
            Ok(request.respond(HttpResponse::text(said).header("X-Test", "yes"))?)
        })
        .endpoint("GET", "/stream", |request| {
            request.begin(HttpResponse::text("begun;"))?;
            Ok((0..3).try_for_each(|n| request.write(format!("{n};").as_bytes()))?)
        })
        .endpoint("GET", "/fails", |_| anyhow::bail!("on purpose"))
        .endpoint("GET", "/panics", |_| panic!("on purpose"))
        .endpoint("GET", "/silent", |_| Ok(()))
        .endpoint("GET", "/twice", |request| {
            request.respond(HttpResponse::text("once"))?;
            assert!(request.respond(HttpResponse::text("twice")).unwrap_err().is_ended());
            Ok(())
        });
    let (hosted, _running) = meet(&daemon(), plugin);
    let echoed = hosted
        .endpoint(&HttpRequest::new("POST", "/echo?a=1", "12345"), &json!({"colour": "red"}))
        .unwrap();
    assert_eq!((echoed.status, &*echoed.body), (200, &b"\"red\" 5"[..]));
    assert_eq!(echoed.headers["X-Test"], "yes");
    assert_eq!(ask(&hosted, "/stream").body, b"begun;0;1;2;");
    for (target, status, why) in [
        ("/fails", 500, "on purpose"),
        ("/panics", 500, "on purpose"),
        ("/silent", 500, "no answer"),
        ("/nowhere", 404, "Not Found"),
        ("/twice", 200, "once"),
    ] {
        let response = ask(&hosted, target);
        let body = String::from_utf8(response.body).unwrap();
        assert_eq!(response.status, status, "{target}");
        assert!(body.contains(why), "{target}: {body}");
    }
}

#[test]
fn a_tool_answers_badly_or_not_at_all() {
    let plugin = Plugin::new(manifest())
        .tool("desk", "count", |task| {
            let to: u64 = task.parameter("to")?;
            (0..to).try_for_each(|n| task.send(ToolMessage::text(n.to_string())))?;
            Ok(task.send(ToolMessage::json(json!({"all": to})))?)
        })
        .on("model.get_llm_num_tokens", |task| Ok(task.answer(&json!({"num_tokens": 7}))?));
    let (hosted, _running) = meet(&daemon(), plugin);
    let said = |provider: &str, parameters: Value| -> Result<Vec<Value>, SessionError> {
        let reply = hosted.tool(provider, "count", &parameters)?;
        reply.map(|piece| Ok(piece?.value().unwrap())).collect()
    };
    for provider in ["desk", "sessile/test/desk"] {
        let messages = said(provider, json!({"to": 2})).unwrap();
        assert_eq!(messages[1], json!({"type": "text", "message": {"text": "1"}, "meta": null}));
        assert_eq!(messages[2]["message"]["json_object"]["all"], 2);
    }
    let error = said("desk", json!({})).unwrap_err();
    assert!(error.remote().unwrap().message.contains("the parameter `to` is missing"), "{error}");
    assert!(said("elsewhere", json!({})).unwrap_err().remote().is_some());
    let tokens = hosted.request("model", "get_llm_num_tokens", &json!({})).unwrap();
    let tokens: Vec<_> = tokens.map(|piece| piece.unwrap().value().unwrap()).collect();
    assert_eq!(tokens, [json!({"num_tokens": 7})]);
    // What nothing handles is an error, not an answer of nothing.
    let mut unhandled = hosted.request("oauth", "get_credentials", &json!({})).unwrap();
    let error = unhandled.next().unwrap().unwrap_err();
    assert!(error.remote().unwrap().message.contains("oauth.get_credentials"), "{error}");
}

/// What the project exists for: handler first, callers after it, and none is lost, torn, hung or late.
#[test]
fn calls_of_threads_that_outlive_their_handler_are_lost() {
    promptly("all are answered", || {
        let (tell, told) = mpsc::channel::<Result<Vec<Value>, SessionError>>();
        let plugin = Plugin::new(manifest()).endpoint("GET", "/go", move |request| {
            for thread in 0..24 {
                let (dify, tell) = (request.dify(), tell.clone());
                thread::spawn(move || {
                    for row in 0..20 {
                        let answers =
                            dify.chat("app", &format!("{thread}-{row}"), &json!({}), None);
                        let answers = answers.and_then(|all| {
                            all.into_iter()
                                .map(|piece| Ok(piece?.value().unwrap()["tag"].clone()))
                                .collect()
                        });
                        tell.send(answers).unwrap();
                    }
                });
            }
            Ok(request.respond(HttpResponse::text("at once"))?)
        });
        let (hosted, _running) = meet(&daemon(), plugin);
        let reply = hosted.begin_endpoint(&get("/go"), &json!({})).unwrap();
        assert_eq!(reply.response().body, b"at once");
        let mut heard: Vec<_> = (0..24 * 20).map(|_| told.recv().unwrap().unwrap()).collect();
        assert!(heard.iter().all(|answers| answers.len() == 2 && answers[0] == answers[1]));
        heard.sort_by_key(|answers| answers[0].to_string());
        heard.dedup();
        assert_eq!(heard.len(), 24 * 20, "an answer went to another caller");
        assert_eq!(reply.count(), 0);
        assert_eq!((hosted.stats().malformed, hosted.stats().late), (0, 0));
    });
}

/// A call on behalf of a session that the daemon has ended is dropped there without a word: it must not
/// be made, or not be waited for.
#[test]
fn a_call_after_the_end_waits_for_an_answer_that_cannot_come() {
    let (tell, told) = mpsc::channel::<Dify>();
    let plugin = || {
        let tell = tell.clone();
        Plugin::new(manifest()).endpoint("GET", "/go", move |request| {
            tell.send(request.dify()).unwrap();
            Ok(request.respond(HttpResponse::text("at once"))?)
        })
    };
    // The daemon's HTTP client has gone away; the plugin cannot know.
    for (late, limit) in [(LateInvocations::Refuse, 60_000), (LateInvocations::Drop, 200)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let environment =
            Environment::remote(address, "a key").invocation_timeout(Duration::from_millis(limit));
        let running = plugin().run(&environment).unwrap();
        let hosted = daemon().late_invocations(late).accept(&listener, PATIENCE).unwrap();
        let reply = hosted.begin_endpoint(&get("/go"), &json!({})).unwrap();
        let dify = told.recv_timeout(PATIENCE).unwrap();
        assert!(dify.storage_exists("k").is_ok(), "the session is held open");
        drop(reply);
        assert_eq!(ask(&hosted, "/nowhere").status, 404); // the daemon has come past the end
        let error = dify.storage_exists("k").unwrap_err();
        match late {
            LateInvocations::Refuse => {
                assert_eq!(error.remote().unwrap().message, "the session has ended")
            }
            _ => assert!(error.is_timeout(), "{error:?}"),
        }
        drop(running);
        let error = dify.storage_exists("k").unwrap_err();
        assert!(error.is_closed(), "{error:?}");
    }
}

#[test]
fn what_is_kept_or_refused_is_told_wrongly() {
    let (tell, told) = mpsc::channel();
    let plugin = Plugin::new(manifest()).endpoint("GET", "/go", move |request| {
        let dify = request.dify();
        dify.storage_set("k", b"\x00\xffvalue")?;
        assert_eq!(dify.storage_get("k")?, b"\x00\xffvalue");
        assert!(dify.storage_exists("k")?);
        dify.storage_delete("k")?;
        assert!(!dify.storage_exists("k")?);
        let gone = dify.storage_get("k").unwrap_err();
        assert_eq!(gone.remote().unwrap().message, "there is no such key");
        for kind in [InvokeKind::Llm, InvokeKind::Tts, InvokeKind::FetchApp] {
            let refused = dify.call::<Value, _>(kind, &json!({})).unwrap_err();
            assert_eq!(refused.remote().unwrap().message, "permission denied");
        }
        assert!(dify.summary("text", "shorten").unwrap_err().remote().is_some());
        tell.send(()).unwrap();
        Ok(request.respond(HttpResponse::text("done"))?)
    });
    let (hosted, _running) = meet(&daemon(), plugin);
    assert_eq!(String::from_utf8(ask(&hosted, "/go").body).unwrap(), "done");
    told.recv_timeout(PATIENCE).unwrap();
}

/// As the SDK does not: what is in flight fails at once, and one connection is made anew, declared anew.
#[test]
fn a_lost_connection_leaves_calls_waiting_or_is_made_twice() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, told) = mpsc::channel();
    let plugin = Plugin::new(manifest()).endpoint("GET", "/go", move |request| {
        let dify = request.dify();
        let calls: Vec<_> =
            (0..8).map(|n| dify.chat("app", &n.to_string(), &json!({}), None)).collect();
        tell.send(calls).unwrap();
        Ok(())
    });
    let running = plugin.run(&Environment::remote(address, "a key")).unwrap();
    let (gate, held) = (Arc::new(support::Gate::new()), Arc::new(Mutex::new(Vec::new())));
    let (passes, holds) = (Arc::clone(&gate), Arc::clone(&held));
    let daemon = Daemon::new("a key").threads(8).on_invocation(move |invoked| {
        holds.lock().unwrap().push(invoked);
        passes.pass();
    });
    let first = daemon.accept(&listener, PATIENCE).unwrap();
    let reply = first.request("endpoint", "invoke_endpoint", &endpoint("/go"));
    poll_until("all are in flight", || held.lock().unwrap().len() == 8);
    gate.open();
    assert!(first.close(PATIENCE));
    drop(reply);
    for call in told.recv_timeout(PATIENCE).unwrap() {
        assert!(call.unwrap().into_iter().last().unwrap().unwrap_err().is_lost());
    }
    let second = daemon.accept(&listener, PATIENCE).unwrap();
    assert_eq!(second.declarations().manifest["name"], "test");
    assert_eq!(running.stats().connections, 2);
    held.lock().unwrap().clear();
}

#[test]
fn a_refusal_is_not_told_or_the_key_is() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let plugin = Plugin::new(manifest()).tool("t", "t", |_| Ok(()));
    let environment = Environment::remote(address, "hunter2");
    assert!(!format!("{environment:?}").contains("hunter2"));
    let running = plugin.run(&environment).unwrap();
    let error = daemon().accept(&listener, PATIENCE).unwrap_err();
    assert!(!format!("{error:?} {running:?}").contains("hunter2"));
    poll_until("the plugin is told", || running.refusal().is_some());
    assert_eq!(running.refusal().unwrap(), "handshake failed, invalid key");
}

#[test]
fn bad_handshakes_are_taken_or_wait_for_ever() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let key = "{\"type\":\"handshake\",\"data\":{\"key\":\"a key\"}}\n";
    for (said, heard) in [
        ("nonsense\n".to_owned(), "handshake failed, invalid handshake message\n"),
        (
            "{\"type\":\"end\",\"data\":{}}\n".to_owned(),
            "handshake failed, invalid handshake message\n",
        ),
        (
            format!("{key}{{\"type\":\"end\",\"data\":{{}}}}\n"),
            "no registration transferred, cannot initialize\n",
        ),
    ] {
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.write_all(said.as_bytes()).unwrap();
        assert!(daemon().accept(&listener, PATIENCE).unwrap_err().is_connect());
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert_eq!(line, heard);
    }
    let error = daemon().accept(&listener, Duration::from_millis(20)).unwrap_err();
    assert!(error.is_connect());
}

/// The example as a real child, over its standard input and output; it ends when its input does.
#[test]
fn a_plugin_over_standard_output_is_not_heard_or_stays_behind() {
    let hosted = daemon().spawn(Command::new(example()), PATIENCE).unwrap();
    let response = ask(&hosted, "/probe?threads=4&rows=5&app=app");
    assert_eq!((response.status, &*response.body), (200, &b"at once"[..]));
    assert_eq!(hosted.stats().requests, 20);
    assert_eq!(hosted.stats().malformed, 0);
    let begun = Instant::now();
    assert!(hosted.close(PATIENCE));
    assert!(begun.elapsed() < PATIENCE);
}

/// All wait for Dify at the same time: nobody is answered before the last has asked.
#[test]
fn four_hundred_handlers_wait_for_dify_at_once() {
    promptly("all are answered", || {
        let together = Arc::new(std::sync::Barrier::new(400));
        let daemon = Daemon::new("a key").on_invocation(move |call: ReverseCall| {
            together.wait();
            call.respond(&json!({"data": true})).unwrap();
        });
        let plugin = Plugin::new(manifest()).tool("desk", "wait", |request| {
            assert!(request.dify().storage_exists("k")?);
            Ok(request.send(ToolMessage::text("done"))?)
        });
        let (hosted, _running) = meet(&daemon, plugin);
        let replies: Vec<_> =
            (0..400).map(|_| hosted.tool("desk", "wait", &json!({})).unwrap()).collect();
        assert!(replies.into_iter().all(|reply| reply.map(Result::unwrap).count() == 1));
    });
}

#[test]
fn an_error_has_the_type_that_dify_tells_apart() {
    let plugin = Plugin::new(manifest())
        .tool("desk", "limit", |_| {
            let error = ActionError::new(ErrorType::RateLimit, "three a day");
            Err(anyhow::Error::new(error).context("asking the service"))
        })
        .tool("desk", "plain", |_| anyhow::bail!("on purpose"))
        .validate_credentials("desk", |request| {
            let key: String = request.credential("key")?;
            anyhow::ensure!(key == "right", "the key is wrong");
            Ok(())
        });
    let (hosted, _running) = meet(&daemon(), plugin);
    let told = |mut reply: sessile::session::dify::Reply| {
        let error = reply.next().unwrap().unwrap_err();
        let error = error.remote().unwrap().clone();
        let data = error.data.unwrap().value().unwrap();
        (error.message, data["error_type"].as_str().unwrap().to_owned())
    };
    let (why, kind) = told(hosted.tool("desk", "limit", &json!({})).unwrap());
    assert_eq!((&*why, &*kind), ("asking the service: three a day", "InvokeRateLimitError"));
    let (_, kind) = told(hosted.tool("desk", "plain", &json!({})).unwrap());
    assert_eq!(kind, "Exception");
    let check = |credentials: Value| {
        let fields = json!({"provider": "sessile/test/desk", "credentials": credentials});
        hosted.request("tool", "validate_tool_credentials", &fields).unwrap()
    };
    let (why, kind) = told(check(json!({"key": "wrong"})));
    assert_eq!((&*why, &*kind), ("the key is wrong", "ToolProviderCredentialValidationError"));
    let (why, _) = told(check(json!({})));
    assert!(why.contains("`key` is missing"), "{why}");
    let answer = check(json!({"key": "right"})).next().unwrap().unwrap().value().unwrap();
    assert_eq!(answer, json!({"result": true}));
    // Nobody checks these.
    let fields = json!({"provider": "elsewhere", "credentials": {}});
    let unchecked = hosted.request("tool", "validate_tool_credentials", &fields).unwrap();
    assert!(told(unchecked).0.contains("elsewhere"));
}

/// What a local plugin may say in one line, 5 MiB, is not what it may answer.
#[test]
fn what_is_long_goes_out_in_pieces_and_what_cannot_be_cut_is_refused_before_it_is_sent() {
    let (tell, told) = mpsc::channel();
    let plugin = Plugin::new(manifest())
        .endpoint("GET", "/long", |request| {
            Ok(request.respond(HttpResponse::new(200, vec![b'x'; 9 << 20]))?)
        })
        .max_message_size(5 << 20)
        .tool("desk", "long", move |request| {
            request.send(ToolMessage::text("x".repeat(6 << 20)))?;
            let whole = request.send(ToolMessage::json(json!({"x": "x".repeat(6 << 20)})));
            tell.send(whole.unwrap_err().is_too_large()).unwrap();
            Ok(request.send(ToolMessage::text("end"))?)
        });
    let (hosted, _running) = meet(&daemon(), plugin);
    assert_eq!(ask(&hosted, "/long").body.len(), 9 << 20);
    let pieces = hosted.tool("desk", "long", &json!({})).unwrap();
    let text: String = pieces
        .map(|piece| {
            piece.unwrap().value().unwrap()["message"]["text"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(text.len(), (6 << 20) + 3);
    assert!(told.recv_timeout(PATIENCE).unwrap());
}

#[test]
fn a_refused_plugin_says_so_and_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let plugin = Plugin::new(manifest()).tool("t", "t", |_| Ok(()));
    let refuses = thread::spawn(move || daemon().accept(&listener, PATIENCE).unwrap_err());
    let error = match plugin.run(&Environment::remote(address, "wrong")) {
        Ok(running) => running.wait().unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.refusal(), Some("handshake failed, invalid key"));
    assert!(format!("{error:?}").contains("invalid key"));
    assert!(refuses.join().unwrap().is_connect());
}

/// What the daemon says of itself, being busy, is told and tried again; it is forgotten when it is over.
#[test]
fn a_busy_daemon_is_tried_again_and_its_refusal_does_not_outlive_its_cause() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, told) = mpsc::channel();
    let plugin = Plugin::new(manifest()).tool("t", "t", |_| Ok(())).on_event(move |event| {
        tell.send(event.clone()).unwrap();
    });
    let busy = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        lines.find(|line| line.as_ref().unwrap().contains(r#""type":"end""#)).unwrap().unwrap();
        stream.write_all(b"server is busy now, please try again later\n").unwrap();
        listener
    });
    let running = plugin.run(&Environment::remote(address, "a key")).unwrap();
    let PluginEvent::Refused { why, tries_again } = told.recv_timeout(PATIENCE).unwrap() else {
        panic!("it is another event")
    };
    assert!(tries_again && why.starts_with("server is busy"), "{why}");
    let listener = busy.join().unwrap();
    let hosted = daemon().accept(&listener, PATIENCE).unwrap();
    assert!(hosted.tool("t", "t", &json!({})).unwrap().next().is_none());
    assert_eq!(running.refusal(), None);
}

#[test]
fn a_child_that_ends_before_it_tells_of_itself_is_an_error_at_once() {
    let begun = Instant::now();
    let wait = 10 * PATIENCE;
    let error = daemon().spawn(Command::new("false"), wait).unwrap_err();
    assert!(error.is_connect());
    assert!(begun.elapsed() < wait / 2);
    let hosted = daemon().spawn(Command::new(example()), PATIENCE).unwrap();
    let long = HttpRequest::new("POST", "/nowhere", vec![b'x'; 8 << 20]);
    assert_eq!(hosted.endpoint(&long, &json!({})).unwrap().status, 404);
}
