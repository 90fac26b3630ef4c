//! What a confined CPython cannot do, and an unconfined one can: each attack is tried on both.
//!
//! An attack that fails on both proves nothing. So it has to come through on a CPython that is not
//! confined, but for those that this user, or this machine, refuses to everybody.
//!
//! Run by root, the whole table is run once more as an ordinary user.

#![cfg(all(feature = "confine", target_os = "linux"))]
#![allow(unsafe_code)] // descriptors that are inherited on purpose

use std::fs;
use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;
use sessile::interpreter::cpython::{CPython, CPythonManager, Confinement};
use sessile::interpreter::{ExecuteOptions, Interpreter};
use sessile::{Pool, Registry};

#[path = "support/venv.rs"]
mod venv;

const ATTACKS: &str = include_str!("confine/attacks.py");

/// Attacks that only root could ever carry through.
const ONLY_ROOT: &[&str] = &[
    "makes_a_device",
    "opens_a_raw_socket",
    "loads_a_program_into_the_kernel",
    "types_into_a_terminal",
    "writes_to_its_own_interpreter",
    "changes_a_mode_by_descriptor",
    "becomes_another_user",
];
/// Attacks that the kernel or its settings may refuse to everybody.
const MAY_BE_CLOSED: &[&str] = &[
    "takes_the_x32_interface",
    "counts_events",
    "handles_faults",
    "queues_work_for_the_kernel",
    "uses_the_kernels_keys",
    "loads_a_program_into_the_kernel",
    "opens_a_vsock_socket",
    "connects_by_multipath_tcp",
    "enters_a_user_name_space",
    "clones_into_a_user_name_space",
    "mounts",
    "traces_a_stranger",
    "types_into_a_terminal",
    "changes_attributes_by_ioctl",
];

fn attacks() -> impl Iterator<Item = &'static str> {
    let functions =
        ATTACKS.lines().filter_map(|line| line.strip_prefix("def ")?.strip_suffix("():"));
    functions.filter(|name| !name.starts_with('_'))
}

/// What there is to be attacked.
struct Targets {
    dir: PathBuf,
    victim: Child,
    json: String,
    _kept: Vec<Box<dyn std::any::Any>>,
}

impl Targets {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("confine-targets-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        fs::create_dir_all(&dir).unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
            path
        };
        let secret = file("secret", "secret");
        let victim_file = file("victim", "a few bytes");
        let (to_remove, to_rename, to_move) =
            (file("remove", ""), file("rename", ""), file("move", ""));

        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp_port = tcp.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in tcp.incoming() {
                let _ = stream.unwrap().write_all(b"hello");
            }
        });
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let abstract_name = name;
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let abstract_socket = UnixListener::bind_addr(&address).unwrap();
        let unix = UnixListener::bind(dir.join("stream.sock")).unwrap();
        let datagram = UnixDatagram::bind(dir.join("datagram.sock")).unwrap();

        let victim = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        let address = mapped_address(victim.id());

        // Inherited by whoever is started from here on.
        let inherited = fs::File::open(&secret).unwrap();
        // SAFETY: numbers only; nobody else uses the number 90.
        assert_eq!(unsafe { libc_dup2(inherited.as_raw_fd(), 90) }, 90);

        let leases =
            std::env::temp_dir().join(format!("sessile-{}", fs::metadata(&dir).unwrap().uid()));
        let targets = json!({
            "secret": secret, "outside": dir, "victim_file": victim_file, "to_remove": to_remove,
            "to_rename": to_rename, "to_move": to_move, "parent": std::process::id(), "victim": victim.id(),
            "victim_address": address, "descriptor": 90, "tcp": tcp_port,
            "udp": udp.local_addr().unwrap().port(), "abstract": abstract_name,
            "unix": dir.join("stream.sock"), "unix_datagram": dir.join("datagram.sock"),
            "leases": leases, "a_lease": leases.join("a-lease"), "huge": 2_u64 << 30, "many_files": 2000, "many_processes": 200,
        });
        Self {
            dir,
            victim,
            json: targets.to_string(),
            _kept: vec![Box::new((udp, abstract_socket, unix, datagram))],
        }
    }

    /// Makes anew what attacks that came through have taken away.
    fn restore(&self) {
        for name in ["remove", "rename", "move"] {
            fs::write(self.dir.join(name), "").unwrap();
        }
        let leases: serde_json::Value = serde_json::from_str(&self.json).unwrap();
        let _ = fs::write(leases["a_lease"].as_str().unwrap(), "{}");
        for name in ["made", "written", "rename.renamed"] {
            let path = self.dir.join(name);
            let _ = fs::remove_dir(&path).or_else(|_| fs::remove_file(&path));
        }
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
        let leases: serde_json::Value = serde_json::from_str(&self.json).unwrap();
        let _ = fs::remove_file(leases["a_lease"].as_str().unwrap());
        let _ = fs::remove_file(Path::new(leases["leases"].as_str().unwrap()).join("forged"));
        let _ = fs::remove_dir_all(&self.dir);
    }
}

unsafe extern "C" {
    #[link_name = "dup2"]
    fn libc_dup2(from: i32, to: i32) -> i32;
}

/// Where the process has something to be read.
fn mapped_address(pid: u32) -> u64 {
    loop {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        if let Some(line) = maps.lines().find(|line| line.contains("[stack]")) {
            let end = line.split(['-', ' ']).nth(1).unwrap();
            return u64::from_str_radix(end, 16).unwrap() - 4096;
        }
        thread::yield_now();
    }
}

fn prepare(python: &mut CPython, targets: &Targets) {
    let code = format!("{ATTACKS}\nimport json\nTARGETS = json.loads({:?})\n", targets.json);
    let prepared = python.run(&code).unwrap();
    assert!(prepared.is_ok(), "{}", prepared.to_markdown());
}

/// `None` if the attack came through, else what was said to it.
fn try_on(python: &mut CPython, attack: &str) -> Option<String> {
    let outcome =
        python.run(&format!("{attack}()")).unwrap_or_else(|error| panic!("{attack}: {error}"));
    outcome.error.map(|error| format!("{}: {}", error.name, error.value))
}

fn python() -> PathBuf {
    std::env::var_os("SESSILE_TEST_PYTHON").unwrap_or_else(|| "python3".into()).into()
}

fn manager(confinement: Confinement) -> CPythonManager {
    CPythonManager::new().python(python()).confine(confinement)
}

/// A Python that every user may read, without packages.
fn system_python() -> PathBuf {
    std::env::var_os("SESSILE_TEST_PYTHON").unwrap_or_else(|| "/usr/bin/python3".into()).into()
}

/// Root of the machine, not of a user name space only.
fn is_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    fs::metadata("/proc/self").unwrap().uid() == 0 && map.contains("4294967295")
}

/// Tries every attack on a confined session, and on one that is not. `opened` are those that this
/// confinement lets through on purpose.
fn try_all(confinement: Confinement, python: &Path, opened: &[&str]) {
    let targets = Targets::new();
    let manager = CPythonManager::new().python(python);
    // In a directory of its own, too: some attacks leave files behind.
    let mut free = manager.clone().private_dir().start().unwrap();
    let mut confined = manager.confine(confinement).start().unwrap();
    prepare(&mut free, &targets);
    prepare(&mut confined, &targets);
    println!("{}", confined.enforcement().unwrap());

    let mut wrong = Vec::new();
    for attack in attacks().filter(|&attack| !matches!(attack, "call" | "forked")) {
        targets.restore();
        // The confined one first: what comes through to the other may leave things changed.
        let inside = try_on(&mut confined, attack);
        targets.restore();
        let excused =
            MAY_BE_CLOSED.contains(&attack) || (ONLY_ROOT.contains(&attack) && !is_root());
        let outside = try_on(&mut free, attack);
        println!("{attack:45} free: {:40} confined: {}", show(&outside), show(&inside));
        if inside.is_none() && !opened.contains(&attack) && outside.is_none() {
            wrong.push(format!("{attack} came through"));
        }
        if let (Some(why), true) = (&inside, opened.contains(&attack)) {
            wrong.push(format!("{attack} was to be open: {why}"));
        }
        if let (Some(why), false) = (&outside, excused) {
            wrong.push(format!("{attack} does not come through where nothing holds it: {why}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn show(outcome: &Option<String>) -> &str {
    outcome.as_deref().unwrap_or("came through")
}

#[test]
fn no_attack_comes_through_a_strict_confinement() {
    try_all(Confinement::strict(), &python(), &[]);
}

/// With other processes, `/proc` and a port open, the attacks that took a fork to be tried at all
/// are tried for good.
#[test]
fn no_attack_comes_through_an_opened_confinement_but_what_was_opened() {
    let python = system_python();
    let opened = Confinement::strict().processes(64).program(&python).keep_proc().connect_tcp(9);
    let open = [
        "starts_a_process",
        "starts_a_process_by_vfork",
        "lists_processes",
        "opens_a_handle_to_a_stranger", // asyncio waits for its children so
        "sends_a_descriptor",           // as what writes to several sockets does
    ];
    try_all(opened, &python, &open);
}

/// Root has other rights than anybody else, and other ways of being confined.
#[test]
fn an_ordinary_user_is_confined_as_root_is() {
    if !is_root() {
        return; // then all other tests have shown it
    }
    let dir = std::env::temp_dir().join(format!("confine-nobody-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    fs::set_permissions(&dir, PermissionsExt::from_mode(0o777)).unwrap();
    let program = dir.join("tests");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let output = Command::new(&program)
        .args(["no_attack", "what_was", "--test-threads=1", "--nocapture"])
        .env("SESSILE_TEST_PYTHON", system_python())
        .env("TMPDIR", &dir)
        .env("HOME", &dir)
        .current_dir(&dir)
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    let _ = fs::remove_dir_all(&dir);
    assert!(output.status.success());
    assert!(said.contains("reads_a_secret "), "it ran nothing");
}

/// As in a container without a daemon: root by number, and nobody else there to become.
#[test]
fn root_of_a_user_name_space_is_confined_as_root_is() {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user"]);
        command
    };
    if !is_root() || !unshare().arg("true").status().is_ok_and(|status| status.success()) {
        println!("skipped: not root, or no user name spaces to be had");
        return;
    }
    let output = unshare()
        .arg(std::env::current_exe().unwrap())
        .args([
            "no_attack_comes_through_a_strict",
            "what_was_opened_to_be",
            "--test-threads=1",
            "--nocapture",
        ])
        .env("SESSILE_TEST_PYTHON", system_python())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("runs as user 0, group 0") || !output.status.success());
    assert!(output.status.success());
}

// ---- what is opened --------------------------------------------------------------------------

/// Runs a cell that has to end well, and gives what it printed.
fn run(python: &mut CPython, code: &str) -> String {
    let done = python.run(code).unwrap();
    assert!(done.is_ok(), "{code}\n{}", done.to_markdown());
    done.stdout()
}

/// Runs a cell that has to be refused, and gives what was said.
fn refused(python: &mut CPython, code: &str) -> String {
    let done = python.run(code).unwrap();
    let error = done.error.unwrap_or_else(|| panic!("{code} was not refused"));
    format!("{}: {}", error.name, error.value)
}

#[test]
fn what_was_opened_to_be_read_is_read_and_not_written() {
    let targets = Targets::new();
    let secret = targets.dir.join("secret");
    let mut python = manager(Confinement::strict().read(&targets.dir)).start().unwrap();
    assert_eq!(run(&mut python, &format!("print(open({secret:?}).read())")), "secret\n");
    assert!(refused(&mut python, &format!("open({secret:?}, 'a')")).contains("Permission denied"));
}

#[test]
fn what_was_opened_to_be_written_is_written() {
    let dir = std::env::temp_dir().join(format!("confine-write-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    fs::set_permissions(&dir, PermissionsExt::from_mode(0o777)).unwrap();
    let mut python = manager(Confinement::strict().write(&dir)).start().unwrap();
    let path = dir.join("a/b");
    run(
        &mut python,
        &format!("import os\nos.mkdir({:?})\nopen({path:?}, 'w').write('x')", dir.join("a")),
    );
    assert_eq!(fs::read_to_string(path).unwrap(), "x");
    drop(python);
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn what_was_opened_of_tcp_is_that_port_and_no_other() {
    let open = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let mut python = manager(Confinement::strict().connect_tcp(port(&open))).start().unwrap();
    let connect =
        |port| format!("import socket\nsocket.create_connection(('127.0.0.1', {port})).close()");
    run(&mut python, &connect(port(&open)));
    assert!(refused(&mut python, &connect(port(&closed))).contains("Permission denied"));
    let listen = "s = socket.socket()\ns.bind(('127.0.0.1', 0))\ns.listen()";
    assert!(refused(&mut python, listen).starts_with("PermissionError"));

    let mut server = manager(Confinement::strict().bind_tcp(0)).start().unwrap();
    run(&mut server, &format!("import socket\n{listen}"));
    assert!(refused(&mut server, &connect(port(&open))).contains("Permission denied"));
}

#[test]
fn what_was_opened_of_the_environment_is_those_names() {
    // SAFETY: read by children only, and by nobody in this process at the time.
    unsafe { std::env::set_var("SESSILE_CONFINE_OPEN", "yes") };
    // SAFETY: as above.
    unsafe { std::env::set_var("SESSILE_CONFINE_CLOSED", "no") };
    let opened = Confinement::strict().environment(["SESSILE_CONFINE_OPEN"]);
    let mut python = manager(opened).env("SESSILE_CONFINE_SET", "set").start().unwrap();
    let names = "import os\nprint(sorted(n for n in os.environ if 'SESSILE_CONFINE' in n))";
    assert_eq!(run(&mut python, names), "['SESSILE_CONFINE_OPEN', 'SESSILE_CONFINE_SET']\n");
}

#[test]
fn what_was_opened_of_programs_runs_and_stays_confined() {
    let targets = Targets::new();
    let opened = Confinement::strict().processes(64).program("/bin/cat");
    let mut python = CPythonManager::new().python(system_python()).confine(opened).start().unwrap();
    let cat = |path: &Path| {
        format!(
            "import subprocess\nprint(subprocess.run(['/bin/cat', {path:?}], capture_output=True, text=True))"
        )
    };
    run(&mut python, "open('own', 'w').write('mine')");
    assert!(run(&mut python, &cat(Path::new("own"))).contains("stdout='mine'"));
    let outside = run(&mut python, &cat(&targets.dir.join("secret")));
    assert!(outside.contains("Permission denied"), "{outside}");
    assert!(refused(&mut python, "subprocess.run(['/bin/ls'])").contains("Permission denied"));
}

#[test]
fn what_was_opened_of_metadata_is_changed() {
    let mut python = manager(Confinement::strict().change_metadata()).start().unwrap();
    run(
        &mut python,
        "import os, shutil\nopen('a', 'w').close()\nos.chmod('a', 0o600)\nshutil.copy2('a', 'b')",
    );
    let mut strict = manager(Confinement::strict()).start().unwrap();
    run(&mut strict, "import os\nopen('a', 'w').close()");
    assert!(refused(&mut strict, "os.chmod('a', 0o600)").contains("Operation not permitted"));
}

#[test]
fn what_was_asked_for_and_cannot_be_had_fails_the_start_by_name() {
    let missing = manager(Confinement::strict().read("/no/such/place")).start().unwrap_err();
    assert!(missing.to_string().contains("/no/such/place"), "{missing}");

    // Sockets by path are told apart by newer kernels only.
    let targets = Targets::new();
    let asked = Confinement::strict().unix_socket(targets.dir.join("stream.sock"));
    let connect = format!(
        "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect({:?})",
        targets.dir.join("stream.sock")
    );
    match manager(asked.clone()).start() {
        Ok(mut python) => _ = run(&mut python, &connect),
        Err(error) => {
            assert!(error.to_string().contains("sockets by path"), "{error}");
            let mut python = manager(asked.best_effort()).start().unwrap();
            let enforcement = python.enforcement().unwrap();
            assert!(!enforcement.is_complete());
            assert!(enforcement.missing[0].contains("sockets by path"), "{enforcement}");
            assert!(refused(&mut python, &connect).contains("Operation not permitted"));
        }
    }
}

// ---- what goes on working --------------------------------------------------------------------

#[test]
fn a_confined_session_is_interrupted_and_keeps_its_state() {
    let mut python = manager(Confinement::strict()).start().unwrap();
    run(&mut python, "kept = 7");
    let handle = python.interrupt_handle();
    let interrupter = thread::spawn(move || {
        thread::sleep(Duration::from_millis(200));
        handle.interrupt();
    });
    let error = python.run("while True: pass").unwrap().error.unwrap();
    assert_eq!(error.name, "KeyboardInterrupt");
    interrupter.join().unwrap();
    assert_eq!(run(&mut python, "print(kept)"), "7\n");
}

#[test]
fn the_registry_says_what_a_session_is_held_to() {
    let registry = Registry::new();
    let note = |confinement| {
        let pool = Pool::builder(manager(confinement)).registry(&registry).build().unwrap();
        pool.with(|_| registry.snapshot().instances[0].note.clone().unwrap()).unwrap()
    };
    let strict = note(Confinement::strict());
    assert!(strict.starts_with("Python 3.") && strict.ends_with(", confined"), "{strict}");
    let targets = Targets::new();
    let asked = Confinement::strict().unix_socket(targets.dir.join("stream.sock"));
    if manager(asked.clone()).start().is_err() {
        let partly = note(asked.best_effort());
        assert!(partly.contains("confined but for: sockets by path"), "{partly}");
    }
}

#[test]
fn spares_are_confined_too() {
    let manager = manager(Confinement::strict()).spares(1);
    assert!(manager.warm_up(Duration::from_secs(30)));
    let mut python = manager.start().unwrap();
    assert!(python.enforcement().unwrap().is_complete());
    assert!(refused(&mut python, "open('/etc/passwd')").contains("Permission denied"));
    python.reset().unwrap();
    assert!(refused(&mut python, "open('/etc/passwd')").contains("Permission denied"));
}

#[test]
fn threads_loops_and_temporary_files_work_under_strict() {
    let mut python = manager(Confinement::strict()).start().unwrap();
    run(
        &mut python,
        "import asyncio, concurrent.futures, json, sqlite3, subprocess, tempfile, threading, zoneinfo\n\
         assert asyncio.run(asyncio.sleep(0, 5)) == 5\n\
         with concurrent.futures.ThreadPoolExecutor(4) as pool:\n    assert sum(pool.map(abs, range(9))) == 36\n\
         with tempfile.TemporaryDirectory() as d:\n    open(d + '/a', 'w').close()\n\
         tempfile.NamedTemporaryFile().write(b'x')\n\
         db = sqlite3.connect('file.db')\ndb.execute('create table t(a)')\ndb.commit()\n\
         import os\nos.rename('file.db', 'renamed.db')\nos.symlink('renamed.db', 'link')\nos.mkfifo('fifo')",
    );
}

/// What agents' cells import, with nothing opened.
#[test]
fn numbers_tables_and_plots_work_under_strict() {
    let requirements = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/jupyter/requirements.txt");
    let python = venv::python(requirements.as_ref());
    let manager = CPythonManager::new().python(python).start_timeout(Duration::from_secs(60));
    let mut python = manager.confine(Confinement::strict()).start().unwrap();
    run(
        &mut python,
        "import numpy, pandas\n\
         assert numpy.linalg.inv(numpy.eye(200)).sum() == 200\n\
         frame = pandas.DataFrame({'a': [1, 2]})\nframe.to_csv('a.csv')\n\
         assert pandas.read_csv('a.csv')['a'].sum() == 3",
    );
    let plot = python.run("import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()").unwrap();
    assert!(plot.is_ok(), "{}", plot.to_markdown());
    assert!(format!("{:?}", plot.outputs).contains("image/png"), "{plot:?}");
}

#[test]
fn processes_work_once_they_are_opened() {
    let opened = Confinement::strict().processes(64).write("/dev/shm");
    let mut python = CPythonManager::new().python(system_python()).confine(opened).start().unwrap();
    run(
        &mut python,
        "import multiprocessing as mp\n\
         with mp.get_context('fork').Pool(2) as pool:\n    print(pool.map(abs, [-1, -2]))\n\
         q = mp.Queue(); q.put(1); print(q.get())",
    );
}

// ---- limits ----------------------------------------------------------------------------------

#[test]
fn a_session_that_fills_its_directory_is_ended_and_the_error_says_so() {
    let mut python = manager(Confinement::strict().max_disk(8 << 20)).start().unwrap();
    let fill = "i = 0\nwhile True:\n    open(f'f{i}', 'wb').write(bytes(1 << 20))\n    i += 1";
    let error = python.run(fill).unwrap_err();
    assert!(error.to_string().contains("its directory holds"), "{error}");
}

/// What cannot be counted counts as too much.
#[test]
fn a_directory_that_is_hidden_from_the_limit_ends_the_session() {
    let mut python = manager(Confinement::strict().max_disk(8 << 20)).start().unwrap();
    let hide = "import os, time\n\
                for _ in range(20):\n    os.mkdir('n' * 250)\n    os.chdir('n' * 250)\n\
                time.sleep(60)";
    let error = python.run(hide).unwrap_err();
    assert!(error.to_string().contains("cannot be looked into"), "{error}");
}

#[test]
fn too_many_processes_are_refused_to_whoever_starts_them() {
    let opened = Confinement::strict().processes(16);
    let mut python = CPythonManager::new().python(system_python()).confine(opened).start().unwrap();
    if python.enforcement().unwrap().user.0 == 0 {
        panic!("root cannot be limited, and was let in");
    }
    let error = refused(
        &mut python,
        "import os, signal\nstarted = []\n\
         try:\n    while True:\n        pid = os.fork()\n        if pid == 0:\n            signal.pause()\n        started.append(pid)\n\
         finally:\n    for pid in started: os.kill(pid, 9), os.waitpid(pid, 0)",
    );
    assert!(error.starts_with("BlockingIOError"), "{error}");
    assert_eq!(run(&mut python, "print(len(started) < 16)"), "True\n");
}

#[test]
fn threads_without_end_are_refused_to_whoever_starts_them() {
    let start = "import threading\n\
                 threading.stack_size(128 * 1024)\n\
                 started, go = 0, threading.Event()\n\
                 try:\n    while started < 3000:\n        threading.Thread(target=go.wait).start()\n        started += 1\n\
                 finally:\n    go.set()";
    let free = CPythonManager::new().python(system_python());
    let mut confined = free.clone().confine(Confinement::strict()).start().unwrap();
    let (user, _) = confined.enforcement().unwrap().user;
    assert_ne!(user, 0, "root cannot be limited, and this interpreter can be read by others");
    let error = refused(&mut confined, start);
    assert!(error.starts_with("RuntimeError"), "{error}");
    assert_eq!(run(&mut confined, "print(0 < started < 3000)"), "True\n");
    assert_eq!(run(&mut free.start().unwrap(), start), "");
}

// ---- at random -------------------------------------------------------------------------------

/// What the random calls must leave as it is.
fn outside(targets: &Targets) -> String {
    let mut seen = String::new();
    let mut paths: Vec<_> =
        fs::read_dir(&targets.dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.push("/etc/passwd".into());
    for path in paths {
        let found = fs::symlink_metadata(&path).unwrap();
        seen += &format!(
            "{path:?} {:o} {} {} {} {}\n",
            found.mode(),
            found.uid(),
            found.gid(),
            found.size(),
            found.mtime()
        );
    }
    for path in ["/proc/self/mountinfo", "/proc/sys/kernel/hostname", "/proc/self/limits"] {
        seen += &fs::read_to_string(path).unwrap();
    }
    let victim = fs::read_to_string(format!("/proc/{}/stat", targets.victim.id())).unwrap();
    let goes_on = matches!(victim.split(' ').nth(2), Some("R" | "S" | "D"));
    seen + &format!("the victim goes on: {goes_on}")
}

/// `SESSILE_SOAK_SECONDS` makes it longer.
#[test]
fn random_system_calls_change_nothing_outside() {
    let seconds = std::env::var("SESSILE_SOAK_SECONDS").map_or(3_u64, |text| text.parse().unwrap());
    let seed =
        std::env::var("SESSILE_SOAK_SEED").map_or(std::process::id(), |text| text.parse().unwrap());
    let targets = Targets::new();
    let before = outside(&targets);
    let confinement = Confinement::strict().processes(64).keep_proc();
    let manager = CPythonManager::new().python(system_python()).confine(confinement);
    let mut python = manager.start().unwrap();
    let calls = include_str!("confine/random_calls.py");
    run(&mut python, &format!("import json\nTARGETS = json.loads({:?})\n{calls}", targets.json));
    let options = ExecuteOptions::new().timeout(Duration::from_secs(seconds + 60));
    let done = python.execute(&format!("attack({seconds}, {seed})"), &options).unwrap();
    assert!(done.is_ok(), "seed {seed}: {}", done.to_markdown());
    let batches: u64 = done.text().unwrap().parse().unwrap();
    println!("seed {seed}: {batches} batches of 300 calls");
    assert!(batches > 0);
    let after = outside(&targets);
    for (after, before) in after.lines().zip(before.lines()) {
        assert_eq!(after, before, "seed {seed}");
    }
    assert_eq!(after.len(), before.len(), "seed {seed}");
}

// ---- files in and out ------------------------------------------------------------------------

/// Between a look and the opening of what was looked at there is time enough for a cell.
#[test]
fn no_race_of_links_leads_a_file_of_ours_outside() {
    let targets = Targets::new();
    let outside = targets.dir.join("race");
    fs::create_dir(&outside).unwrap();
    fs::set_permissions(&outside, PermissionsExt::from_mode(0o777)).unwrap();
    fs::write(outside.join("taken"), "secret").unwrap();
    for manager in
        [CPythonManager::new().private_dir(), CPythonManager::new().confine(Confinement::strict())]
    {
        let mut python = manager.python(system_python()).start().unwrap();
        let flip = format!(
            "import os, threading\nos.mkdir('real')\n\
             os.symlink({outside:?}, 'out')\nos.symlink('real', 'in')\n\
             def flip():\n    while True:\n        for to in {outside:?}, 'real':\n            \
             os.symlink(to, 'new')\n            os.rename('new', 'sub')\n\
             threading.Thread(target=flip, daemon=True).start()"
        );
        run(&mut python, &flip);
        let mut written = 0;
        for _ in 0..3000 {
            written += usize::from(python.put_file("sub/file", "ours").is_ok());
            if let Ok(data) = python.take_file("sub/taken") {
                assert_ne!(data, b"secret");
            }
        }
        assert!(written > 0, "the race was never won, so it shows nothing");
        assert!(!outside.join("file").exists());
        assert!(python.take_file("out/taken").is_err());
        python.put_file("in/file", "a link that stays inside is followed").unwrap();
    }
}

#[test]
fn a_file_that_was_put_in_belongs_to_the_session() {
    let manager = CPythonManager::new().python(system_python()).confine(Confinement::strict());
    let mut python = manager.start().unwrap();
    python.put_file("a/b/data", "ours").unwrap();
    run(
        &mut python,
        "with open('a/b/data', 'a') as f: f.write(' and theirs')\nopen('a/new', 'w').close()",
    );
    assert_eq!(python.take_file("a/b/data").unwrap(), b"ours and theirs");
    assert_eq!(python.files().unwrap(), [Path::new("a/b/data"), Path::new("a/new")]);
}

// ---- code of its own, memory, threads ----------------------------------------------------------

/// A cell may bring machine code; that runs in the same process, held by the same rules.
#[test]
fn a_library_of_the_cells_own_gains_it_nothing() {
    let targets = Targets::new();
    let mut python = manager(Confinement::strict()).start().unwrap();
    // One that the system has, under a name of the cell's: a compiler need not be there.
    let code = format!(
        "import ctypes, ctypes.util, glob, shutil\n\
         found = glob.glob('/lib/*/libc.so.6') + glob.glob('/lib64/libc.so.6') + glob.glob('/usr/lib/libc.so.6')\n\
         shutil.copyfile(found[0], 'mine.so')\n\
         mine = ctypes.CDLL('./mine.so', use_errno=True)\n\
         assert mine.open({:?}.encode(), 0) == -1\n\
         assert mine.socket(2, 1, 0) == -1\n\
         assert mine.fork() == -1\n\
         assert mine.open(b'own', 0o101, 0o600) > 0",
        targets.dir.join("secret")
    );
    run(&mut python, &code);
}

#[test]
fn memory_without_end_is_an_error_of_the_cell_and_the_session_goes_on() {
    let manager = manager(Confinement::strict()).max_memory(256 << 20);
    let mut python = manager.start().unwrap();
    run(&mut python, "kept = 1");
    assert!(refused(&mut python, "taken = bytearray(1 << 30)").starts_with("MemoryError"));
    assert_eq!(run(&mut python, "print(kept)"), "1\n");
}
