//! What is left when a process is killed, and how it is found. The processes are this test program,
//! run again in another role, with a directory of temporary files of the test's own.

#![cfg(all(feature = "cpython", target_os = "linux"))]

#[path = "support/place.rs"]
mod place;
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Lines, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use place::{Place, reclaimed_by};
use sessile::interpreter::cpython::CPythonManager;
use sessile::interpreter::{Interpreter, reclaim};
use support::poll_until;

/// A process with a session, whose cell has started a process that has left the session.
struct Holder {
    process: Child,
    /// It ends in order when this is closed.
    line: Option<ChildStdin>,
    /// Read to its end, or it could not say how its test went.
    said: Lines<BufReader<ChildStdout>>,
    python: String,
    stray: String,
    dir: PathBuf,
}

impl Holder {
    fn start(place: &Place) -> Self {
        let mut command = place.run_as("holder");
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = said
            .by_ref()
            .map(Result::unwrap)
            .find_map(|l| l.strip_prefix("holding ").map(str::to_owned));
        let ready = ready.expect("the holder says when it is ready");
        let [python, stray, dir] = ready.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let line = process.stdin.take();
        Self { process, line, said, python: python.into(), stray: stray.into(), dir: dir.into() }
    }

    fn kill(mut self) -> (String, String, PathBuf) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        (self.python, self.stray, self.dir)
    }

    fn end(mut self) -> (String, String, PathBuf) {
        drop(self.line.take());
        self.said.by_ref().for_each(drop);
        assert!(self.process.wait().unwrap().success());
        (self.python, self.stray, self.dir)
    }
}

/// Whether a process is there that is not only waiting to be reaped.
fn runs(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

fn end_of(pid: &str) {
    poll_until("the process has ended", || !runs(pid));
}

#[test]
#[ignore = "a role that the other tests run"]
fn holder() {
    let mut python = CPythonManager::new().private_dir().start().unwrap();
    let code = "import os, subprocess\nopen('mine', 'w').close()\n\
                p = subprocess.Popen(['sleep', '600'], start_new_session=True,\n    \
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n\
                print(os.getpid(), p.pid, os.getcwd())";
    println!("holding {}", python.run(code).unwrap().stdout().trim_end());
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).unwrap();
    python.run("p.kill(); p.wait()").unwrap();
}

#[test]
#[ignore = "a role that the other tests run"]
fn reclaimer() {
    let reclaimed = reclaim();
    println!("reclaimed {} {}", reclaimed.removed, reclaimed.kept);
}

#[test]
fn what_a_killed_process_left_is_removed_by_the_next() {
    let place = Place::new();
    let (python, stray, dir) = Holder::start(&place).kill();
    end_of(&python); // by itself
    assert!(runs(&stray) && dir.join("mine").exists());
    assert_eq!(reclaimed_by(place.run_as("reclaimer")), "1 0");
    end_of(&stray);
    assert_eq!(place.left(), [] as [&Path; 0]);
    assert_eq!(reclaimed_by(place.run_as("reclaimer")), "0 0");
}

#[test]
fn the_first_start_of_a_process_reclaims_too() {
    let place = Place::new();
    let (_, stray, dir) = Holder::start(&place).kill();
    let next = Holder::start(&place);
    end_of(&stray);
    assert!(!dir.exists() && next.dir.exists());
    next.end();
    assert_eq!(place.left(), [] as [&Path; 0]);
}

#[test]
fn what_belongs_to_a_living_process_is_not_touched() {
    let place = Place::new();
    let living = Holder::start(&place);
    let (_, stray, _) = Holder::start(&place).kill();
    assert_eq!(reclaimed_by(place.run_as("reclaimer")), "1 0");
    end_of(&stray);
    assert!(runs(&living.python) && runs(&living.stray) && living.dir.join("mine").exists());
    let (_, _, dir) = living.end();
    assert!(!dir.exists());
    assert_eq!(place.left(), [] as [&Path; 0]);
}

#[test]
fn a_process_that_ends_in_order_leaves_nothing() {
    let place = Place::new();
    let (python, stray, dir) = Holder::start(&place).end();
    assert!(!runs(&python) && !runs(&stray) && !dir.exists());
    assert_eq!(place.left(), [] as [&Path; 0]);
}

#[test]
fn many_reclaimers_at_once_remove_each_thing_once() {
    let place = Place::new();
    let killed: Vec<_> = (0..3).map(|_| Holder::start(&place)).collect();
    let killed: Vec<_> = killed.into_iter().map(Holder::kill).collect();
    let removed = std::thread::scope(|s| {
        let all: Vec<_> =
            (0..4).map(|_| s.spawn(|| reclaimed_by(place.run_as("reclaimer")))).collect();
        let sums = all.into_iter().map(|one| one.join().unwrap());
        sums.map(|sum| sum.split(' ').next().unwrap().parse::<usize>().unwrap()).sum::<usize>()
    });
    assert_eq!(removed, 3);
    for (_, stray, dir) in killed {
        end_of(&stray);
        assert!(!dir.exists());
    }
    assert_eq!(place.left(), [] as [&Path; 0]);
}

/// A lease is a file, and who has got at the directory of leases may write what they like into one.
#[test]
fn a_forged_lease_leads_to_nothing_of_anybody_elses() {
    let place = Place::new();
    let (_, stray, dir) = Holder::start(&place).kill();
    let leases =
        place.left().into_iter().find(|path| path.extension().is_some_and(|e| e == "process"));
    let leases = place.0.join(leases.unwrap());
    let living = Holder::start(&place); // which reclaims what was left
    end_of(&stray);
    assert!(!dir.exists());

    let precious = place.0.join("precious");
    fs::create_dir(&precious).unwrap();
    let living_mark =
        living.dir.file_name().unwrap().to_str().unwrap().strip_prefix("sessile-dir-");
    // The owner is gone, so its leases are looked into.
    let owner = leases.parent().unwrap();
    fs::create_dir_all(owner).unwrap();
    let name = owner.file_name().unwrap().to_str().unwrap();
    let forged = [
        serde_json::json!({ "mark": format!("{name}-1"), "dir": precious }),
        serde_json::json!({ "mark": format!("{name}-x"), "dir": null }),
        serde_json::json!({ "mark": living_mark, "dir": null }),
        serde_json::json!({ "mark": living_mark, "dir": living.dir }),
    ];
    for (number, lease) in forged.iter().enumerate() {
        fs::write(owner.join(format!("{number}.process")), lease.to_string()).unwrap();
    }
    assert_eq!(reclaimed_by(place.run_as("reclaimer")), "0 0");
    assert!(precious.exists() && living.dir.join("mine").exists());
    assert!(runs(&living.python) && runs(&living.stray));
    living.end();
}
