//! The end of the process: `main` returns, or is left, while other threads have instances.
//!
//! Needs a `main` of its own, hence no harness. Run without [`SCENE`], it is the test: it runs itself
//! once for each scene, and looks at what that process said before its end.

#![cfg_attr(not(unix), allow(dead_code))]

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use sessile::manager::CloseReason;
use sessile::{CreateContext, Manager, Pool, Registry};

const SCENE: &str = "SESSILE_SCENE";
const PATIENCE: Duration = Duration::from_secs(30);

/// Says what it does, on a thread that may be among its last moments.
struct Talks;

fn say(words: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{words}").and_then(|()| out.flush()).expect("somebody listens");
}

impl Manager for Talks {
    type Instance = String;

    fn create(&self, cx: &CreateContext) -> anyhow::Result<String> {
        Ok(cx.owner().to_string())
    }

    fn close(&self, owner: String, reason: CloseReason) -> anyhow::Result<()> {
        say(&format!("{owner}: {reason}"));
        Ok(())
    }
}

fn pool() -> Pool<String> {
    Pool::new(Talks)
}

/// A thread that has an instance, idle or in use, and never ends.
fn stays(pool: &Pool<String>, name: &str, inside: bool) {
    let pool = pool.clone();
    let (tell, told) = mpsc::channel();
    let for_ever = move || -> () {
        tell.send(()).expect("somebody waits");
        loop {
            thread::park();
        }
    };
    let body = move || {
        if inside {
            pool.with(|_| for_ever()).expect("an instance");
        } else {
            pool.with(|_| ()).expect("an instance");
            for_ever();
        }
    };
    thread::Builder::new().name(name.to_owned()).spawn(body).expect("a thread");
    told.recv_timeout(PATIENCE).expect("it gets there");
}

/// Name, what it plays, exit code, and what must have been said.
type Scene = (&'static str, fn(), i32, &'static [&'static str]);

const SCENES: &[Scene] = &[
    (
        "main returns, and what idle threads have stays open",
        || {
            let _guard = Registry::global().close_on_drop(PATIENCE);
            let pool = pool();
            stays(&pool, "a", false);
            stays(&pool, "b", false);
            pool.with(|_| ()).expect("an instance");
        },
        0,
        &["a: pool closed", "b: pool closed", "main: pool closed"],
    ),
    (
        "main returns, and waits for ever for a thread that is busy",
        || {
            let _guard = Registry::global().close_on_drop(Duration::from_millis(50));
            let pool = pool();
            stays(&pool, "busy", true);
            stays(&pool, "idle", false);
        },
        0,
        &["idle: pool closed"],
    ),
    (
        "main panics, and the guard is forgotten",
        || {
            let _guard = Registry::global().close_on_drop(PATIENCE);
            let pool = pool();
            stays(&pool, "a", false);
            panic!("on purpose");
        },
        101,
        &["a: pool closed"],
    ),
    (
        "the process is left inside an instance of main's, with everything closed first",
        || {
            let pool = pool();
            stays(&pool, "a", false);
            let code = pool
                .with(|_| {
                    let report = Registry::global().close_all(Duration::ZERO);
                    i32::from(report.still_open.len() != 1)
                })
                .expect("an instance");
            std::process::exit(code + 3);
        },
        3,
        &["a: pool closed", "main: pool closed"],
    ),
    (
        "the process is left with a guard alive, and hangs or crashes",
        || {
            let pool: &'static Pool<String> = Box::leak(Box::new(pool()));
            stays(pool, "a", true);
            let guard = pool.get().expect("an instance");
            let _shutdown = Registry::global().close_on_drop(PATIENCE);
            assert_eq!(*guard, "main");
            std::process::exit(4);
        },
        4,
        &[],
    ),
    #[cfg(feature = "signals")]
    (
        "a signal has queued work done before the process ends by it",
        || {
            let within = PATIENCE;
            sessile::signals::close_on_termination(Registry::global(), within).expect("handlers");
            let workers = works(4);
            signal_ourselves();
            // For as long as the process lives: it is the signal that ends it.
            let _workers = workers;
            loop {
                thread::park();
            }
        },
        BY_SIGNAL,
        &["done 0", "done 1", "done 2", "done 3", "worker-0: pool closed"],
    ),
    #[cfg(feature = "signals")]
    (
        "a signal has a shutdown of one's own run, which may end the process",
        || {
            let workers = works(2);
            let registry = Registry::global();
            sessile::signals::close_on_termination_after(registry, PATIENCE, move |left| {
                assert!(left <= PATIENCE && !left.is_zero());
                let clean = workers.shutdown(left).is_clean();
                say("shut down");
                std::process::exit(if clean { 7 } else { 8 });
            })
            .expect("handlers");
            signal_ourselves();
            loop {
                thread::park();
            }
        },
        7,
        &["done 0", "done 1", "shut down", "worker-0: thread exit"],
    ),
    #[cfg(feature = "signals")]
    (
        "a shutdown that hangs is not waited for past its time",
        || {
            let registry = Registry::global();
            let within = Duration::from_millis(50);
            sessile::signals::close_on_termination_after(registry, within, |_| {
                loop {
                    thread::park();
                }
            })
            .expect("handlers");
            signal_ourselves();
            loop {
                thread::park();
            }
        },
        BY_SIGNAL,
        &[],
    ),
];

/// Instead of an exit code.
const BY_SIGNAL: i32 = -1;

/// One worker, which is not done with the first of so many works before the last is queued.
#[cfg(feature = "signals")]
fn works(count: u32) -> sessile::Workers<String> {
    let workers = sessile::Workers::builder(Pool::builder(Talks)).threads(1).build().expect("one");
    let (all, queued) = mpsc::channel::<()>();
    let mut queued = Some(queued);
    for n in 0..count {
        let first = queued.take();
        let work = move |_: &mut String| {
            if let Some(queued) = first {
                let _ = queued.recv();
            }
            say(&format!("done {n}"));
        };
        workers.submit(work).expect("it is open").detach();
    }
    drop(all);
    workers
}

#[cfg(feature = "signals")]
fn signal_ourselves() {
    let this = std::process::id().to_string();
    let sent = Command::new("kill").args(["-INT", &this]).status().expect("there is a `kill`");
    assert!(sent.success());
}

fn play(name: &str) {
    let scene = SCENES.iter().find(|scene| scene.0 == name);
    scene.expect("there is such a scene").1();
}

/// Runs the scene in a process of its own. `Err` is what was wrong.
fn judge(&(name, _, code, expected): &Scene) -> Result<(), String> {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut child = Command::new(this)
        .env(SCENE, name)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let watchdog = Watchdog::over(child.id());
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let err = thread::spawn(move || std::io::read_to_string(err.expect("piped")));
    let said = std::io::read_to_string(out.expect("piped")).map_err(|error| error.to_string())?;
    let status = child.wait().map_err(|error| error.to_string())?;
    drop(watchdog);
    let err = err.join().expect("no panic").unwrap_or_default();

    let mut said: Vec<_> = said.lines().collect();
    said.sort_unstable();
    if status.code().unwrap_or(BY_SIGNAL) == code && said == expected {
        return Ok(());
    }
    Err(format!("{status}, expected {code}; said {said:?}, expected {expected:?}\n{err}"))
}

/// Kills a process that hangs.
struct Watchdog(#[expect(dead_code)] mpsc::Sender<()>); // dropped, it calls it off

impl Watchdog {
    #[must_use]
    fn over(process: u32) -> Self {
        let (call_off, called_off) = mpsc::channel();
        thread::spawn(move || {
            if called_off.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = Command::new("kill").args(["-9", &process.to_string()]).status();
            }
        });
        Self(call_off)
    }
}

fn main() {
    if let Ok(scene) = std::env::var(SCENE) {
        return play(&scene);
    }
    // The two of the harness's options that other tools cannot do without.
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--nocapture");
    let filter = args.next();
    if filter.as_deref() == Some("--list") {
        return SCENES.iter().for_each(|scene| println!("{}: test", scene.0));
    }
    let chosen = |scene: &&Scene| {
        let named = filter.as_deref().filter(|filter| !filter.starts_with('-'));
        named.is_none_or(|filter| scene.0.contains(filter))
    };
    println!("\nrunning {} tests", SCENES.iter().filter(chosen).count());
    let mut failed: usize = 0;
    for scene in SCENES.iter().filter(chosen) {
        match judge(scene) {
            Ok(()) => println!("test {} ... ok", scene.0),
            Err(why) => {
                failed += 1;
                println!("test {} ... FAILED: {why}", scene.0);
            }
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    let passed = SCENES.iter().filter(chosen).count() - failed;
    println!("\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured\n");
    std::process::exit(i32::from(failed > 0));
}
