//! Gateways behind TLS: REST and WebSocket, with the right certificates and with others.

#![cfg(all(feature = "jupyter", feature = "tls", target_os = "linux"))]

#[path = "support/jupyter.rs"]
mod jupyter;
mod support;
#[path = "support/tls.rs"]
mod tls;
#[path = "support/venv.rs"]
mod venv;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jupyter::{Kind, Server, TOKEN};
use sessile::Manager;
use sessile::interpreter::Interpreter;
use sessile::interpreter::jupyter::{Gateway, Jupyter, JupyterManager};
use sessile::manager::CloseReason;
use sessile::session::ConnectOptions;
use tls::Authority;

/// A gateway for `https://localhost`, and the files of its certificate.
struct Secure {
    server: Server,
    authority: Authority,
    files: [PathBuf; 2],
}

impl Secure {
    fn start(kind: Kind) -> Self {
        let authority = Authority::new();
        let files = ["certfile", "keyfile"].map(|option| {
            let name = format!("jupyter-tls-{}-{kind:?}-{option}.pem", std::process::id());
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
        });
        let class = if kind == Kind::JupyterServer { "ServerApp" } else { "KernelGatewayApp" };
        let arguments: Vec<_> = ["certfile", "keyfile"]
            .iter()
            .zip(files.iter().zip(&authority.files))
            .map(|(option, (file, text))| {
                fs::write(file, text).unwrap();
                format!("--{class}.{option}={}", file.display())
            })
            .collect();
        let arguments: Vec<_> = arguments.iter().map(|argument| &**argument).collect();
        let server = Server::start(kind, &arguments);
        Self { server, authority, files }
    }

    fn gateway(&self, scheme: &str, host: &str) -> Gateway {
        Gateway::new(self.options(scheme, host)).token(TOKEN)
    }

    fn options(&self, scheme: &str, host: &str) -> ConnectOptions {
        ConnectOptions::new(format!("{scheme}://{host}:{}", self.server.port))
    }

    fn trusting(&self, host: &str, root: &[u8]) -> Gateway {
        Gateway::new(self.options("https", host).root_certificate(root)).token(TOKEN)
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        self.files.iter().for_each(|file| _ = fs::remove_file(file));
    }
}

fn works(manager: &JupyterManager) {
    let mut kernel: Jupyter = manager.start().unwrap();
    assert!(kernel.gateway().unwrap().starts_with("https://localhost:"));
    assert_eq!(kernel.run("6 * 7").unwrap().text(), Some("42"));
    // More than a record of TLS, and than a read, holds.
    let execution = kernel.run("print('x' * 300_000)").unwrap();
    assert_eq!(execution.stdout().len(), 300_001);
    kernel.reset().unwrap();
    let handle = kernel.interrupt_handle();
    let code = "print()\nimport time\nwhile True: time.sleep(.1)";
    let stopped = kernel.execute_with(code, &Default::default(), &mut |_| handle.interrupt());
    assert_eq!(stopped.unwrap().error.unwrap().name, "KeyboardInterrupt");
    // The gateway has said that it is gone.
    manager.close(kernel, CloseReason::ClosedHere).unwrap();
}

#[track_caller]
fn is_refused(gateway: Gateway, why: &[&str]) {
    // A plain server waits for the rest of what it takes for a line.
    let builder = JupyterManager::builder(gateway).request_timeout(Duration::from_secs(5));
    let error = builder.build().unwrap().start().unwrap_err();
    assert!(error.is_start(), "{error}");
    let said = format!("{error} {error:?}");
    assert!(why.iter().any(|why| said.contains(why)), "{said}");
    assert!(said.contains("https://") || said.contains("http://"), "{said}");
    assert!(!said.contains(TOKEN), "{said}");
}

#[test]
fn a_gateway_behind_tls_serves_those_who_trust_it_and_no_others() {
    for kind in [Kind::KernelGateway, Kind::JupyterServer] {
        let secure = Secure::start(kind);
        let gateway = |host: &str| secure.gateway("https", host);
        let root = secure.authority.root.clone();
        let manager = JupyterManager::new(secure.trusting("localhost", &root));
        works(&manager.unwrap());
        // In the older form, over the same.
        let builder = JupyterManager::builder(secure.trusting("localhost", &root));
        works(&builder.json_frames(true).build().unwrap());

        // Somebody else's authority; those that browsers trust; another host's name; no TLS.
        let other = Authority::new().root;
        is_refused(secure.trusting("localhost", &other), &["invalid peer certificate"]);
        is_refused(gateway("localhost"), &["invalid peer certificate"]);
        is_refused(secure.trusting("127.0.0.1", &root), &["invalid peer certificate"]);
        is_refused(
            secure.gateway("http", "localhost"),
            &["does not answer", "does not speak HTTP"],
        );
        // A plain one, to who wants TLS.
        let plain = Server::shared();
        let gateway = Gateway::new(format!("https://localhost:{}", plain.port)).token(TOKEN);
        is_refused(gateway, &["agreeing on TLS"]);
    }
}
