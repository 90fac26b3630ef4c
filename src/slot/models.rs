//! The protocol of a slot, under every interleaving that `loom` can find.
//!
//! ```text
//! RUSTFLAGS="--cfg sessile_loom" cargo test --release --lib models --target-dir target/loom
//! ```
//!
//! The slot is the real one. What a pool does with it (`pool/instance.rs`, `pool/lease.rs`,
//! `Inner::borrow`, `Inner::order_closed`) is repeated here in a few lines, step by step and under
//! the same names, without managers, tables and books. Both fences are `fence(SeqCst)`, which is
//! what the asymmetric pair amounts to by the argument in `slot`.
//!
//! Two things are checked all the time, whatever else a model asserts. Every touch of the instance
//! goes through a cell of `loom`, which reports two threads that touch it with no order between
//! them, and a touch after its close. And at the end it has been closed exactly once.

use loom::cell::UnsafeCell;
use loom::model::Builder;
use loom::sync::atomic::AtomicU32 as AtomicLine;
use loom::sync::{Arc, Mutex};
use loom::thread;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::{Activity, Granted, Mode, Notice, Slot};
use crate::fence;
use crate::manager::CloseReason;

/// Of the model, not of the protocol: `loom` does not see it, so it orders nothing.
#[derive(Default)]
struct Ledger {
    closed: AtomicU32,
    reason: AtomicU32,
    granted: AtomicU32,
}

/// An instance that is found out when two threads touch it, or when it is touched after its close.
struct Instance {
    touched: UnsafeCell<bool>,
}

impl Instance {
    fn new() -> Self {
        Self { touched: UnsafeCell::new(false) }
    }

    fn change(&self) {
        self.touched.with_mut(|touched| {
            // SAFETY: the cell reports it if anybody else is here.
            unsafe { *touched = true };
        });
    }

    fn read(&self) -> bool {
        // SAFETY: the cell reports it if anybody writes now.
        self.touched.with(|touched| unsafe { *touched })
    }
}

/// What of a pool matters here.
#[derive(Clone, Copy)]
struct Pool {
    max_uses: Option<u64>,
    /// Whether the manager is to be asked after every use.
    can_break: bool,
    /// Whether others than the owner may close: `T: Send`.
    from_afar: bool,
    /// Whether somebody may wait for room.
    max_size: bool,
}

const PLAIN: Pool = Pool { max_uses: None, can_break: false, from_afar: true, max_size: false };
const LIMITED: Pool = Pool { max_size: true, ..PLAIN };

/// The gate of a pool: how many wait, and how many of them have been promised room.
struct Gate {
    line: Mutex<(u32, u32)>,
    waiting: AtomicLine,
}

/// An instance, as its pool keeps it.
struct Model {
    slot: Slot<Instance>,
    pool: Pool,
    gate: Gate,
    /// Whether the owner's table still has it.
    at_home: AtomicBool,
    /// The reference that a leaving thread forgets, for the sake of a borrow that is still live.
    adrift: AtomicBool,
    ledger: Ledger,
}

// What the model itself counts goes by this.
const RELAXED: Ordering = Ordering::Relaxed;

impl Pool {
    fn check_from(self) -> u64 {
        if self.can_break { 0 } else { self.max_uses.unwrap_or(u64::MAX) }
    }
}

// ---- what a pool does -------------------------------------------------------------------------

impl Model {
    fn opening(pool: Pool) -> Arc<Self> {
        Arc::new(Self {
            slot: Slot::opening(pool.check_from()),
            pool,
            gate: Gate { line: Mutex::new((0, 0)), waiting: AtomicLine::new(0) },
            at_home: AtomicBool::new(true),
            adrift: AtomicBool::new(false),
            ledger: Ledger::default(),
        })
    }

    /// Open, never used, and idle.
    fn idle(pool: Pool) -> Arc<Self> {
        let model = Self::opening(pool);
        // SAFETY: this thread is the only one, and the slot is opening.
        let granted = unsafe { model.slot.fill(Instance::new()) };
        assert!(!model.slot.put_back(granted));
        model
    }

    fn instance(&self) -> &Instance {
        // SAFETY: the callers hold a borrow; whether they may is what the models are about.
        unsafe { &*self.slot.value() }
    }

    fn touch(&self, mode: Mode) {
        match mode {
            Mode::Exclusive => self.instance().change(),
            Mode::Shared => _ = self.instance().read(),
        }
        self.ledger.granted.fetch_add(1, RELAXED);
    }

    /// `Instance::finish`.
    fn finish(&self, (instance, reason): (Instance, CloseReason)) {
        instance.change();
        self.ledger.reason.store(reason as u32, RELAXED);
        let before = self.ledger.closed.fetch_add(1, RELAXED);
        assert_eq!(before, 0, "closed twice");
    }

    /// `Pool::with` and `Inner::borrow`. `None`: there is no instance any more, and a pool would
    /// make another.
    fn borrow(&self, mode: Mode) -> Option<Granted> {
        if !self.at_home.load(RELAXED) {
            return None;
        }
        if let Some(granted) = self.slot.words().try_borrow(mode) {
            return Some(granted);
        }
        self.borrow_slowly(mode)
    }

    /// Taken at once when the table was emptied from afar.
    fn borrow_slowly(&self, mode: Mode) -> Option<Granted> {
        let (notice, granted) = self.slot.borrow(mode).expect("no model borrows in vain");
        match notice {
            Notice::Live => Some(granted),
            Notice::Stale => {
                self.slot.refresh();
                self.instance().change(); // the manager makes sure that it is still good
                Some(granted)
            }
            Notice::Revoked(_) | Notice::Taken(_) => {
                self.attend();
                assert!(!self.at_home.load(RELAXED), "a pool would try for ever");
                None
            }
        }
    }

    /// `Lease::finish`.
    fn let_go(&self, mode: Mode, granted: Granted) {
        if self.slot.words().release(mode, granted) {
            self.look_after();
            self.come_ashore();
        }
    }

    fn use_once(&self, mode: Mode) -> bool {
        let granted = self.borrow(mode);
        if let Some(granted) = granted {
            self.touch(mode);
            self.let_go(mode, granted);
        }
        granted.is_some()
    }

    fn look_after(&self) {
        if self.slot.activity() != Activity::Idle {
            return;
        }
        if let Ok((Notice::Live | Notice::Stale, granted)) = self.slot.borrow(Mode::Exclusive) {
            if self.pool.max_uses.is_some_and(|most| self.slot.uses() >= most) {
                return self.close_borrowed(CloseReason::MaxUses);
            }
            self.instance().change(); // the manager is asked whether it has broken
            if !self.slot.put_back(granted) && !self.is_waited_for() {
                return self.calm();
            }
        }
        self.attend();
    }

    fn is_waited_for(&self) -> bool {
        self.pool.max_size && self.gate.waiting.load(Ordering::SeqCst) > 0
    }

    /// `Instance::calm`.
    fn calm(&self) {
        self.slot.calm(self.pool.check_from());
        if self.is_waited_for() {
            self.slot.alert();
        }
    }

    /// `Gate::promise`.
    fn promise<R>(&self, take: impl FnOnce() -> Option<R>) -> Option<R> {
        let mut line = self.gate.line.lock().unwrap();
        if line.0 <= line.1 {
            return None;
        }
        let taken = take()?;
        line.1 += 1;
        Some(taken)
    }

    /// `Inner::give_way`.
    fn give_way(&self) {
        let is_candidate = || {
            self.slot.activity() == Activity::Idle
                && matches!(self.slot.notice(), Notice::Live | Notice::Stale)
        };
        if self.is_waited_for() && is_candidate() {
            self.promise(|| self.slot.revoke(CloseReason::MadeRoom).then_some(()));
        }
    }

    fn attend(&self) {
        self.give_way();
        // SAFETY: on the owner.
        if let Some(taken) = unsafe { self.slot.take_idle() } {
            self.at_home.store(false, RELAXED);
            self.finish(taken);
        } else if matches!(self.slot.notice(), Notice::Taken(_)) {
            self.at_home.store(false, RELAXED);
        }
    }

    fn close_borrowed(&self, reason: CloseReason) {
        // SAFETY: on the owner, which holds the only borrow.
        let taken = unsafe { self.slot.take_borrowed(reason) };
        self.at_home.store(false, RELAXED);
        self.finish(taken);
    }

    /// The owner's thread ends.
    fn leave(&self) {
        self.at_home.store(false, RELAXED);
        self.slot.revoke(CloseReason::ThreadExit);
        // SAFETY: on the owner.
        if let Some(taken) = unsafe { self.slot.take_idle() } {
            self.finish(taken);
        } else if matches!(self.slot.notice(), Notice::Revoked(_)) {
            self.adrift.store(true, RELAXED);
        }
    }

    fn come_ashore(&self) {
        if matches!(self.slot.notice(), Notice::Taken(_)) {
            self.adrift.store(false, RELAXED);
        }
    }

    /// `Inner::order_closed`, from another thread. The nudge that ends it makes no difference here:
    /// it only has the owner look earlier.
    fn order_closed(&self, reason: CloseReason) {
        self.slot.revoke(reason);
        if self.pool.from_afar && fence::heavy() {
            // SAFETY: the instance may be sent, and the fence came after the order.
            if let Some(taken) = unsafe { self.slot.take_idle() } {
                self.finish(taken);
            }
        }
    }

    /// `Gate::ask`, and `Gate::give_up`.
    fn set_waiting(&self, waiting: u32) {
        let mut line = self.gate.line.lock().unwrap();
        line.0 = waiting;
        self.gate.waiting.store(waiting, Ordering::SeqCst);
    }

    /// `Inner::take_idlest`: what becomes of one bid.
    fn bid(&self, promise: bool) {
        if !self.slot.bid() {
            return;
        }
        assert!(fence::heavy());
        // SAFETY: the instance may be sent, the fence came after the bid, and there is one bidder.
        let take = || unsafe { self.slot.take_bid(CloseReason::MadeRoom) };
        match if promise { self.promise(take) } else { take() } {
            Some(instance) => self.finish((instance, CloseReason::MadeRoom)),
            None => self.slot.withdraw(),
        }
    }

    /// `Inner::look_around`, by a thread that has begun to wait. It bids once for what it sees idle,
    /// after the alert if not before.
    fn look_around(&self) {
        self.slot.alert();
        assert!(fence::heavy());
        if self.slot.activity() == Activity::Idle {
            self.bid(true);
        }
    }

    /// Nobody wanted it after all: its owner closes it, so that it has been closed once, as ever.
    fn close_at_the_end(&self) {
        self.slot.revoke(CloseReason::ClosedHere);
        self.attend();
        assert!(self.is_closed());
    }

    // ---- what must have come of it ------------------------------------------------------------

    fn is_closed(&self) -> bool {
        self.ledger.closed.load(RELAXED) == 1
    }

    fn closed_for(&self) -> Option<CloseReason> {
        CloseReason::from_code(self.ledger.reason.load(RELAXED) as u8)
    }
}

/// Explores every interleaving; for models of three threads, of which there are too many, those with
/// at most this many preemptions.
fn explore(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(model);
}

const ALL: Option<usize> = None;
const MOST: Option<usize> = Some(4);

fn closer(model: &Arc<Model>, reason: CloseReason) -> thread::JoinHandle<()> {
    let model = Arc::clone(model);
    thread::spawn(move || model.order_closed(reason))
}

// ---- the owner uses ---------------------------------------------------------------------------

// In these the owner never leaves, nor comes back after its last use: what was ordered closed must
// have been closed by the time that all is quiet, by the closer, or by the owner as it let go.

#[test]
fn uses_against_a_closer() {
    for mode in [Mode::Exclusive, Mode::Shared] {
        explore(ALL, move || {
            let model = Model::idle(PLAIN);
            let closer = closer(&model, CloseReason::Evicted);
            let mut granted = true;
            for _ in 0..2 {
                let again = model.use_once(mode);
                assert!(granted || !again, "granted after it was gone");
                granted = again;
            }
            closer.join().unwrap();
            assert!(model.is_closed());
            assert!(!model.use_once(mode));
        });
    }
}

#[test]
fn a_use_against_two_closers() {
    explore(MOST, || {
        let model = Model::idle(PLAIN);
        let one = closer(&model, CloseReason::Evicted);
        let two = closer(&model, CloseReason::Cleared);
        model.use_once(Mode::Exclusive);
        one.join().unwrap();
        two.join().unwrap();
        assert!(model.is_closed());
    });
}

#[test]
fn nested_uses_against_a_closer() {
    explore(ALL, || {
        let model = Model::idle(PLAIN);
        let closer = closer(&model, CloseReason::Evicted);
        if let Some(outer) = model.borrow(Mode::Shared) {
            model.touch(Mode::Shared);
            // Inside a shared borrow another is always granted.
            assert!(model.use_once(Mode::Shared));
            model.touch(Mode::Shared);
            model.let_go(Mode::Shared, outer);
        }
        closer.join().unwrap();
        assert!(model.is_closed());
    });
}

#[test]
fn every_use_looked_after_against_a_closer() {
    // A manager that must be asked after each use: letting go always borrows once more.
    explore(ALL, || {
        let model = Model::idle(Pool { can_break: true, ..PLAIN });
        let closer = closer(&model, CloseReason::Evicted);
        model.use_once(Mode::Exclusive);
        closer.join().unwrap();
        assert!(model.is_closed());
    });
}

#[test]
fn the_last_of_max_uses_against_a_closer() {
    explore(ALL, || {
        let model = Model::idle(Pool { max_uses: Some(2), ..PLAIN });
        let closer = closer(&model, CloseReason::Evicted);
        while model.use_once(Mode::Exclusive) {
            assert!(model.ledger.granted.load(RELAXED) <= 2, "used too often");
        }
        assert!(model.is_closed() || model.slot.notice() == Notice::Taken(CloseReason::Evicted));
        closer.join().unwrap();
        assert!(model.is_closed());
        if model.closed_for() == Some(CloseReason::MaxUses) {
            assert_eq!(model.ledger.granted.load(RELAXED), 2);
        }
    });
}

#[test]
fn stale_against_a_use_and_a_closer() {
    explore(MOST, || {
        let model = Model::idle(PLAIN);
        let reaper = {
            let model = Arc::clone(&model);
            thread::spawn(move || model.slot.mark_stale())
        };
        let closer = closer(&model, CloseReason::Evicted);
        if let Some(granted) = model.borrow_slowly(Mode::Exclusive) {
            model.touch(Mode::Exclusive);
            model.let_go(Mode::Exclusive, granted);
            model.use_once(Mode::Exclusive);
        }
        closer.join().unwrap();
        reaper.join().unwrap();
        assert!(model.is_closed());
        assert!(
            matches!(model.slot.notice(), Notice::Taken(_)),
            "the last word is never taken back"
        );
    });
}

#[test]
fn stale_against_uses() {
    explore(ALL, || {
        let model = Model::idle(PLAIN);
        let reaper = {
            let model = Arc::clone(&model);
            thread::spawn(move || model.slot.mark_stale())
        };
        assert!(model.use_once(Mode::Exclusive));
        assert!(model.use_once(Mode::Shared));
        reaper.join().unwrap();
        assert!(model.use_once(Mode::Exclusive));
        assert_eq!(model.slot.notice(), Notice::Live);
    });
}

#[test]
fn a_mark_that_comes_late() {
    // The owner may find the mark, and refresh, before the marker has closed the fast path.
    explore(ALL, || {
        let model = Model::idle(PLAIN);
        let reaper = {
            let model = Arc::clone(&model);
            thread::spawn(move || model.slot.mark_stale())
        };
        let granted = model.borrow_slowly(Mode::Exclusive).unwrap();
        model.let_go(Mode::Exclusive, granted);
        reaper.join().unwrap();
        assert!(model.use_once(Mode::Exclusive));
        assert!(model.slot.words().try_borrow(Mode::Exclusive).is_some(), "slow for ever");
    });
}

// ---- the owner opens --------------------------------------------------------------------------

#[test]
fn opening_against_closers() {
    explore(MOST, || {
        let model = Model::opening(PLAIN);
        let one = closer(&model, CloseReason::PoolClosed);
        let two = closer(&model, CloseReason::Cleared);
        // `Inner::create`.
        // SAFETY: on the owner, and the slot is opening.
        let granted = unsafe { model.slot.fill(Instance::new()) };
        if let Notice::Revoked(reason) = model.slot.notice() {
            model.close_borrowed(reason);
        } else {
            model.touch(Mode::Exclusive);
            model.let_go(Mode::Exclusive, granted);
        }
        one.join().unwrap();
        two.join().unwrap();
        assert!(model.is_closed());
    });
}

// ---- the owner leaves -------------------------------------------------------------------------

#[test]
fn exit_against_two_closers() {
    explore(MOST, || {
        let model = Model::idle(PLAIN);
        let one = closer(&model, CloseReason::Evicted);
        let two = closer(&model, CloseReason::Cleared);
        model.leave();
        assert!(!model.adrift.load(RELAXED), "nothing is borrowed");
        one.join().unwrap();
        two.join().unwrap();
        assert!(model.is_closed());
    });
}

#[test]
fn a_use_and_exit_against_a_closer() {
    explore(ALL, || {
        let model = Model::idle(PLAIN);
        let closer = closer(&model, CloseReason::Evicted);
        model.use_once(Mode::Exclusive);
        model.leave();
        closer.join().unwrap();
        assert!(model.is_closed());
    });
}

#[test]
fn exit_of_an_instance_that_stays_home() {
    // Not `Send`: nobody but the owner closes, but by the end of its thread it has.
    explore(MOST, || {
        let model = Model::idle(Pool { from_afar: false, ..PLAIN });
        let one = closer(&model, CloseReason::Evicted);
        let two = closer(&model, CloseReason::Cleared);
        model.use_once(Mode::Exclusive);
        model.leave();
        assert!(model.is_closed());
        one.join().unwrap();
        two.join().unwrap();
    });
}

#[test]
fn exit_in_a_borrow_against_a_closer() {
    // Somebody's thread-local holds a guard that it drops after our own exit: that is the last
    // anybody hears of this thread, so all must be settled then, and the reference that was kept
    // for the guard be given up.
    for from_afar in [false, true] {
        explore(ALL, move || {
            let model = Model::idle(Pool { from_afar, ..PLAIN });
            let granted = model.borrow(Mode::Exclusive).unwrap();
            let closer = closer(&model, CloseReason::Evicted);
            model.leave();
            model.touch(Mode::Exclusive);
            model.let_go(Mode::Exclusive, granted);
            assert!(!model.adrift.load(RELAXED), "a reference is lost");
            closer.join().unwrap();
            assert!(model.is_closed());
        });
    }
}

// ---- others wait for room ---------------------------------------------------------------------

fn bidder(model: &Arc<Model>) -> thread::JoinHandle<()> {
    let model = Arc::clone(model);
    thread::spawn(move || model.bid(false))
}

/// What a bid that was lost must leave: an instance as good as new, on the fast path.
fn assert_untouched(model: &Model) {
    assert_eq!(model.slot.notice(), Notice::Live);
    assert!(model.use_once(Mode::Exclusive)); // this one may be slow
    let granted = model.slot.words().try_borrow(Mode::Exclusive).expect("the fast path is open");
    model.let_go(Mode::Exclusive, granted);
}

#[test]
fn uses_against_a_bidder() {
    for mode in [Mode::Exclusive, Mode::Shared] {
        explore(ALL, move || {
            let model = Model::idle(PLAIN);
            let bidder = bidder(&model);
            let mut granted = true;
            for _ in 0..2 {
                let again = model.use_once(mode);
                assert!(granted || !again, "granted after it was gone");
                granted = again;
            }
            bidder.join().unwrap();
            if model.is_closed() {
                assert!(!model.use_once(mode));
            } else {
                assert_untouched(&model);
                // What was never closed is closed by its owner.
                model.close_at_the_end();
            }
        });
    }
}

#[test]
fn two_bids_one_after_the_other_against_uses() {
    explore(MOST, || {
        let model = Model::idle(PLAIN);
        let bidder = {
            let model = Arc::clone(&model);
            thread::spawn(move || {
                model.bid(false);
                model.bid(false);
            })
        };
        let _ = model.use_once(Mode::Exclusive) && model.use_once(Mode::Exclusive);
        bidder.join().unwrap();
        if !model.is_closed() {
            assert_untouched(&model);
            model.close_at_the_end();
        }
    });
}

#[test]
fn a_use_against_a_bidder_and_a_closer() {
    explore(MOST, || {
        let model = Model::idle(PLAIN);
        let bidder = bidder(&model);
        let closer = closer(&model, CloseReason::Evicted);
        model.use_once(Mode::Exclusive);
        bidder.join().unwrap();
        closer.join().unwrap();
        assert!(model.is_closed(), "an order is carried out, whoever bids");
    });
}

#[test]
fn exit_against_a_bidder() {
    explore(ALL, || {
        let model = Model::idle(PLAIN);
        let bidder = bidder(&model);
        model.use_once(Mode::Exclusive);
        model.leave();
        bidder.join().unwrap();
        assert!(model.is_closed());
    });
}

#[test]
fn a_stale_instance_against_a_bidder() {
    explore(ALL, || {
        let model = Model::idle(PLAIN);
        model.slot.mark_stale();
        let bidder = bidder(&model);
        if model.use_once(Mode::Exclusive) {
            model.use_once(Mode::Exclusive);
        }
        bidder.join().unwrap();
        if !model.is_closed() {
            assert!(model.use_once(Mode::Exclusive));
            assert_untouched(&model);
            model.close_at_the_end();
        }
    });
}

/// Whoever comes first makes the room: the one who begins to wait, or the owner as it lets go.
#[test]
fn a_use_against_one_who_begins_to_wait() {
    for can_break in [false, true] {
        explore(ALL, move || {
            let model = Model::idle(Pool { can_break, ..LIMITED });
            let waiter = {
                let model = Arc::clone(&model);
                thread::spawn(move || {
                    model.set_waiting(1);
                    model.look_around();
                })
            };
            model.use_once(Mode::Exclusive);
            waiter.join().unwrap();
            assert!(model.is_closed(), "idle, and somebody waits");
            assert_eq!(model.closed_for(), Some(CloseReason::MadeRoom));
        });
    }
}

/// An alert that was for somebody who has gone is taken back, and not one for who came then.
#[test]
fn uses_against_one_who_gives_up() {
    explore(MOST, || {
        let model = Model::idle(LIMITED);
        let waiter = {
            let model = Arc::clone(&model);
            thread::spawn(move || {
                model.set_waiting(1);
                model.look_around();
                model.set_waiting(0);
            })
        };
        if model.use_once(Mode::Exclusive) {
            model.use_once(Mode::Exclusive);
        }
        waiter.join().unwrap();
        if !model.is_closed() {
            assert_untouched_but_alerted(&model);
            model.close_at_the_end();
        }
    });
}

/// One slow end of a use is left, and no more.
fn assert_untouched_but_alerted(model: &Model) {
    assert!(model.use_once(Mode::Exclusive));
    assert!(model.use_once(Mode::Exclusive));
    let granted = model.slot.words().try_borrow(Mode::Exclusive).expect("the fast path is open");
    assert!(!model.slot.words().release(Mode::Exclusive, granted), "looked after for ever");
}

#[test]
fn calm_against_one_who_begins_to_wait() {
    // The owner takes back what an earlier alert has left while another begins to wait.
    explore(MOST, || {
        let model = Model::idle(LIMITED);
        model.slot.alert();
        let waiter = {
            let model = Arc::clone(&model);
            thread::spawn(move || {
                model.set_waiting(1);
                model.look_around();
            })
        };
        if model.use_once(Mode::Exclusive) {
            model.use_once(Mode::Exclusive);
        }
        waiter.join().unwrap();
        assert!(model.is_closed(), "idle, and somebody waits");
    });
}
