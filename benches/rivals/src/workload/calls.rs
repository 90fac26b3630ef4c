//! Calls to the echo server.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sessile::session::duplex::Invoker;

use super::{Contestant, computed, on_first};
use crate::echo::{ECHO, KEEP, server};
use crate::race::Outcome;
use crate::rivals::Client;
use crate::rivals::id_map::IdMap;
use crate::rivals::jsonrpsee::Jsonrpsee;
use crate::rivals::mutex_stream::{self, Tungstenite};
use crate::rivals::ours_connected::{Duplex, DuplexTcp, DuplexWebSocket, PerThread, Shared};

/// What came of some calls.
pub struct Calls {
    took: Duration,
    /// From the question until its answer was there; the shortest first.
    latencies: Vec<Duration>,
}

impl Calls {
    /// Where the figures are: the time of a turn divided by its calls, and of the latencies the median
    /// and the 99th percentile.
    pub const EACH: usize = 0;
    pub const MEDIAN: usize = 1;
    pub const SLOW: usize = 2;
}

impl Outcome for Calls {
    const FIGURES: usize = 3;

    fn took(&self) -> Duration {
        self.took
    }

    fn figures(&self, times: u64) -> Vec<f64> {
        let at = |percent| self.latencies[(self.latencies.len() - 1) * percent / 100];
        let each = self.took.as_nanos() as f64 / times as f64;
        vec![each, at(50).as_nanos() as f64, at(99).as_nanos() as f64]
    }
}

/// So many calls, by so many threads, each taking the next call when its last is answered.
fn calls<C: Client>(client: &C, threads: usize, times: u64) -> Calls {
    let next = AtomicU64::new(0);
    let begin = Barrier::new(threads);
    let call = || {
        assert_eq!(client.echo(1), 1);
        begin.wait();
        let begun = Instant::now();
        let mut latencies = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= times {
                return (begun, Instant::now(), latencies);
            }
            let asked = Instant::now();
            assert_eq!(client.echo(number), number, "each has its own answer");
            latencies.push(asked.elapsed());
        }
    };
    let threads: Vec<_> = thread::scope(|s| {
        let threads: Vec<_> = (0..threads).map(|_| s.spawn(call)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no call fails")).collect()
    });
    let begun = threads.iter().map(|(begun, ..)| *begun).min().expect("there is a thread");
    let ended = threads.iter().map(|(_, ended, _)| *ended).max().expect("there is a thread");
    let mut latencies: Vec<_> = threads.into_iter().flat_map(|(.., took)| took).collect();
    latencies.sort();
    Calls { took: ended - begun, latencies }
}

/// Connects when first it runs.
fn calling<C: Client>(threads: usize) -> Contestant<Calls> {
    let client = OnceCell::new();
    let run = move |times| calls(client.get_or_init(|| C::connect(server())), threads, times);
    Contestant { name: C::NAME, run: Box::new(run) }
}

/// Over TCP, a message being a line: all threads call over one connection.
#[must_use]
pub fn over_tcp(threads: usize) -> Vec<Contestant<Calls>> {
    vec![calling::<DuplexTcp>(threads), calling::<mutex_stream::Tcp>(threads)]
}

/// Over WebSocket: all threads call over one connection.
#[must_use]
pub fn over_web_socket(threads: usize) -> Vec<Contestant<Calls>> {
    vec![
        calling::<DuplexWebSocket>(threads),
        calling::<Tungstenite>(threads),
        calling::<IdMap>(threads),
        calling::<Jsonrpsee>(threads),
    ]
}

/// Over WebSocket, by two threads: with a connection each, or over one.
#[must_use]
pub fn by_two() -> Vec<Contestant<Calls>> {
    vec![
        calling::<PerThread>(2),
        calling::<Shared>(2),
        calling::<DuplexWebSocket>(2),
        calling::<mutex_stream::PerThread>(2),
        calling::<Tungstenite>(2),
    ]
}

// ---- many in flight -------------------------------------------------------------------------------

/// How many invocations there are on a session at any time, and how many of them are not answered
/// meanwhile.
#[derive(Clone, Copy)]
pub struct Flight {
    pub name: &'static str,
    pub in_flight: usize,
    pub kept: usize,
}

impl Flight {
    pub const FEW: Self = Self { name: "10 in flight", in_flight: 10, kept: 0 };
    pub const MANY: Self = Self { name: "1,000 in flight", in_flight: 1_000, kept: 0 };
    pub const MANY_KEPT: Self =
        Self { name: "1,000 in flight, 990 of them not answered", in_flight: 1_000, kept: 990 };

    /// One thread, which asks as often as there is to be an answer, then takes the answers. It and the
    /// session's are on one processor, and the time is that for which both have computed: what is
    /// measured is what they do, and not how they find each other, or how long the server takes.
    fn fly(self, invoker: &Invoker, times: u64) -> Duration {
        let keep = |_| invoker.invoke(KEEP, &()).expect("there is room");
        let kept: Vec<_> = (0..self.kept).map(keep).collect();
        let volley = (self.in_flight - self.kept) as u64;
        let mut waiting = Vec::with_capacity(self.in_flight);
        let before = computed();
        for first in (0..times).step_by(volley as usize) {
            waiting.extend(
                (first..times.min(first + volley)).map(|number| {
                    (number, invoker.invoke(ECHO, &[number]).expect("there is room"))
                }),
            );
            for (number, invocation) in waiting.drain(..) {
                let answer = invocation.answer().expect("it answers");
                let [back]: [u64; 1] = answer.parse().expect("it echoes");
                assert_eq!(back, number, "each has its own answer");
            }
        }
        let took = computed() - before;
        drop(kept);
        took
    }
}

/// One session over TCP, with so many invocations on it at any time.
#[must_use]
pub fn in_flight() -> Vec<Contestant> {
    let session = Rc::new(OnceCell::new());
    let contestant = |flight: Flight| {
        let session = Rc::clone(&session);
        let run = move |times| {
            on_first(|| {
                let session: &Duplex = session.get_or_init(|| Duplex::over_lines(server()));
                flight.fly(session.invoker(), times)
            })
        };
        Contestant { name: flight.name, run: Box::new(run) }
    };
    [Flight::FEW, Flight::MANY, Flight::MANY_KEPT].map(contestant).into()
}
