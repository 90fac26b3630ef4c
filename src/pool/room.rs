//! Room under `max_size`, as the pool's side of the [`gate`](super::gate) has it: who waits, who is
//! looked at, who gives way.

use std::cmp::Reverse;
use std::sync::{Arc, PoisonError, Weak};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use super::books::Books;
use super::closers::Job;
use super::gate::{Asked, Outcome, PATIENCE, Ticket, Waited};
use super::inner::{HeavyFencePassed, Inner};
use super::instance::Instance;
use crate::deadline::Deadline;
use crate::error::Kind;
use crate::fence;
use crate::manager::CloseReason;
use crate::slot::{Activity, Notice};
use crate::thread::Resident;

/// So long may who has just made room stay past the deadline: a close that takes no time is not to be
/// for nothing because its thread has to be woken first.
const GRACE: Duration = Duration::from_millis(10);

/// So often, in the time that an instance must have been idle, does who waits look how long it has.
const LOOKS: u32 = 8;
const SHORTEST_LOOK: Duration = Duration::from_millis(1);

/// What looking around has come to.
struct Around {
    /// Somebody is being closed.
    has_made_room: bool,
    /// When to look around again.
    again: Deadline,
}

impl<T> Inner<T> {
    /// Waits for room, in turn.
    pub(super) fn admit(self: &Arc<Self>, deadline: Deadline) -> Result<(), Kind> {
        let Some(max_size) = self.limits.max_size else {
            return Ok(());
        };
        let begun = Instant::now();
        let outcome = match self.books().gate.ask(max_size) {
            Asked::Settled(outcome) => Some(outcome),
            Asked::Queued(ticket) => self.wait_for_room(&ticket, deadline),
        };
        match outcome {
            Some(Outcome::Admitted) => Ok(()),
            Some(Outcome::Closed) => Err(Kind::Closed),
            None => Err(Kind::TimedOut { waited: begun.elapsed(), max_size }),
        }
    }

    fn wait_for_room(
        self: &Arc<Self>,
        ticket: &Arc<Ticket>,
        deadline: Deadline,
    ) -> Option<Outcome> {
        let gate = &self.books().gate;
        // What this thread has may be ordered closed, or waited for, while it waits, and only it can
        // close that: two threads that wait for each other's room would wait for ever.
        let bell = Bell { pool: Arc::downgrade(self), ticket: Arc::downgrade(ticket) };
        let _bell = crate::thread::set_bell(Waker::from(Arc::new(bell)));
        self.attend_here();
        let mut around = self.look_around();
        let grace = if around.has_made_room { GRACE } else { Duration::ZERO };
        let deadline = deadline.later(Deadline::after(grace));
        loop {
            match gate.wait(ticket, deadline, around.again) {
                Waited::Called(outcome) => return Some(outcome),
                Waited::Late => return gate.give_up(ticket),
                Waited::Stirred => self.attend_here(),
                Waited::LookAround => around = self.look_around(),
            }
        }
    }

    /// This thread closes what it has been ordered to, of any pool, and what it keeps for keys, of
    /// this one; or gives way.
    fn attend_here(&self) {
        let _ = crate::thread::enter();
        for instance in self.matching(|one| one.key.is_some() && one.thread.is_current()) {
            instance.attend();
        }
    }

    /// Whether anybody waits for room. A look without a lock.
    pub(super) fn is_waited_for(&self) -> bool {
        self.books().gate.is_waited_at()
    }

    /// The owner of an instance that it is not inside of looks at the gate. If somebody waits whom
    /// nobody has promised room, the instance is ordered closed, and the owner is to do it now.
    pub(super) fn give_way(&self, instance: &Instance<T>) {
        let Some(at_least) = self.limits.evict_idle_after else { return };
        if self.is_waited_for() && self.is_candidate(instance) && instance.look() >= at_least {
            let ordered = || instance.slot.revoke(CloseReason::MadeRoom).then_some(());
            self.books().gate.promise(instance.id, ordered);
        }
    }

    fn is_candidate(&self, instance: &Instance<T>) -> bool {
        instance.slot.activity() == Activity::Idle
            && matches!(instance.slot.notice(), Notice::Live | Notice::Stale)
    }

    /// Makes room for those who wait, as far as it can be made here and now, and alerts owners for the
    /// rest. No foreign code runs here.
    fn look_around(&self) -> Around {
        let Some(at_least) = self.limits.evict_idle_after else {
            return Around { has_made_room: false, again: Deadline::NEVER };
        };
        let gate = &self.books().gate;
        let mut around = Around { has_made_room: false, again: Deadline::after(PATIENCE) };
        if gate.unserved() == 0 {
            return around;
        }
        let all = self.all();
        if at_least.is_zero() {
            all.iter().for_each(|instance| instance.slot.alert());
        }
        let taken = self.take_idlest(&all, at_least);
        around.has_made_room = !taken.is_empty();
        for (instance, job) in taken {
            self.close_elsewhere(job);
            instance.thread.nudge(); // to clear its place
        }
        if gate.unserved() > 0 {
            for instance in &all {
                if self.is_candidate(instance) && instance.look() >= at_least {
                    // Nobody else may, or could.
                    instance.thread.nudge();
                }
            }
            if !at_least.is_zero() {
                let look = (at_least / LOOKS).max(SHORTEST_LOOK);
                around.again = around.again.earlier(Deadline::after(look));
            }
        }
        around
    }
}

impl<T> Inner<T> {
    /// Takes as many idle instances as are wanted, the idlest first, if anybody but their owners may.
    /// What is returned closes them.
    ///
    /// In any case a heavy fence is passed after the alerts: what is seen borrowed afterwards is looked
    /// after when it is let go.
    fn take_idlest(
        &self,
        all: &[Arc<Instance<T>>],
        at_least: Duration,
    ) -> Vec<(Arc<Instance<T>>, Job)> {
        let Some(from_afar) = &self.from_afar else {
            let _ = fence::heavy();
            return Vec::new();
        };
        let Books { gate, bidding, .. } = self.books();
        let (mut taken, mut tried, mut is_first) = (Vec::new(), Vec::new(), true);
        let _alone = bidding.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut idle: Vec<_> = all
                .iter()
                .filter(|one| self.is_candidate(one) && !tried.contains(&one.id))
                .map(|one| (one.look(), one))
                .filter(|(idle, _)| *idle >= at_least)
                .collect();
            idle.sort_unstable_by_key(|(idle, one)| (Reverse(*idle), one.id));
            let bid = |one: &&Arc<Instance<T>>| {
                tried.push(one.id); // what is lost to its owner is looked after by that
                one.slot.bid()
            };
            let idle = idle.into_iter().map(|(_, one)| one);
            let bids: Vec<_> = idle.filter(bid).take(gate.unserved()).collect();
            if bids.is_empty() && !is_first {
                return taken;
            }
            is_first = false;
            // One for all of them, and for the alerts.
            let passed = HeavyFencePassed::fence();
            for one in bids {
                let take = |passed| {
                    let take = || from_afar.take_bid(one, at_least, passed);
                    gate.promise(one.id, take)
                };
                match passed.as_ref().and_then(take) {
                    Some(value) => {
                        let reason = CloseReason::MadeRoom;
                        let job = from_afar.closing(one, Some(reason), Some((value, reason)));
                        taken.push((Arc::clone(one), job));
                    }
                    None => one.slot.withdraw(),
                }
            }
            if passed.is_none() {
                return taken;
            }
        }
    }
}

/// Stirs a thread that waits for room; what it is nudged with meanwhile.
struct Bell<T: 'static> {
    pool: Weak<Inner<T>>,
    ticket: Weak<Ticket>,
}

impl<T> Wake for Bell<T> {
    fn wake(self: Arc<Self>) {
        if let (Some(pool), Some(ticket)) = (self.pool.upgrade(), self.ticket.upgrade()) {
            pool.books().gate.stir(&ticket);
        }
    }
}
