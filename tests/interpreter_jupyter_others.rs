//! Kernels that others use or remove as well, behind real gateways.

#![cfg(all(feature = "jupyter", target_os = "linux"))]

#[path = "support/jupyter.rs"]
mod jupyter;
mod support;
#[path = "support/venv.rs"]
mod venv;

use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use jupyter::{Kind, Server, Signal, TOKEN};
use serde_json::{Value, json};
use sessile::interpreter::jupyter::Jupyter;
use sessile::interpreter::{ExecuteOptions, Execution, Interpreter};
use support::poll_until;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{Message, WebSocket};

fn run(kernel: &mut Jupyter, code: &str) -> Execution {
    kernel.run(code).unwrap_or_else(|error| panic!("{error}: {:?}\n{code}", error.outputs()))
}

/// Somebody else's connection to a kernel.
struct Other(WebSocket<TcpStream>);

impl Other {
    fn at(server: &Server, kernel: &Jupyter) -> Self {
        let port = server.port;
        let id = kernel.kernel_id().unwrap();
        let url = format!("ws://127.0.0.1:{port}/api/kernels/{id}/channels?session_id=somebody");
        let mut request = url.into_client_request().unwrap();
        let token = format!("token {TOKEN}").parse().unwrap();
        request.headers_mut().insert("Authorization", token);
        let tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
        tcp.set_nodelay(true).unwrap();
        tcp.set_read_timeout(Some(support::PATIENCE)).unwrap();
        Self(tungstenite::client(request, tcp).unwrap().0)
    }

    fn execute(&mut self, number: u32, code: &str) {
        let header = json!({
            "msg_id": format!("other-{number}"), "session": "somebody", "username": "other",
            "date": "2026-01-01T00:00:00Z", "msg_type": "execute_request", "version": "5.3",
        });
        let content = json!({
            "code": code, "silent": false, "store_history": true, "user_expressions": {},
            "allow_stdin": false, "stop_on_error": true,
        });
        let request = json!({
            "channel": "shell", "header": header, "parent_header": {}, "metadata": {},
            "content": content, "buffers": [],
        });
        self.0.send(Message::text(request.to_string())).unwrap();
    }

    /// Reads until its own cell with this number is idle.
    fn finish(&mut self, number: u32) {
        let id = format!("other-{number}");
        loop {
            let Message::Text(text) = self.0.read().unwrap() else { continue };
            let message: Value = serde_json::from_str(&text).unwrap();
            let idle = message["content"]["execution_state"] == "idle";
            if idle && message["parent_header"]["msg_id"] == *id {
                return;
            }
        }
    }
}

/// Each connection hears what the kernel says to any.
#[test]
fn what_a_kernel_says_to_somebody_else_is_in_no_cell_of_ours() {
    let server = Server::shared();
    for json in [false, true] {
        let mut kernel = server.builder().json_frames(json).build().unwrap().start().unwrap();
        let mut other = Other::at(&server, &kernel);
        run(&mut kernel, "x = 1");

        // Before ours: heard by us when we read next.
        other.execute(1, "print('theirs'); 1 / 0");
        other.finish(1);
        let execution = run(&mut kernel, "print('ours'); x");
        assert_eq!((&*execution.stdout(), &*execution.stderr()), ("ours\n", ""));
        assert_eq!(execution.text(), Some("1"));
        assert!(execution.error.is_none() && execution.late.is_empty(), "{execution:?}");

        // Amid ours: waits for it at the kernel. And one that waits before ours.
        let (theirs, ours) = (Signal::new(), Signal::new());
        other.execute(2, &format!("{}print('theirs again')\n2 + 2", theirs.wait()));
        thread::scope(|scope| {
            let cell =
                scope.spawn(|| run(&mut kernel, &format!("{}print('ours')\nx", ours.wait())));
            theirs.set();
            other.finish(2);
            other.execute(3, "'theirs for the third time'");
            ours.set();
            let execution = cell.join().unwrap();
            assert_eq!((&*execution.stdout(), execution.text()), ("ours\n", Some("1")));
            assert!(execution.late.is_empty(), "{execution:?}");
        });
        other.finish(3);
        let execution = run(&mut kernel, "x");
        assert_eq!((execution.outputs.len(), execution.text()), (0, Some("1")));
        assert_eq!(execution.execution_count, 7, "cells of both are counted");
    }
}

#[test]
fn a_kernel_that_the_gateway_culls_is_told_as_lost_and_replaced() {
    let server = Server::start(
        Kind::KernelGateway,
        &[
            "--MappingKernelManager.cull_idle_timeout=3",
            "--MappingKernelManager.cull_interval=1",
            "--MappingKernelManager.cull_connected=True",
        ],
    );
    let mut kernel = server.manager().start().unwrap();
    run(&mut kernel, "x = 1");
    poll_until("it is culled", || server.kernels().is_empty());
    let options = ExecuteOptions::new().timeout(Duration::from_secs(60));
    let error = kernel.execute("x", &options).unwrap_err();
    assert!(error.state_lost() && error.is_dead() && !error.is_timeout(), "{error}");
    kernel.reset().unwrap();
    assert_eq!(run(&mut kernel, "'x' in dir()").text(), Some("False"));
}

/// Nobody answers a gateway's pings while no cell runs; so it closes the connection, and what it had
/// said until then still lies there.
#[test]
fn a_connection_that_the_gateway_gave_up_is_opened_again_before_it_is_relied_on() {
    let impatient =
        "--ServerApp.tornado_settings={'ws_ping_interval': 100, 'ws_ping_timeout': 300}";
    let server = Server::start(Kind::JupyterServer, &[impatient]);
    let mut kernel = server.manager().start().unwrap();
    let path = format!("/api/kernels/{}", kernel.kernel_id().unwrap());
    run(&mut kernel, "x = 0");
    for n in 1..4 {
        let connections = || server.ask("GET", &path).unwrap().1["connections"].clone();
        poll_until("the gateway has given it up", || connections() == 0);
        let execution = run(&mut kernel, "x += 1\nx");
        assert_eq!(execution.text(), Some(&*n.to_string()));
        assert!(!execution.truncated);
    }
}
