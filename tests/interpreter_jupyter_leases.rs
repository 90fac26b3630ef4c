//! Kernels whose process is killed, and how they are found. The processes are this test program, run
//! again in another role, with a directory of temporary files of the test's own.

#![cfg(all(feature = "jupyter", target_os = "linux"))]

#[path = "support/jupyter.rs"]
mod jupyter;
#[path = "support/place.rs"]
mod place;
mod support;
#[path = "support/venv.rs"]
mod venv;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use jupyter::{Kind, Server, TOKEN};
use place::{Place, reclaimed_by};
use sessile::interpreter::jupyter::{Gateway, Jupyter, JupyterManager};
use sessile::interpreter::{Reclaimed, reclaim};
use support::{PATIENCE, poll_until};

/// A gateway that asks nobody for a token.
const OPEN: [&str; 1] = ["--KernelGatewayApp.auth_token="];

/// By which a process in a role is told of the gateway.
const URL: &str = "SESSILE_TEST_GATEWAY";
const IS_OPEN: &str = "SESSILE_TEST_IS_OPEN";

/// A place where processes hold kernels, and whoever comes after them.
struct Scene {
    place: Place,
    port: u16,
    is_open: bool,
}

impl Scene {
    fn at(port: u16) -> Self {
        Self { place: Place::new(), port, is_open: false }
    }

    fn run_as(&self, role: &str) -> Command {
        let mut command = self.place.run_as(role);
        command.env(URL, format!("http://127.0.0.1:{}", self.port));
        if self.is_open {
            command.env(IS_OPEN, "yes");
        }
        command
    }

    fn spawn_holder(&self) -> Child {
        let mut command = self.run_as("holder");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    fn hold(&self) -> Holder {
        let mut process = self.spawn_holder();
        let mut said = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = said
            .by_ref()
            .map(Result::unwrap)
            .find_map(|l| l.strip_prefix("holding ").map(str::to_owned));
        let ready = ready.expect("the holder says when it is ready");
        let line = process.stdin.take();
        Holder { process, line, said, kernels: ready.split(' ').map(str::to_owned).collect() }
    }

    /// How many kernels are removed, and cannot be, by a process that has no token.
    fn reclaim(&self) -> String {
        reclaimed_by(self.run_as("reclaimer"))
    }

    /// The same, by one that knows the gateway.
    fn reclaim_there(&self) -> String {
        reclaimed_by(self.run_as("reclaimer_there"))
    }

    #[track_caller]
    fn is_clean(&self) {
        assert_eq!(self.place.left(), [] as [&Path; 0]);
    }

    fn leases(&self) -> Vec<PathBuf> {
        let of_kind = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "kernel");
        let paths = self.place.left().into_iter().filter(of_kind);
        paths.map(|path| self.place.0.join(path)).collect()
    }
}

/// A process with two kernels.
struct Holder {
    process: Child,
    /// It ends in order when this is closed.
    line: Option<ChildStdin>,
    /// Read to its end, or it could not say how its test went.
    said: Lines<BufReader<ChildStdout>>,
    kernels: Vec<String>,
}

impl Holder {
    fn kill(mut self) -> Vec<String> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.kernels
    }

    fn end(mut self) {
        drop(self.line.take());
        self.said.by_ref().for_each(drop);
        assert!(self.process.wait().unwrap().success());
    }
}

fn manager() -> JupyterManager {
    let gateway = Gateway::new(std::env::var(URL).unwrap());
    let is_open = std::env::var_os(IS_OPEN).is_some();
    let gateway = if is_open { gateway } else { gateway.token(TOKEN) };
    JupyterManager::builder(gateway).start_timeout(PATIENCE).build().unwrap()
}

fn tell(reclaimed: Reclaimed) {
    println!("reclaimed {} {}", reclaimed.removed, reclaimed.kept);
}

#[test]
#[ignore = "a role that the other tests run"]
fn holder() {
    let manager = manager();
    let started = Instant::now();
    let start = || loop {
        // A gateway that is full has room once it has ended what others have left. And on
        // a machine that is very busy, not every kernel is ready in time.
        match manager.start() {
            Ok(kernel) => break kernel,
            Err(error) => assert!(started.elapsed() < 2 * PATIENCE, "{error}"),
        }
    };
    let kernels: Vec<Jupyter> = (0..2).map(|_| start()).collect();
    let ids: Vec<_> = kernels.iter().map(|kernel| kernel.kernel_id().unwrap()).collect();
    println!("holding {}", ids.join(" "));
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).unwrap();
}

#[test]
#[ignore = "a role that the other tests run"]
fn reclaimer() {
    tell(reclaim());
}

#[test]
#[ignore = "a role that the other tests run"]
fn reclaimer_there() {
    tell(manager().reclaim());
}

/// Ids, as a set.
fn sorted(ids: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut ids: Vec<_> = ids.into_iter().collect();
    ids.sort_unstable();
    ids
}

#[test]
fn kernels_of_a_killed_process_are_ended_by_who_has_the_token() {
    for kind in [Kind::KernelGateway, Kind::JupyterServer, Kind::EnterpriseGateway] {
        let server = Server::start(kind, &[]);
        let scene = Scene::at(server.port);
        let living = scene.hold();
        let killed = scene.hold().kill();
        let all = sorted(living.kernels.iter().chain(&killed).cloned());
        assert_eq!(sorted(server.kernels()), all);
        // Without the token it is not even tried.
        assert_eq!(scene.reclaim(), "0 2");
        assert_eq!(sorted(server.kernels()), all);
        assert_eq!(scene.reclaim_there(), "2 0");
        assert_eq!(sorted(server.kernels()), sorted(living.kernels.clone()), "{kind:?}");
        assert_eq!(scene.reclaim_there(), "0 0");
        living.end();
        assert!(server.kernels().is_empty());
        scene.is_clean();
    }
}

#[test]
fn the_first_start_at_a_gateway_ends_what_was_left_there_though_it_is_full() {
    let server = Server::start(Kind::KernelGateway, &["--KernelGatewayApp.max_kernels=2"]);
    let scene = Scene::at(server.port);
    let killed = scene.hold().kill();
    assert_eq!(sorted(server.kernels()), sorted(killed));
    let next = scene.hold();
    assert_eq!(sorted(server.kernels()), sorted(next.kernels.clone()));
    next.end();
    scene.is_clean();
}

#[test]
fn at_a_gateway_without_a_token_anybody_ends_them() {
    let server = Server::start(Kind::KernelGateway, &OPEN);
    let scene = Scene { is_open: true, ..Scene::at(server.port) };
    let living = scene.hold();
    scene.hold().kill();
    assert_eq!(scene.reclaim(), "2 0");
    assert_eq!(sorted(server.kernels()), sorted(living.kernels.clone()));
    living.end();
    scene.is_clean();
}

#[test]
fn kernels_that_are_gone_already_are_struck_off() {
    let server = Server::start(Kind::KernelGateway, &[]);
    let scene = Scene::at(server.port);
    for id in scene.hold().kill() {
        assert_eq!(server.ask("DELETE", &format!("/api/kernels/{id}")).unwrap().0, 204);
    }
    assert_eq!(scene.leases().len(), 2);
    assert_eq!(scene.reclaim_there(), "2 0");
    scene.is_clean();
}

#[test]
fn what_a_gateway_that_is_away_has_is_kept_and_not_for_ever() {
    let server = Server::start(Kind::KernelGateway, &OPEN);
    let scene = Scene { is_open: true, ..Scene::at(server.port) };
    scene.hold().kill();
    // It is there and does not answer.
    server.signal("STOP");
    let begun = Instant::now();
    assert_eq!(scene.reclaim(), "0 2");
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    server.signal("CONT");
    // Nobody is there.
    let port = server.port;
    server.signal("KILL");
    poll_until("nobody listens", || TcpStream::connect(("127.0.0.1", port)).is_err());
    assert_eq!(scene.reclaim(), "0 2");
    assert_eq!(scene.leases().len(), 2);
    // Found a week ago, and tried since then.
    let lock = scene.leases()[0].with_file_name("lock");
    let week = Duration::from_secs(7 * 24 * 60 * 60 + 1);
    let lock = File::options().append(true).open(lock).unwrap();
    lock.set_modified(SystemTime::now() - week).unwrap();
    assert_eq!(scene.reclaim(), "0 2");
    scene.is_clean();
}

#[test]
fn a_lease_is_for_its_user_alone_and_has_no_token() {
    let server = Server::start(Kind::KernelGateway, &[]);
    let scene = Scene::at(server.port);
    let living = scene.hold();
    let leases = scene.leases();
    assert_eq!(leases.len(), 2);
    for lease in leases {
        let text = fs::read_to_string(&lease).unwrap();
        assert!(text.contains(&format!("127.0.0.1:{}", server.port)), "{text}");
        assert!(living.kernels.iter().any(|id| text.contains(&**id)), "{text}");
        assert!(!text.contains(TOKEN), "{text}");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        let owner = lease.parent().unwrap();
        let modes = [&*lease, owner, owner.parent().unwrap()].map(mode);
        assert_eq!(modes, [0o600, 0o700, 0o700]);
    }
    living.end();
    scene.is_clean();
}

/// Stands before a gateway, and passes on requests; those that start a kernel it holds until told.
fn holding_starts(server: &Server) -> (u16, Receiver<()>, Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, to) = (listener.local_addr().unwrap().port(), server.port);
    let (has, held) = mpsc::channel();
    let (pass, passed) = mpsc::channel::<()>();
    let pass_on = move |client: TcpStream, first: &[u8]| {
        let mut gateway = TcpStream::connect(("127.0.0.1", to)).unwrap();
        gateway.write_all(first).unwrap();
        let mut answer = Vec::new();
        gateway.read_to_end(&mut answer).unwrap();
        let _ = (&client).write_all(&answer); // whoever asked may be gone
    };
    thread::spawn(move || {
        let mut passed = Some(passed);
        for client in listener.incoming().map(Result::unwrap) {
            // Ours come in one write.
            let mut request = vec![0; 4096];
            let got = (&client).read(&mut request).unwrap();
            request.truncate(got);
            if request.starts_with(b"POST") {
                let passed = passed.take().expect("one start");
                let has = has.clone();
                thread::spawn(move || {
                    has.send(()).unwrap();
                    passed.recv().unwrap();
                    pass_on(client, &request);
                });
            } else {
                pass_on(client, &request);
            }
        }
    });
    (port, held, pass)
}

#[test]
fn a_kernel_that_comes_to_be_after_its_process_was_killed_is_ended_too() {
    for kind in [Kind::KernelGateway, Kind::JupyterServer, Kind::EnterpriseGateway] {
        let server = Server::start(kind, &[]);
        let (port, held, pass) = holding_starts(&server);
        let scene = Scene::at(port);
        let mut holder = scene.spawn_holder();
        held.recv_timeout(PATIENCE).unwrap();
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert!(server.kernels().is_empty());
        // That it is not there does not mean that it will not be.
        assert_eq!(scene.reclaim_there(), "0 1");
        pass.send(()).unwrap();
        // Amid its start a server may fail to list it.
        poll_until("the kernel is there", || {
            let (status, list) = server.ask("GET", "/api/kernels").expect("it answers");
            status == 200 && list.as_array().is_some_and(|list| list.len() == 1)
        });
        assert_eq!(scene.reclaim_there(), "1 0", "{kind:?}");
        assert!(server.kernels().is_empty());
        scene.is_clean();
    }
}
