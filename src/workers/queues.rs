//! What waits to be done, and who waits for something to do.
//!
//! There is a queue for whichever worker is free, and one for each worker. Nobody locks them. Workers
//! that have nothing to do sleep; going to sleep, being woken, coming and going is under one lock, the
//! roster's, which nobody takes while there is work for everybody.
//!
//! # Wake
//!
//! ```text
//! to push for one   1 put it into the worker's queue      2 read its `phase`;
//!                                                            asleep: lock, mark it awake, wake it
//! to push for any   1 put it into the shared queue        2 read `asleep`, `len`, `searching`;
//!                                                            somebody sleeps, and fewer search than
//!                                                            there is work: lock, wake the one that
//!                                                            went to sleep last, count it as searching
//! to sleep          1 lock   2 `phase` := asleep, `asleep` += 1, `searching` -= 1
//!                   3 look into both queues; if there is something, undo 2     4 unlock, sleep
//! to find work      1 take it     2 if it was searching: `searching` -= 1, and 2 of "to push for any"
//! ```
//!
//! All of it is sequentially consistent. Nothing stays in a worker's own queue while it sleeps: either
//! the push came before step 3 of the sleep, which finds it; or step 2 came before the push's second,
//! which sees it.
//!
//! Nothing stays in the shared queue while somebody sleeps and nobody searches. Whoever pushes and wakes
//! nobody has seen that nobody sleeps, and the next that goes to sleep looks in step 3; or that as many
//! search as there is work. Each of these goes on to find work, and then looks again whether there is
//! more of it than others search for; or to sleep, and looks in step 3, with itself not counted any more.
//! The last of them to do so leaves nothing behind, or wakes somebody who searches.
//!
//! So a burst of work wakes as many as it is, without a chain of wakes; and short work, which the one
//! that searches can keep up with, wakes nobody.
//!
//! # Threads on demand
//!
//! A seat without a thread is like a sleeper that is started instead of woken: its thread counts as
//! searching from when that is decided. A thread that has slept for long gives up its seat as it would go
//! to sleep: marks the seat, looks once more, under the lock.
//!
//! # The end
//!
//! When the queues are closed, a worker that finds nothing marks its seat, looks once more, and ends.
//! Work that is put in after that look is found by whoever put it in: it reads the phase, or that nobody
//! is left, and takes everything out again. There is no moment between.

use std::mem;
use std::sync::{Condvar, PoisonError};
use std::time::Duration;

use crate::deadline::Deadline;
use crate::sync::thread::{self, Thread};
use crate::sync::{
    AtomicBool, AtomicU32, AtomicUsize, Mutex, MutexGuard, Ordering, Queue, in_one_order, look_out,
};

/// Things of type `X` for workers, each in its seat.
pub(super) struct Queues<X> {
    shared: Queue<X>,
    seats: Box<[Seat<X>]>,
    /// Workers asleep.
    asleep: AtomicUsize,
    /// Workers that have found nothing and look on, that were woken to look, or that are being started.
    searching: AtomicUsize,
    /// Seats that are taken by a thread, or are about to be.
    taken: AtomicUsize,
    closed: AtomicBool,
    roster: Mutex<Roster>,
    /// Rung, under `ends`, when a thread has ended.
    ended: Condvar,
    ends: std::sync::Mutex<usize>,
    least: usize,
}

/// In a cache line of its own: others write it.
#[repr(align(64))]
struct Seat<X> {
    queue: Queue<X>,
    phase: AtomicU32,
    /// Instances of this worker were ordered closed from afar.
    attention: AtomicBool,
    /// It was woken to search.
    called: AtomicBool,
}

/// There is no thread. It is started when there is something to do.
const VACANT: u32 = 0;
const AWAKE: u32 = 1;
const ASLEEP: u32 = 2;
/// There will be no thread any more.
const ENDED: u32 = 3;

struct Roster {
    /// The sleepers, most recent last: its instance is the warmest.
    sleepers: Vec<usize>,
    threads: Vec<Option<Thread>>,
}

/// What a worker is to do next.
pub(super) enum Next<X> {
    Do(X),
    /// Look after its instances.
    Attend,
    /// Nothing has come for long: its seat is given up.
    Retire,
    End,
}

/// What whoever pushed has to see to.
#[must_use]
pub(super) enum Pushed<X> {
    Done,
    /// The thread of this seat is to be started.
    Start(usize),
    /// Nobody is there any more: all this will never be done.
    Late(Vec<X>),
}

impl<X> Queues<X> {
    /// With so many seats, of which at least some are never given up.
    pub(super) fn new(seats: usize, least: usize) -> Self {
        let seat = || Seat {
            queue: Queue::new(),
            phase: AtomicU32::new(VACANT),
            attention: AtomicBool::new(false),
            called: AtomicBool::new(false),
        };
        Self {
            shared: Queue::new(),
            seats: (0..seats).map(|_| seat()).collect(),
            asleep: AtomicUsize::new(0),
            searching: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            roster: Mutex::new(Roster {
                sleepers: Vec::new(),
                threads: (0..seats).map(|_| None).collect(),
            }),
            ended: Condvar::new(),
            ends: std::sync::Mutex::new(0),
            least,
        }
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn seats(&self) -> usize {
        self.seats.len()
    }

    /// How many threads there are, or are being started.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    pub(super) fn is_taken(&self, seat: usize) -> bool {
        matches!(self.seats[seat].phase.load(Ordering::SeqCst), AWAKE | ASLEEP)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// How much waits for whoever is free.
    pub(super) fn shared_len(&self) -> usize {
        self.shared.len()
    }

    // ---- anybody ------------------------------------------------------------------------------

    /// Puts something in for whoever is free.
    pub(super) fn push(&self, x: X) -> Pushed<X> {
        self.shared.push(x);
        in_one_order();
        self.call()
    }

    /// Puts something in for this worker.
    pub(super) fn push_to(&self, seat: usize, x: X) -> Pushed<X> {
        self.seats[seat].queue.push(x);
        in_one_order();
        self.rouse(seat)
    }

    /// Has a worker look after its instances.
    pub(super) fn attract(&self, seat: usize) {
        self.seats[seat].attention.store(true, Ordering::SeqCst);
        in_one_order();
        if self.seats[seat].phase.load(Ordering::SeqCst) != AWAKE {
            let roster = self.roster();
            if self.seats[seat].phase.load(Ordering::SeqCst) == ASLEEP {
                self.wake(seat, roster);
            }
        }
    }

    /// Has somebody look into the shared queue, if there is more in it than others look for.
    fn call(&self) -> Pushed<X> {
        loop {
            let sleeps = self.asleep.load(Ordering::SeqCst) > 0;
            let taken = self.taken.load(Ordering::SeqCst);
            let closed = self.is_closed();
            let may_start = taken < self.seats.len() && !closed;
            if closed && taken == 0 {
                return late(&self.shared);
            }
            if !sleeps && !may_start {
                return Pushed::Done;
            }
            if self.shared.len() <= self.searching.load(Ordering::SeqCst) {
                return Pushed::Done;
            }
            let mut roster = self.roster();
            if let Some(&seat) = roster.sleepers.last() {
                self.searching.fetch_add(1, Ordering::SeqCst);
                self.seats[seat].called.store(true, Ordering::SeqCst);
                self.wake(seat, roster);
                return Pushed::Done;
            }
            let vacant = |seat: &Seat<X>| seat.phase.load(Ordering::SeqCst) == VACANT;
            match self.seats.iter().position(vacant) {
                Some(seat) if !self.is_closed() => {
                    self.searching.fetch_add(1, Ordering::SeqCst);
                    self.seats[seat].called.store(true, Ordering::SeqCst);
                    self.take_seat(seat, &mut roster);
                    return Pushed::Start(seat);
                }
                // All are busy by now; or this is the end, and somebody has yet to look.
                _ if self.taken.load(Ordering::SeqCst) > 0 => return Pushed::Done,
                _ => {}
            }
        }
    }

    /// Has this worker look into its queue.
    fn rouse(&self, seat: usize) -> Pushed<X> {
        loop {
            match self.seats[seat].phase.load(Ordering::SeqCst) {
                AWAKE => return Pushed::Done,
                ENDED => return late(&self.seats[seat].queue),
                _ => {}
            }
            let mut roster = self.roster();
            match self.seats[seat].phase.load(Ordering::SeqCst) {
                ASLEEP => {
                    self.wake(seat, roster);
                    return Pushed::Done;
                }
                VACANT if self.is_closed() => {
                    self.seats[seat].phase.store(ENDED, Ordering::SeqCst);
                }
                VACANT => {
                    self.take_seat(seat, &mut roster);
                    return Pushed::Start(seat);
                }
                _ => {}
            }
        }
    }

    fn wake(&self, seat: usize, mut roster: MutexGuard<'_, Roster>) {
        let Some(at) = roster.sleepers.iter().rposition(|sleeper| *sleeper == seat) else { return };
        roster.sleepers.remove(at);
        self.asleep.fetch_sub(1, Ordering::SeqCst);
        self.seats[seat].phase.store(AWAKE, Ordering::SeqCst);
        let thread = roster.threads[seat].clone();
        drop(roster);
        if let Some(thread) = thread {
            thread.unpark();
        }
    }

    fn take_seat(&self, seat: usize, _: &mut Roster) {
        self.seats[seat].phase.store(AWAKE, Ordering::SeqCst);
        self.taken.fetch_add(1, Ordering::SeqCst);
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    /// Takes a seat that nobody has, to start its thread. Says whether it was so.
    pub(super) fn take_vacant(&self, seat: usize) -> bool {
        let mut roster = self.roster();
        let is_vacant =
            self.seats[seat].phase.load(Ordering::SeqCst) == VACANT && !self.is_closed();
        if is_vacant {
            self.take_seat(seat, &mut roster);
        }
        is_vacant
    }

    /// The thread could not be started. What was for this seat, and, if there is no other, for anybody,
    /// will not be done.
    pub(super) fn not_started(&self, seat: usize) -> Vec<X> {
        let roster = self.roster();
        if self.seats[seat].called.swap(false, Ordering::SeqCst) {
            self.searching.fetch_sub(1, Ordering::SeqCst);
        }
        self.seats[seat].phase.store(VACANT, Ordering::SeqCst);
        self.taken.fetch_sub(1, Ordering::SeqCst);
        let mut all = drain(&self.seats[seat].queue);
        if self.taken.load(Ordering::SeqCst) == 0 {
            all.extend(drain(&self.shared));
        }
        drop(roster);
        self.has_ended();
        all
    }

    /// No more is put in. Workers end when there is nothing left.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        in_one_order();
        let mut roster = self.roster();
        for seat in &self.seats {
            let _ = seat.phase.compare_exchange(VACANT, ENDED, Ordering::SeqCst, Ordering::SeqCst);
        }
        let sleepers = mem::take(&mut roster.sleepers);
        self.asleep.fetch_sub(sleepers.len(), Ordering::SeqCst);
        let threads: Vec<_> = sleepers
            .into_iter()
            .filter_map(|seat| {
                self.seats[seat].phase.store(AWAKE, Ordering::SeqCst);
                roster.threads[seat].clone()
            })
            .collect();
        drop(roster);
        threads.iter().for_each(Thread::unpark);
    }

    /// Takes out what has not begun. To be dropped by the caller, with no lock held.
    pub(super) fn take_all(&self) -> Vec<X> {
        let mut all = drain(&self.shared);
        self.seats.iter().for_each(|seat| all.extend(drain(&seat.queue)));
        all
    }

    /// Waits until all threads have ended.
    pub(super) fn wait_ended(&self, deadline: Deadline) -> bool {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        while *ends > 0 {
            match deadline.wait(&self.ended, ends) {
                Ok(woken) => ends = woken,
                Err(_) => return false,
            }
        }
        true
    }

    // ---- a worker -----------------------------------------------------------------------------

    /// A worker begins, on its thread.
    pub(super) fn begin(&self, seat: usize) {
        self.roster().threads[seat] = Some(thread::current());
    }

    /// A worker's thread is at its end. Says whether it was the last.
    pub(super) fn has_ended(&self) -> bool {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        *ends -= 1;
        let last = *ends == 0;
        drop(ends);
        self.ended.notify_all();
        last
    }

    /// Waits for something to do. `own_turn` alternates, so that neither queue starves the other.
    /// `keep` is how long to wait for it, if the seat may be given up.
    ///
    /// What `call` leaves to be seen to is handed to `starts`.
    pub(super) fn next(
        &self,
        seat: usize,
        own_turn: bool,
        keep: Option<Duration>,
        mut starts: impl FnMut(Pushed<X>),
    ) -> Next<X> {
        let me = &self.seats[seat];
        let mut searching = me.called.swap(false, Ordering::SeqCst);
        loop {
            let attends = me.attention.load(Ordering::SeqCst) && {
                me.attention.store(false, Ordering::SeqCst);
                true
            };
            let found = if attends { None } else { self.pop(seat, own_turn) };
            if attends || found.is_some() {
                if searching {
                    self.searching.fetch_sub(1, Ordering::SeqCst);
                    in_one_order();
                    if !self.shared.is_empty() {
                        starts(self.call());
                    }
                }
                return found.map_or(Next::Attend, Next::Do);
            }
            if self.is_closed() {
                if !self.leave(seat, ENDED) {
                    continue;
                }
                if searching {
                    self.searching.fetch_sub(1, Ordering::SeqCst);
                }
                return Next::End;
            }
            if !searching {
                searching = true;
                self.searching.fetch_add(1, Ordering::SeqCst);
                if look_out(|| self.has_something(seat)) {
                    continue;
                }
            }
            match self.sleep(seat, keep) {
                Slept::NotAtAll => {}
                Slept::Woken => searching = me.called.swap(false, Ordering::SeqCst),
                Slept::Retired => return Next::Retire,
            }
        }
    }

    fn pop(&self, seat: usize, own_turn: bool) -> Option<X> {
        let (own, shared) = (&self.seats[seat].queue, &self.shared);
        if own_turn {
            own.pop().or_else(|| shared.pop())
        } else {
            shared.pop().or_else(|| own.pop())
        }
    }

    fn has_something(&self, seat: usize) -> bool {
        let me = &self.seats[seat];
        !me.queue.is_empty()
            || !self.shared.is_empty()
            || me.attention.load(Ordering::SeqCst)
            || self.is_closed()
    }

    /// Sleeps until somebody wakes it. It was searching; unless it has not slept it is not any more.
    fn sleep(&self, seat: usize, keep: Option<Duration>) -> Slept {
        let me = &self.seats[seat];
        let mut roster = self.roster();
        me.phase.store(ASLEEP, Ordering::SeqCst);
        self.asleep.fetch_add(1, Ordering::SeqCst);
        self.searching.fetch_sub(1, Ordering::SeqCst);
        in_one_order();
        if self.has_something(seat) {
            self.searching.fetch_add(1, Ordering::SeqCst);
            self.asleep.fetch_sub(1, Ordering::SeqCst);
            me.phase.store(AWAKE, Ordering::SeqCst);
            return Slept::NotAtAll;
        }
        roster.sleepers.push(seat);
        drop(roster);
        let keep_until = || keep.map_or(Deadline::NEVER, Deadline::after);
        let mut deadline = keep_until();
        while me.phase.load(Ordering::SeqCst) == ASLEEP {
            match deadline.remaining() {
                None => thread::park(),
                Some(left) if !left.is_zero() => thread::park_timeout(left),
                Some(_) if self.leave(seat, VACANT) => return Slept::Retired,
                Some(_) if self.taken() <= self.least => return self.sleep_on(seat),
                // There was work that another had been woken for: the seat may be given up later.
                Some(_) => deadline = keep_until(),
            }
        }
        Slept::Woken
    }

    /// The time is over, but the seat is not to be given up: it is one of the last.
    fn sleep_on(&self, seat: usize) -> Slept {
        while self.seats[seat].phase.load(Ordering::SeqCst) == ASLEEP {
            thread::park();
        }
        Slept::Woken
    }

    /// Leaves the seat, if there is nothing to do; the thread is to end then.
    fn leave(&self, seat: usize, phase: u32) -> bool {
        let me = &self.seats[seat];
        let mut roster = self.roster();
        let sleeper = roster.sleepers.iter().rposition(|sleeper| *sleeper == seat);
        if phase == VACANT && (sleeper.is_none() || self.taken() <= self.least) {
            return false;
        }
        let before = me.phase.swap(phase, Ordering::SeqCst);
        self.taken.fetch_sub(1, Ordering::SeqCst);
        in_one_order();
        let has_work = !me.queue.is_empty() || !self.shared.is_empty();
        let has_order = me.attention.load(Ordering::SeqCst);
        if has_work || has_order || (phase == VACANT && self.is_closed()) {
            self.taken.fetch_add(1, Ordering::SeqCst);
            me.phase.store(before, Ordering::SeqCst);
            return false;
        }
        if let Some(at) = sleeper {
            roster.sleepers.remove(at);
            self.asleep.fetch_sub(1, Ordering::SeqCst);
        }
        roster.threads[seat] = None;
        true
    }
}

enum Slept {
    NotAtAll,
    Woken,
    Retired,
}

fn late<X>(queue: &Queue<X>) -> Pushed<X> {
    Pushed::Late(drain(queue))
}

fn drain<X>(queue: &Queue<X>) -> Vec<X> {
    std::iter::from_fn(|| queue.pop()).collect()
}
