//! One instance with all that is known of it, and what its owner does for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::inner::Inner;
use crate::contain::contain;
use crate::fork;
use crate::id::InstanceId;
use crate::manager::{CloseReason, InterruptHandle};
use crate::registry::event::InstanceEventKind;
use crate::registry::snapshot::{InstanceInfo, InstanceState, millis};
use crate::slot::{Activity, Granted, Mode, Notice, Slot, Words};
use crate::thread::{Resident, ThisThread};

#[repr(C)] // the slot first: the table has the address of its words
pub(crate) struct Instance<T: 'static> {
    pub(super) slot: Slot<T>,
    pub(super) id: InstanceId,
    pub(super) pool: Arc<Inner<T>>,
    pub(super) thread: Arc<ThisThread>,
    /// What it belongs to besides its thread, if its worker keeps it for a key; then it has no place
    /// in the thread's table.
    pub(super) key: Option<String>,
    /// The process that made it: a forked child must leave it alone.
    process: u32,
    born: Instant,
    pub(super) generation: AtomicU64,
    seen: Seen,
    /// See [`set_adrift`](Self::set_adrift).
    pub(super) adrift: AtomicBool,
    pub(super) interrupt: OnceLock<InterruptHandle>,
    /// What its manager says of it.
    pub(super) note: OnceLock<Box<str>>,
    /// The thread that closes it: its owner, or the one that has taken it.
    closes_on: OnceLock<usize>,
    /// How its close ended: the error, if it failed.
    pub(super) outcome: OnceLock<Option<String>>,
}

/// Idle age without a clock on the fast path: whoever looks at an instance notes how often it has
/// been used, and since when that has been the same.
struct Seen {
    uses: AtomicU64,
    /// Nanoseconds after birth.
    since: AtomicU64,
}

impl<T> Instance<T> {
    pub(super) fn opening(
        pool: &Arc<Inner<T>>,
        thread: Arc<ThisThread>,
        key: Option<String>,
    ) -> Arc<Self> {
        Arc::new(Self {
            slot: Slot::opening(pool.check_from()),
            id: InstanceId::next(),
            pool: Arc::clone(pool),
            thread,
            key,
            process: fork::generation(),
            born: Instant::now(),
            generation: AtomicU64::new(0),
            seen: Seen { uses: AtomicU64::new(0), since: AtomicU64::new(0) },
            adrift: AtomicBool::new(false),
            interrupt: OnceLock::new(),
            note: OnceLock::new(),
            closes_on: OnceLock::new(),
            outcome: OnceLock::new(),
        })
    }

    // ---- anybody ------------------------------------------------------------------------------

    pub(super) fn age(&self) -> Duration {
        self.born.elapsed()
    }

    /// Looks, and says for how long at least the instance has been idle.
    ///
    /// Two threads that look at once may each note what the other overwrites; both notes are true.
    pub(super) fn look(&self) -> Duration {
        let now = self.age();
        let uses = self.slot.uses();
        if self.slot.activity() != Activity::Idle || self.seen.uses.load(Ordering::Relaxed) != uses
        {
            self.seen.uses.store(uses, Ordering::Relaxed);
            let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
            self.seen.since.store(now, Ordering::Relaxed);
            return Duration::ZERO;
        }
        now.saturating_sub(Duration::from_nanos(self.seen.since.load(Ordering::Relaxed)))
    }

    pub(super) fn state(&self) -> InstanceState {
        match (self.slot.notice(), self.slot.activity()) {
            (Notice::Revoked(_) | Notice::Taken(_), _) => InstanceState::Closing,
            (_, Activity::Opening) => InstanceState::Opening,
            (_, Activity::Idle) => InstanceState::Idle,
            (_, Activity::Busy) => InstanceState::Busy,
        }
    }

    pub(super) fn info(&self) -> InstanceInfo {
        InstanceInfo {
            id: self.id,
            pool_id: self.pool.id,
            pool: self.pool.name.clone(),
            type_name: self.pool.type_name.to_owned(),
            owner: self.thread.owner.clone(),
            key: self.key.clone(),
            note: self.note.get().map(|note| note.to_string()),
            state: self.state(),
            age_ms: millis(self.age()),
            idle_ms: millis(self.look()),
            uses: self.slot.uses(),
            generation: self.generation.load(Ordering::Relaxed),
        }
    }

    /// Whether somebody has ordered it closed, or has closed it.
    pub(crate) fn is_ordered(&self) -> bool {
        matches!(self.slot.notice(), Notice::Revoked(_) | Notice::Taken(_))
    }

    /// Whether this thread is amid its close.
    pub(super) fn is_closing_here(&self) -> bool {
        self.closes_on.get().is_some_and(|closes| *closes == crate::thread::mark())
    }

    /// Asks what it is doing to come to an end, if the manager gave a way to.
    pub(crate) fn ask_to_stop(&self) {
        if let Some(interrupt) = self.interrupt.get() {
            let _ = contain(|| interrupt.interrupt());
        }
    }

    // ---- the owner ----------------------------------------------------------------------------

    /// After letting go: what has come up meanwhile, and the checks that follow each use, or the
    /// last one.
    #[cold]
    pub(super) fn look_after(self: Arc<Self>) {
        if self.process != fork::generation() || self.slot.activity() != Activity::Idle {
            return; // borrowed across a fork: the parent's; or by somebody further out
        }
        self.pool.watch_again(Some(&self));
        if let Ok((Notice::Live | Notice::Stale, granted)) = self.slot.borrow(Mode::Exclusive) {
            if let Some(reason) = self.verdict() {
                return self.close_borrowed(reason);
            }
            if !self.slot.put_back(granted) && !self.pool.is_waited_for() {
                return self.calm();
            }
        }
        self.attend();
    }

    /// Nobody waits: the next use is as quick as any.
    fn calm(&self) {
        self.slot.calm(self.pool.check_from());
        if self.pool.is_waited_for() {
            self.slot.alert(); // somebody does by now
        }
    }

    /// Whether the use that ends was the last one. The instance is borrowed, by its last borrow.
    fn verdict(&self) -> Option<CloseReason> {
        let last = self.pool.limits.max_uses.is_some_and(|most| self.slot.uses() >= most);
        if last {
            return Some(CloseReason::MaxUses);
        }
        self.has_broken().then_some(CloseReason::Broken)
    }

    /// Asks the manager; a panic there means yes. The instance is borrowed, by one borrow.
    fn has_broken(&self) -> bool {
        self.pool.can_break
            && contain(|| self.ask(|pool, instance| pool.manager.has_broken(instance)))
                .unwrap_or(true)
    }

    /// Before a use, when the instance has been idle for long: whether it is still good. It is
    /// borrowed, by one borrow.
    pub(super) fn check(&self) -> Result<(), CloseReason> {
        self.slot.refresh();
        if self.has_broken() {
            return Err(CloseReason::Broken);
        }
        match contain(|| self.ask(|pool, instance| pool.manager.is_valid(instance))) {
            Ok(Ok(())) => Ok(()),
            _ => Err(CloseReason::Invalid),
        }
    }

    /// A panic has gone through a borrow, which is still held.
    #[cold]
    pub(super) fn after_panic(self: Arc<Self>, mode: Mode, granted: Granted) {
        if self.process != fork::generation() {
            return;
        }
        // With other borrows live nobody can be asked to rescue it; the last of them closes it.
        let rescued = !self.slot.is_nested()
            && contain(|| self.ask(|pool, instance| pool.manager.rescue(instance)))
                .unwrap_or(false);
        self.pool.poisoned(&self, rescued);
        if !rescued {
            self.slot.revoke(CloseReason::Poisoned);
        }
        if self.slot.words().release(mode, granted) {
            self.look_after();
        }
    }

    pub(super) fn is_borrowed(&self) -> bool {
        self.slot.activity() != Activity::Idle && !matches!(self.slot.notice(), Notice::Taken(_))
    }

    /// The owner closes an instance of its own that it is not inside of. Says whether nobody else had
    /// ordered it closed before.
    pub(crate) fn order_here(self: Arc<Self>, reason: CloseReason) -> bool {
        let is_first = self.slot.revoke(reason);
        self.attend();
        is_first
    }

    /// The owner calls its instance spent: it closes when the last borrow ends, or now.
    pub(super) fn discard(self: Arc<Self>) {
        self.slot.revoke(CloseReason::Discarded);
        self.attend();
    }
}

impl<T> Resident for Instance<T> {
    fn id(&self) -> InstanceId {
        self.id
    }

    fn words(&self) -> &Words {
        self.slot.words()
    }

    fn attend(self: Arc<Self>) -> bool {
        self.pool.give_way(&self);
        if let Some((value, reason)) = self.take_as_owner() {
            self.pool.place.move_out(self.id);
            self.finish(value, reason);
            return true;
        }
        let taken = matches!(self.slot.notice(), Notice::Taken(_));
        if taken {
            self.pool.place.move_out(self.id);
        }
        taken
    }

    fn leave(self: Arc<Self>) {
        self.slot.revoke(CloseReason::ThreadExit);
        if let Some((value, reason)) = self.take_as_owner() {
            self.finish(value, reason);
        } else if matches!(self.slot.notice(), Notice::Revoked(_)) {
            self.set_adrift();
        }
    }
}

impl<T> Instance<T> {
    /// The end of every instance: closes it, tells, and only then takes it off the books.
    ///
    /// Runs on the owner, or, for `T: Send`, on the closer that took the value.
    pub(super) fn finish(&self, value: T, reason: CloseReason) {
        let pool = &self.pool;
        let _ = self.closes_on.set(crate::thread::mark());
        let closed = contain(|| pool.manager.close(value, reason)).and_then(|closed| closed);
        match &closed {
            Ok(()) => pool.tell(self, InstanceEventKind::Closed { reason }),
            Err(error) => pool.tell(self, InstanceEventKind::CloseFailed { reason, error }),
        }
        let failure = closed.err().map(|error| format!("{error:#}"));
        pool.strike_off(self, failure);
    }
}
