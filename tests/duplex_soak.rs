//! Two sessions that call each other from many threads, over a line that is cut, or with a process that
//! is killed, again and again.
//!
//! `SESSILE_SOAK_SEED` sets the seed. It fixes what each thread asks for, not how they interleave.

#![cfg(all(feature = "duplex", unix))]

#[path = "support/allocated.rs"]
mod allocated;
#[path = "support/peer.rs"]
mod peer;
mod support;

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use allocated::allocated;
use serde_json::{Value, json};
#[cfg(feature = "ws")]
use sessile::session::duplex::{AcceptOptions, WebSocket};
use sessile::session::duplex::{
    ChildStdio, ContentLength, Framing, Invoker, Listener, Next, Request, Server, Session,
    SessionBuilder, Stdio, Tcp,
};
use sessile::session::{JsonRpc, SessionError};
use sessile::{Pool, Workers, from_fn};
use support::{PATIENCE, poll_until};

const CALLERS: u64 = 6;

/// Small, and the same for the same seed.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn throw(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }
}

/// What came of it all.
#[derive(Debug, Default)]
struct Tally {
    answered: AtomicU64,
    lost: AtomicU64,
    refused: AtomicU64,
    timed_out: AtomicU64,
    dropped: AtomicU64,
    called_back: AtomicU64,
    /// Of the line, or kills of the process.
    cuts: AtomicU64,
    /// Asked twice, or a thread of a handler that has panicked.
    wrong: AtomicU64,
    /// Threads of handlers that still run.
    running: AtomicI64,
    /// What the peer was asked, each with a number of its own: never twice.
    asked: Mutex<HashSet<u64>>,
    next: AtomicU64,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Tally {
    fn failed(&self, error: &SessionError) {
        if error.is_lost() || error.is_closed() || error.is_ended() {
            add(&self.lost);
        } else if error.remote().is_some() {
            add(&self.refused);
        } else {
            // Everybody answers at once: whose answer takes so long has lost it.
            panic!("neither answered nor lost: {error:?}");
        }
    }

    /// Asks for one answer, to something that is asked nowhere else.
    fn call(&self, invoker: &Invoker, method: &str) -> bool {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        match invoker
            .call::<u64>(method, &json!({"n": number, "x": "x".repeat(number as usize % 3000)}))
        {
            Ok(answer) => {
                assert_eq!(answer, number, "the answer is another's");
                add(&self.answered);
                true
            }
            Err(error) => {
                self.failed(&error);
                false
            }
        }
    }

    /// Has a thread call back on behalf of the request, which may be answered by then.
    fn calls_back(self: &Arc<Self>, request: &Request, method: &'static str) {
        let (tally, invoker) = (Arc::clone(self), request.invoker());
        self.running.fetch_add(1, Ordering::SeqCst);
        thread::spawn(move || {
            struct Ends(Arc<Tally>);
            impl Drop for Ends {
                fn drop(&mut self) {
                    if thread::panicking() {
                        add(&self.0.wrong);
                    }
                    self.0.running.fetch_sub(1, Ordering::SeqCst);
                }
            }
            let ends = Ends(Arc::clone(&tally));
            if tally.call(&invoker, method) {
                add(&tally.called_back);
            }
            drop((invoker, ends));
        });
    }
}

/// What either side does with what it is asked.
fn handled(builder: SessionBuilder, tally: &Arc<Tally>) -> SessionBuilder {
    let pool = Pool::builder(from_fn(|_| ()));
    let workers = Workers::<()>::builder(pool).threads(2).queue_capacity(256);
    let workers: Workers<()> = workers.build().unwrap();
    let tally = Arc::clone(tally);
    builder.request_handlers(workers, move |(), request: Request| {
        let number = request.parse::<Value>().unwrap()["n"].as_u64().unwrap();
        let first = tally.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
        if !first {
            add(&tally.wrong); // a panic would only be an error to the asker
        }
        match request.method() {
            "pid" => return request.respond(&std::process::id()).unwrap_or_default(),
            "count" => {
                for n in 0..number % 20 {
                    if request.item(&n).is_err() {
                        return; // it was called off, or is lost
                    }
                }
            }
            // Three deep: there, here, and there once more.
            "deep" => tally.calls_back(&request, "deeper"),
            "deeper" => tally.calls_back(&request, "echo"),
            _ => {}
        }
        if request.method() != "never" {
            let _ = request.respond(&number); // its error is the asker's to see
        } else {
            while !request.is_cancelled() {
                thread::yield_now();
            }
        }
    })
}

fn soaks(invoker: &Invoker, tally: &Tally, mut dice: Dice, end: Instant) {
    while Instant::now() < end {
        let number = || {
            let number = tally.next.fetch_add(1, Ordering::Relaxed);
            json!({"n": number, "y": "y".repeat(number as usize % 100)})
        };
        match dice.throw(20) {
            0..10 => drop(tally.call(invoker, "echo")),
            10..13 => drop(tally.call(invoker, "deep")),
            13..16 => {
                let asked = number();
                let answers = match invoker.invoke("count", &asked) {
                    Ok(answers) => answers,
                    Err(error) => {
                        tally.failed(&error);
                        continue;
                    }
                };
                let n = asked["n"].as_u64().unwrap();
                let mut expected: Vec<_> = (0..n % 20).chain([n]).rev().collect();
                for answer in answers {
                    match answer {
                        Ok(answer) => {
                            assert_eq!(Some(answer.parse().unwrap()), expected.pop());
                        }
                        Err(error) => {
                            tally.failed(&error);
                            expected.clear();
                        }
                    }
                }
                assert!(expected.is_empty(), "{expected:?} is missing");
                add(&tally.answered);
            }
            16..19 => {
                let answers = invoker.invoke("count", number());
                for _ in 0..dice.throw(200) {
                    std::hint::spin_loop();
                }
                drop(answers);
                add(&tally.dropped);
            }
            _ => {
                let brief = invoker.clone().timeout(Duration::from_millis(dice.throw(5)));
                match brief.call::<u64>("never", &number()) {
                    Ok(_) => panic!("it is never answered"),
                    Err(error) if error.is_timeout() => add(&tally.timed_out),
                    Err(error) => tally.failed(&error),
                }
            }
        }
    }
}

// ---- the line -----------------------------------------------------------------------------------

/// Dials on behalf of whoever dials it, and cuts each connection after a number of bytes by the dice:
/// mostly in the middle of a frame.
struct Line {
    address: String,
    over: Arc<AtomicBool>,
    accepts: JoinHandle<()>,
}

impl Line {
    fn new(to: String, mut dice: Dice, tally: &Arc<Tally>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let over = Arc::new(AtomicBool::new(false));
        let (is_over, tally) = (Arc::clone(&over), Arc::clone(tally));
        let accepts = thread::spawn(move || {
            let mut pumps: Vec<JoinHandle<()>> = Vec::new();
            loop {
                let near = listener.accept().unwrap().0;
                if is_over.load(Ordering::SeqCst) {
                    break;
                }
                pumps.retain(|pump| !pump.is_finished());
                let far = TcpStream::connect(&to).unwrap();
                near.set_nodelay(true).unwrap();
                far.set_nodelay(true).unwrap();
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (left, tally) = (1 + dice.throw(300_000), Arc::clone(&tally));
                    let dice = Dice(dice.throw(1 << 40) | 1);
                    pumps.push(thread::spawn(move || pump(&from, &to, left, dice, &tally)));
                }
            }
            pumps.into_iter().for_each(|pump| pump.join().unwrap());
        });
        Self { address, over, accepts }
    }

    fn end(self) {
        self.over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(&self.address).unwrap());
        self.accepts.join().unwrap();
    }
}

fn pump(mut from: &TcpStream, mut to: &TcpStream, mut left: u64, mut dice: Dice, tally: &Tally) {
    let mut buffer = vec![0; 16 << 10];
    while left > 0 {
        let most = (1 + dice.throw(buffer.len() as u64)).min(left) as usize;
        let Ok(read @ 1..) = from.read(&mut buffer[..most]) else { break };
        left -= read as u64;
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    if left == 0 {
        add(&tally.cuts);
    }
    for stream in [from, to] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// How frames lie on the line.
#[derive(Clone, Copy, Debug)]
enum Over {
    Lines,
    ContentLength,
    /// One that a user may have written.
    Lengths,
    #[cfg(feature = "ws")]
    WebSocket,
}

/// A frame comes after its length, in four bytes.
#[derive(Clone)]
struct Lengths;

impl Framing for Lengths {
    fn encode(&mut self, frame: &[u8], out: &mut Vec<u8>) {
        out.extend(u32::try_from(frame.len()).unwrap().to_be_bytes());
        out.extend(frame);
    }

    fn decode(&mut self, bytes: &[u8], _seen: usize) -> io::Result<Next> {
        let Some(length) = bytes.first_chunk::<4>() else { return Ok(Next::More) };
        let length = u32::from_be_bytes(*length) as usize;
        Ok(Next::Frame { begin: 4, length, end: 4 + length })
    }
}

impl Over {
    fn framed(self, builder: SessionBuilder) -> SessionBuilder {
        match self {
            Self::ContentLength => builder.framing(ContentLength::new()),
            Self::Lengths => builder.framing(Lengths),
            _ => builder,
        }
    }

    fn listener(self) -> Listener {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        match self {
            #[cfg(feature = "ws")]
            Self::WebSocket => Listener::websocket(listener, AcceptOptions::new()),
            _ => listener.into(),
        }
    }

    /// Goes on trying, for the line may be cut before there is anything to be lost.
    fn dials(self, builder: SessionBuilder, address: &str) -> Session {
        let builder = self.framed(builder);
        let session = match self {
            #[cfg(feature = "ws")]
            Self::WebSocket => builder.start(WebSocket::new(format!("ws://{address}"))),
            _ => builder.start(Tcp::new(address)),
        };
        let session = session.unwrap();
        session.wait_connected(PATIENCE).unwrap();
        session
    }
}

/// Nothing of it is left, whatever it went through.
fn ends(session: &Session) {
    assert!(session.close(PATIENCE), "{session:?}");
    let nothing = || (session.stats().in_flight, session.stats().queued_bytes) == (0, 0);
    poll_until("nothing is in flight or queued", nothing);
}

/// Ends the process where it hangs, and says how far it has come.
struct Watchdog {
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Watchdog {
    fn new(limit: Duration, tally: &Arc<Tally>, session: &Arc<Session>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let (tally, session) = (Arc::clone(tally), Arc::downgrade(session));
        let end = Instant::now() + limit;
        let thread = thread::spawn(move || {
            while !is_over.load(Ordering::SeqCst) {
                if Instant::now() > end {
                    let session = session.upgrade();
                    eprintln!("it hangs: {session:?}\n{:?}", Summary(&tally));
                    std::process::abort();
                }
                thread::park_timeout(end.saturating_duration_since(Instant::now()));
            }
        });
        Self { over, thread }
    }

    fn end(self) {
        self.over.store(true, Ordering::SeqCst);
        self.thread.thread().unpark();
        self.thread.join().unwrap();
    }
}

/// Without all the numbers that were asked.
struct Summary<'a>(&'a Tally);

impl std::fmt::Debug for Summary<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Tally { answered, lost, refused, timed_out, dropped, called_back, cuts, .. } = self.0;
        f.debug_struct("Tally")
            .field("answered", answered)
            .field("lost", lost)
            .field("refused", refused)
            .field("timed_out", timed_out)
            .field("dropped", dropped)
            .field("called_back", called_back)
            .field("cuts", cuts)
            .field("running", &self.0.running)
            .finish_non_exhaustive()
    }
}

// ---- the process --------------------------------------------------------------------------------

/// Set in the process that is killed; what went wrong there is noted in the file of this name.
const NOTES: &str = "SESSILE_SOAK_NOTES";

/// Not a test unless it is started by one below: then it is the peer, over its standard input and
/// output.
#[test]
fn is_the_peer_of_a_session_in_another_process() {
    let Some(notes) = std::env::var_os(NOTES) else { return };
    let tally = Arc::new(Tally::default());
    // Each life has numbers of its own: a nanosecond is less than it takes to ask.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    tally.next.store(now.as_nanos() as u64, Ordering::Relaxed);
    let watched = Arc::clone(&tally);
    thread::spawn(move || {
        loop {
            if get(&watched.wrong) > 0 {
                std::fs::write(&notes, format!("{:?}", Summary(&watched))).unwrap();
            }
            thread::park_timeout(Duration::from_millis(5));
        }
    });
    let builder = Session::builder(JsonRpc::new().partial_results()).request_timeout(PATIENCE);
    let session = handled(builder, &tally).connect(Stdio::new()).unwrap();
    while !session.wait_closed(PATIENCE) {}
    std::process::exit(0); // before anything else is written
}

/// Kills the session's peer at times by the dice, until the session is closed.
struct Killer {
    kills: JoinHandle<Vec<u32>>,
}

impl Killer {
    fn new(invoker: Invoker, mut dice: Dice, tally: &Arc<Tally>) -> Self {
        let tally = Arc::clone(tally);
        let kills = thread::spawn(move || {
            let mut killed = Vec::new();
            loop {
                let number = tally.next.fetch_add(1, Ordering::Relaxed);
                let pid = match invoker.call::<u32>("pid", &json!({"n": number})) {
                    Ok(pid) => pid,
                    Err(error) if error.is_closed() => break,
                    Err(_) => continue,
                };
                thread::park_timeout(Duration::from_micros(dice.throw(200_000)));
                let kill = Command::new("kill").args(["-KILL", &pid.to_string()]).output();
                if kill.unwrap().status.success() {
                    add(&tally.cuts);
                    killed.push(pid);
                } else {
                    let over = invoker.notify("over?", ()).unwrap_err();
                    assert!(over.is_closed(), "it was gone before it was killed: {over:?}");
                }
            }
            killed
        });
        Self { kills }
    }

    fn end(self) {
        self.kills.thread().unpark();
        for pid in self.kills.join().unwrap() {
            let place = format!("/proc/{pid}");
            poll_until("what was killed is reaped", || !std::path::Path::new(&place).exists());
        }
    }
}

// ---- the soak -----------------------------------------------------------------------------------

/// A session, and how what it needs is ended after it.
type Joined = (Session, Box<dyn FnOnce()>);

fn over_a_line(over: Over, builder: SessionBuilder, mut dice: Dice, tally: &Arc<Tally>) -> Joined {
    let heard = Arc::clone(tally);
    let server = Server::builder(move |_| {
        let builder = Session::builder(JsonRpc::new().partial_results());
        // One whose line was cut may still listen, as far as this side knows: not for long.
        let builder = builder.request_timeout(PATIENCE).drain_timeout(Duration::from_millis(50));
        over.framed(handled(builder, &heard))
    });
    let server = server.listen(over.listener()).unwrap();
    let to = server.local_addr().unwrap().to_string();
    let line = Line::new(to, Dice(dice.throw(1 << 40) | 1), tally);
    let session = over.dials(builder, &line.address);
    let ends = move || {
        line.end();
        let report = server.close(PATIENCE);
        assert!(report.is_complete(), "{report:?}");
        assert!(server.wait_closed(PATIENCE));
    };
    (session, Box::new(ends))
}

fn with_a_process(builder: SessionBuilder, dice: Dice, tally: &Arc<Tally>) -> Joined {
    let notes = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let notes = notes.join(format!("soak-{}", std::process::id()));
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "is_the_peer_of_a_session_in_another_process", "--nocapture"])
        .env(NOTES, &notes)
        .stderr(std::process::Stdio::null());
    let session = builder.connect(ChildStdio::new(command)).unwrap();
    let killer = Killer::new(session.invoker(), dice, tally);
    let ends = move || {
        killer.end();
        assert!(!notes.exists(), "{}", std::fs::read_to_string(&notes).unwrap());
    };
    (session, Box::new(ends))
}

/// What may stay allocated: of the process and of the test's thread, not of calls.
const LEFT: usize = 64 << 10;

fn soak(lasts: Duration, joined: impl FnOnce(SessionBuilder, Dice, &Arc<Tally>) -> Joined) {
    let (before, bytes) = (peer::left(), allocated());
    let seed = seed();
    eprintln!("the seed is {seed}");
    let mut dice = Dice(seed | 1);
    let tally = Arc::new(Tally::default());
    let builder = Session::builder(JsonRpc::new().partial_results()).request_timeout(PATIENCE);
    let again = builder.reconnect(Duration::from_millis(1), Duration::from_millis(20));
    let (session, ends_peer) =
        joined(handled(again, &tally), Dice(dice.throw(1 << 40) | 1), &tally);
    let session = Arc::new(session);
    let watchdog = Watchdog::new(lasts + 2 * PATIENCE, &tally, &session);

    let end = Instant::now() + lasts;
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (invoker, tally) = (session.invoker(), Arc::clone(&tally));
            let dice = Dice(dice.throw(1 << 40) | 1);
            thread::spawn(move || soaks(&invoker, &tally, dice, end))
        })
        .collect();
    let failed = callers.into_iter().filter_map(|caller| caller.join().err()).count();
    assert_eq!(failed, 0, "{:?}", Summary(&tally));
    poll_until("no thread of a handler is left", || tally.running.load(Ordering::SeqCst) == 0);
    let nothing = || (session.stats().in_flight, session.stats().queued_bytes) == (0, 0);
    poll_until("nothing is in flight or queued", nothing);
    eprintln!("{:?}\n{session:?}", Summary(&tally));
    assert_eq!(session.stats().unknown, 0);
    assert_eq!((session.stats().panics, get(&tally.wrong)), (0, 0));
    for of in [&tally.answered, &tally.called_back, &tally.cuts, &tally.dropped, &tally.timed_out] {
        assert!(get(of) > 0, "{:?}", Summary(&tally));
    }
    assert!(session.stats().connections > 1);

    ends(&session);
    ends_peer();
    watchdog.end();
    drop((session, tally));
    poll_until("no thread and no descriptor is left", || {
        let left = peer::left();
        left.0 <= before.0 && left.1 <= before.1
    });
    let left = || allocated().saturating_sub(bytes);
    poll_until("no buffer is left", || left() < LEFT);
    eprintln!("{} bytes are left", left());
}

fn seed() -> u64 {
    let given = std::env::var("SESSILE_SOAK_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| u64::from(std::process::id()) << 8 | 0x5e55_11e0_0000_0001)
}

const BRIEFLY: Duration = Duration::from_millis(1500);
const LONG: Duration = Duration::from_secs(60);

fn soaks_over_all(lasts: Duration) {
    let all = [
        Over::Lines,
        Over::ContentLength,
        Over::Lengths,
        #[cfg(feature = "ws")]
        Over::WebSocket,
    ];
    for over in all {
        eprintln!("over {over:?}");
        soak(lasts, |builder, dice, tally| over_a_line(over, builder, dice, tally));
    }
    eprintln!("with a process");
    soak(lasts, with_a_process);
}

/// One after the other in one test, for what others of this process do is counted as well.
#[test]
fn calls_are_lost_or_something_is_left_of_a_line_that_is_cut_or_a_peer_that_is_killed() {
    soaks_over_all(BRIEFLY);
}

#[test]
#[ignore = "takes five minutes"]
fn calls_are_lost_or_something_is_left_after_a_minute_of_each() {
    soaks_over_all(LONG);
}
