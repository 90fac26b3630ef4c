//! Sessions that outlive their process: the next one goes on with them, by key. The processes are this
//! test program, run again in another role, with a directory of temporary files of the test's own.

#![cfg(all(feature = "jupyter", target_os = "linux"))]

#[path = "support/jupyter.rs"]
mod jupyter;
#[path = "support/place.rs"]
mod place;
mod support;
#[path = "support/venv.rs"]
mod venv;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jupyter::{Kind, Server, TOKEN};
use place::{Place, reclaimed_by};
use sessile::interpreter::jupyter::{Gateway, Jupyter, JupyterManager};
use sessile::interpreter::{ExecuteOptions, Interpreter};
use support::PATIENCE;

const URL: &str = "SESSILE_TEST_GATEWAY";
/// What a process is to do: words.
const WORDS: &str = "SESSILE_TEST_WORDS";

/// To be read to its end, or the process could not say how its test went.
type Said = std::io::Lines<BufReader<std::process::ChildStdout>>;

/// Ends a process in order.
fn end(mut process: Child, said: Said) {
    drop(process.stdin.take());
    said.for_each(drop);
    assert!(process.wait().unwrap().success());
}

struct Scene {
    place: Place,
    port: u16,
}

impl Scene {
    fn run_as(&self, role: &str, words: &str) -> Command {
        let mut command = self.place.run_as(role);
        command.env(URL, format!("http://127.0.0.1:{}", self.port)).env(WORDS, words);
        command
    }

    /// A process that has a session for a key, with a variable; and with a cell that runs on, perhaps.
    fn hold(&self, words: &str) -> (Child, String, Said) {
        let mut command = self.run_as("holder", words);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut lines = said.by_ref().map(Result::unwrap);
        let id = lines.find_map(|l| l.strip_prefix("holding ").map(str::to_owned));
        (process, id.expect("the holder says when it is ready"), said)
    }

    fn kill(&self, words: &str) -> String {
        let (mut process, id, _said) = self.hold(words);
        process.kill().unwrap();
        process.wait().unwrap();
        id
    }

    /// What the next process finds for this key: the kernel's id, whether it is another's, what it says.
    fn next(&self, words: &str) -> (String, bool, String) {
        let output = self.run_as("next", words).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let line = said.lines().find_map(|line| line.strip_prefix("found "));
        let line = line.unwrap_or_else(|| panic!("{said}"));
        let mut parts = line.splitn(3, ' ');
        let mut part = || parts.next().unwrap().to_owned();
        (part(), part() == "true", part())
    }

    fn reclaim(&self) -> String {
        reclaimed_by(self.run_as("reclaimer", "- - 0"))
    }
}

fn manager(service: &str, keep_for: u64) -> JupyterManager {
    let gateway = Gateway::new(std::env::var(URL).unwrap()).token(TOKEN);
    let builder = JupyterManager::builder(gateway).start_timeout(PATIENCE);
    builder.reattach(service, Duration::from_secs(keep_for)).build().unwrap()
}

/// Service, key, and for how many seconds; and what else.
fn words() -> (String, String, u64, String) {
    let words = std::env::var(WORDS).unwrap();
    let mut words = words.split(' ').map(str::to_owned);
    let mut word = || words.next().unwrap_or_default();
    (word(), word(), word().parse().unwrap(), word())
}

#[test]
#[ignore = "a role that the other tests run"]
fn holder() {
    let (service, key, keep_for, what) = words();
    let manager = manager(&service, keep_for);
    let mut kernel = manager.start_for(&key).unwrap();
    kernel.run(&format!("mine = 'of {key}'")).unwrap();
    let id = kernel.kernel_id().unwrap().to_owned();
    if what == "busy" {
        let code = "print('on', flush=True)\nimport time\ntime.sleep(3)\nmine += ', and done'";
        kernel
            .execute_with(code, &ExecuteOptions::new(), &mut |_| println!("holding {id}"))
            .unwrap();
    }
    println!("holding {id}");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    if what == "over" {
        manager.hand_over();
    }
}

#[test]
#[ignore = "a role that the other tests run"]
fn next() {
    let (service, key, keep_for, _) = words();
    let mut kernel: Jupyter = manager(&service, keep_for).start_for(&key).unwrap();
    let (id, found) = (kernel.kernel_id().unwrap().to_owned(), kernel.is_reattached());
    let begun = Instant::now();
    let told = loop {
        match kernel.run("mine if 'mine' in dir() else 'nothing'") {
            Ok(told) => break told.text().unwrap_or_default().to_owned(),
            Err(error) if error.is_dead() || begun.elapsed() > PATIENCE => break error.to_string(),
            Err(_) => {}
        }
    };
    println!("found {id} {found} {told}");
}

#[test]
#[ignore = "a role that the other tests run"]
fn reclaimer() {
    let gateway = Gateway::new(std::env::var(URL).unwrap()).token(TOKEN);
    let reclaimed = JupyterManager::new(gateway).unwrap().reclaim();
    println!("reclaimed {} {}", reclaimed.removed, reclaimed.kept);
}

fn scene(server: &Server) -> Scene {
    Scene { place: Place::new(), port: server.port }
}

#[test]
fn the_next_process_goes_on_with_the_sessions_of_a_killed_one_by_key() {
    for kind in [Kind::KernelGateway, Kind::EnterpriseGateway] {
        let server = Server::start(kind, &[]);
        let scene = scene(&server);
        let id = scene.kill("shop alice 600");
        // It is for whoever goes on with it, and not removed before that.
        assert_eq!(scene.reclaim(), "0 0");
        assert!(server.kernels().contains(&id), "{kind:?}");
        assert_eq!(scene.next("shop alice 600"), (id.clone(), true, "'of alice'".to_owned()));
        // That one has closed it.
        assert!(!server.kernels().contains(&id));
        let (other, found, told) = scene.next("shop alice 600");
        assert!(other != id && !found && told == "'nothing'", "{other} {found} {told}");
        assert_eq!(scene.place.left(), [] as [&std::path::Path; 0]);
    }
}

#[test]
fn others_sessions_are_never_taken() {
    let server = Server::start(Kind::KernelGateway, &[]);
    let scene = scene(&server);
    let (living, first, said) = scene.hold("shop alice 600");
    let second = scene.kill("shop bob 600");
    // Of a process that lives; of another key; of another service.
    for words in ["shop alice 600", "shop carol 600", "bank bob 600"] {
        let (id, found, told) = scene.next(words);
        assert!(![&first, &second].contains(&&id) && !found && told == "'nothing'", "{words}");
    }
    assert_eq!(scene.next("shop bob 600").0, second);
    end(living, said);
    assert!(server.kernels().is_empty());
}

#[test]
fn what_is_not_gone_on_with_in_time_is_ended() {
    let server = Server::start(Kind::KernelGateway, &[]);
    let scene = scene(&server);
    scene.kill("shop alice 0");
    assert_eq!(scene.reclaim(), "1 0");
    assert!(server.kernels().is_empty());
}

#[test]
fn a_cell_that_a_killed_process_had_running_ends_first() {
    let server = Server::start(Kind::KernelGateway, &[]);
    let scene = scene(&server);
    let id = scene.kill("shop alice 600 busy");
    assert_eq!(scene.next("shop alice 600"), (id, true, "'of alice, and done'".to_owned()));
}

#[test]
fn a_process_that_hands_over_ends_no_kernel() {
    let server = Server::start(Kind::KernelGateway, &[]);
    let scene = scene(&server);
    let (process, id, said) = scene.hold("shop alice 600 over");
    end(process, said);
    assert!(server.kernels().contains(&id));
    assert_eq!(scene.next("shop alice 600"), (id, true, "'of alice'".to_owned()));
    assert!(server.kernels().is_empty());
}

#[test]
fn another_process_in_the_place_of_the_kernels_is_a_loss() {
    let server = Server::start(Kind::KernelGateway, &[]);
    let scene = scene(&server);
    let id = scene.kill("shop alice 600");
    let (status, _) = server.ask("POST", &format!("/api/kernels/{id}/restart")).unwrap();
    assert_eq!(status, 200);
    let (same, found, told) = scene.next("shop alice 600");
    assert!(same == id && found && told.contains("state is lost"), "{told}");
    let again = scene.kill("shop alice 600");
    assert_eq!(server.ask("DELETE", &format!("/api/kernels/{again}")).unwrap().0, 204);
    let (_, found, told) = scene.next("shop alice 600");
    assert!(found && told.contains("state is lost"), "{told}");
}
