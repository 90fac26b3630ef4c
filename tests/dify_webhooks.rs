//! Webhooks: what goes on when the sender has left. Dify's daemon drops a session then, and ours does.

#![cfg(all(feature = "dify", unix))]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use serde_json::json;
use sessile::session::SessionError;
use sessile::session::dify::{
    Daemon, Environment, HostedPlugin, HttpRequest, HttpResponse, Manifest, Plugin, ReverseCall,
    RunningPlugin,
};
use support::{PATIENCE, promptly};

/// The HTTP side of Dify's daemon: it hands requests to the plugin, and drops a session when its client
/// leaves. What was dropped is told.
fn front(hosted: Arc<HostedPlugin>, hook_url: Option<String>) -> (String, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/e/hook/in", listener.local_addr().unwrap());
    let (tell, told) = mpsc::channel();
    let own = hook_url.unwrap_or(url.clone());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (hosted, own, tell) = (Arc::clone(&hosted), own.clone(), tell.clone());
            thread::spawn(move || serve(stream.unwrap(), &hosted, &own, &tell));
        }
    });
    (url, told)
}

fn serve(mut stream: TcpStream, hosted: &HostedPlugin, own: &str, tell: &mpsc::Sender<()>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let method = line.split(' ').next().unwrap().to_owned();
    let mut request = HttpRequest::new(method, "/in", "");
    loop {
        line.clear();
        lines.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        request.headers.push((name.to_lowercase(), value.to_owned()));
    }
    request.headers.retain(|(name, _)| name != "content-length");
    request.headers.push(("dify-hook-url".to_owned(), own.to_owned()));
    let mut reply = hosted.begin_endpoint(&request, &json!({})).unwrap();
    let head = format!("HTTP/1.1 {} \r\nConnection: close\r\n\r\n", reply.response().status);
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&reply.response().body.clone()).unwrap();
    // Who says that it leaves has its session dropped; who does not gets all there is.
    if request.header("leaves").is_some() {
        let _ = lines.read_to_end(&mut Vec::new());
        drop(reply);
        tell.send(()).unwrap();
    } else {
        while let Some(Ok(piece)) = reply.next() {
            stream.write_all(&piece).unwrap();
        }
    }
}

/// Posts, hears the answer, and leaves.
fn hook(url: &str, leaves: bool) -> String {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    let leaves = if leaves { "Leaves: yes\r\n" } else { "" };
    write!(stream, "POST /{path} HTTP/1.1\r\nHost: {host}\r\n{leaves}\r\n").unwrap();
    let mut heard = Vec::new();
    let mut piece = [0; 64];
    while !heard.ends_with(b"at once") {
        let read = stream.read(&mut piece).unwrap();
        assert_ne!(read, 0, "{}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&piece[..read]);
    }
    String::from_utf8(heard).unwrap()
}

type Outcome = Result<bool, SessionError>;

/// A plugin that answers at once, and asks Dify when it is told to; by `go_on`, or in the request's own
/// session.
fn meet(goes_on: bool) -> (HostedPlugin, RunningPlugin, mpsc::Sender<()>, mpsc::Receiver<Outcome>) {
    let ((may, waits), (tell, told)) = (mpsc::channel::<()>(), mpsc::channel());
    let waits = Arc::new(Mutex::new(waits));
    let plugin = Plugin::new(Manifest::new("sessile", "hook", "0.0.1")).endpoint(
        "POST",
        "/in",
        move |request| {
            let (waits, tell) = (Arc::clone(&waits), tell.clone());
            let work = move |dify: sessile::session::dify::Dify| {
                waits.lock().unwrap().recv()?;
                (0..20).try_for_each(|_| tell.send(dify.storage_exists("k")))?;
                Ok(())
            };
            if goes_on {
                request.go_on(work)?;
            } else {
                let dify = request.dify();
                thread::spawn(move || work(dify));
            }
            Ok(request.respond(HttpResponse::text("at once"))?)
        },
    );
    let daemon = Daemon::new("a key")
        .on_invocation(|call: ReverseCall| call.respond(&json!({"data": true})).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let environment =
        Environment::remote(address, "a key").invocation_timeout(Duration::from_millis(200));
    let environment = if goes_on { environment.invocation_timeout(PATIENCE) } else { environment };
    let running = plugin.run(&environment).unwrap();
    (daemon.accept(&listener, PATIENCE).unwrap(), running, may, told)
}

#[test]
fn what_goes_on_after_the_sender_has_left_is_answered_and_without_it_is_not() {
    promptly("all have ended", || {
        for goes_on in [true, false] {
            let (hosted, _running, may, told) = meet(goes_on);
            let hosted = Arc::new(hosted);
            let (url, dropped) = front(Arc::clone(&hosted), None);
            assert!(hook(&url, true).starts_with("HTTP/1.1 200"));
            dropped.recv().unwrap(); // the sender's session is no more
            may.send(()).unwrap();
            for _ in 0..20 {
                let outcome = told.recv().unwrap();
                match goes_on {
                    true => assert!(outcome.unwrap()),
                    false => assert!(outcome.is_err()),
                }
            }
        }
    });
}

#[test]
fn where_the_url_does_not_lead_back_the_work_is_done_in_the_senders_own_session() {
    promptly("all have ended", || {
        let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (hosted, _running, may, told) = meet(true);
        let (url, _) = front(Arc::new(hosted), Some(format!("http://{nowhere}/e/hook/in")));
        let waits = thread::spawn(move || hook(&url, false));
        may.send(()).unwrap();
        assert!((0..20).all(|_| told.recv().unwrap().unwrap()));
        waits.join().unwrap();
    });
}

#[test]
fn a_token_that_nobody_has_given_out_is_not_found_and_runs_nothing() {
    let (hosted, _running, _may, told) = meet(true);
    let mut request = HttpRequest::new("POST", "/in", "");
    request.headers.push(("sessile-errand".to_owned(), "0".repeat(32)));
    assert_eq!(hosted.endpoint(&request, &json!({})).unwrap().status, 404);
    assert!(told.try_recv().is_err());
}
