//! Who may touch an instance, and when.
//!
//! A [`Slot`] holds one instance. Its **owner**, one thread, uses it many times; a **closer**, any
//! thread, may take it out once, while it is idle. Two words decide:
//!
//! * `word`, written by the owner only: how the instance is borrowed now, or, if it is not, how often
//!   it has been used.
//! * `control`, written by everybody. An order to close goes forwards only:
//!   `LIVE` ⇄ `STALE` → `REVOKED` → `TAKEN`. The last two carry the reason. A bid, which is less than
//!   an order, may be turned down: `LIVE` or `STALE` ⇄ `BID` → `TAKEN`, or → `REVOKED`.
//!
//! Two more spare the fast path from looking at `control`. Each has a bound for `word`, and whoever
//! changes `control` makes it zero afterwards: `admit_below`, for borrowing, and `check_from`, for
//! letting go. So one comparison answers at once whether the instance is free, whether it has had its
//! last use, and whether anybody wants anything.
//!
//! Whoever only wants the owner to look up when it next lets go, at something else than `control`,
//! makes `check_from` zero and nothing more: that is [`Slot::alert`]. The owner undoes it, by
//! [`Slot::calm`], when there is nothing to look up for any more.
//!
//! # The protocol
//!
//! ```text
//! owner borrows    1 word := busy        2 fence          3 compare with admit_below: granted, or
//!                                                           look at control
//! owner lets go    1 word := idle        2 fence          3 compare with check_from: done, or look
//!                                                           at control
//! closer           1 control := REVOKED, 2 heavy fence    3 read word: idle, or leave it
//!                    unless it is; both
//!                    bounds := 0
//!                  4 if idle: control REVOKED → TAKEN by compare-exchange; on success the
//!                    instance is the closer's
//! owner who read   word := idle if it was busy, then REVOKED → TAKEN by compare-exchange, as the
//! REVOKED          closer does; on success the instance is the owner's to close
//! owner who read   never touches the instance again
//! TAKEN
//! owner in a       control := REVOKED, TAKEN; the instance is the owner's to close
//! granted borrow
//!
//! bidder           1 control := BID, if  2 heavy fence    3 read word: idle, or withdraw
//! (one at a time)    it was LIVE or
//!                    STALE;
//!                    admit_below := 0
//!                  4 if idle: control BID → TAKEN by compare-exchange; on success the instance
//!                    is the bidder's. Otherwise BID → what it was before, unless it has changed
//! owner who read   word is busy by then: BID → what it was before, by compare-exchange, and goes
//! BID              on by what it finds then
//! ```
//!
//! # The argument
//!
//! *Between an owner's store and load stands the light fence, between a closer's the heavy one; the
//! pair guarantees that of two such sides at least one sees the other's store.* For the asymmetric
//! pair: the heavy fence makes the owner pass a full barrier at some point P. If the owner's load
//! came before P, its store, which precedes the load in program order, was complete at P, so the
//! closer's load, which comes after P, sees it (or a later one). If the owner's load came after P,
//! it sees the closer's store, which was complete before P.
//!
//! 1. *No two threads touch the instance.* A closer takes only after reading idle in step 3. Let B
//!    be the owner's next borrow after the idle that was read. The closer did not see B's store, so
//!    B's load sees its zero: B is not granted on the fast path, nor, as `REVOKED` was written
//!    before, on the slow one. So when a closer takes, no borrow is live and none will be granted;
//!    what is left, the owner's claim against the closer's, or two closers', is decided by the one
//!    compare-exchange to `TAKEN` that succeeds. A busy instance is taken only by its owner, in a
//!    granted borrow; then every closer reads busy until the borrow ends, so nobody else can have
//!    taken.
//! 2. *What a closer sees is complete.* It reads idle with acquire what the owner stored with
//!    release, so everything the owner did to the instance happened before.
//! 3. *None is lost.* If the closer reads busy, it did not see the owner's store of idle; so the
//!    owner's load in step 3 of letting go sees its zero, then `REVOKED`, and the owner closes. If
//!    the closer reads idle, it takes, or somebody else already has.
//!
//! 4. *A bid that is lost leaves no trace.* The bidder takes by a compare-exchange from `BID`, and so
//!    only if nobody has touched `control` since it bid: no owner has turned the bid down, as one that
//!    borrows after the idle that was read must (it sees the zero, then `BID`, by the argument of
//!    point 1), and no closer has overridden it. That it is *its own* bid is why there is one bidder
//!    at a time: with two, a slow one could take by the other's bid, and find the owner at work that
//!    turned down its own. Its zero may come late and stay behind: the owner's next borrow is slow,
//!    and makes it good.
//!
//! Each closer makes the bounds zero itself, before its own fence, also when it finds `REVOKED`
//! there: the closer that wrote that may not have come to its zeros yet, and B would be granted.
//!
//! `REVOKED` is never taken back: a closer that has read idle may be slow to take, and must not find
//! that meanwhile the owner went on to use a pardoned instance.

#![allow(unsafe_code)] // one cell, reached from the thread that the protocol names

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;

use crate::fence;
use crate::manager::CloseReason;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

// The word: the uses, and in its highest byte how many shared borrows there are. There is room for
// three years of nothing but uses.
const SHARED: u64 = 1 << 56;
const MOST_SHARED: u64 = 253 * SHARED;
const USES: u64 = SHARED - 1;
/// Not yet made: refuses its owner and looks busy to everybody else.
const OPENING: u64 = 254 * SHARED;
/// An exclusive borrow overlays the uses, all but their lowest 31 bits. That is one instruction, and
/// done twice it is as if done once: a borrow that will be refused never makes an instance look idle.
const EXCLUSIVE: u64 = !(EPOCH - 1);
/// What the overlay hides is the same for this many uses, and `epoch` has it. When they are over,
/// a borrow takes the slow path, which begins the next epoch.
const EPOCH: u64 = 1 << 31;

const LIVE: u32 = 0;
const STALE: u32 = 1 << 8;
const REVOKED: u32 = 2 << 8;
const TAKEN: u32 = 3 << 8;
/// Bid for: by itself, what was `LIVE` before.
const BID: u32 = 4 << 8;
const BID_STALE: u32 = BID | STALE;
const STATE: u32 = 0xff00;

/// How the owner holds the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Exclusive,
    Shared,
}

/// What everybody may know of a slot; true when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    Opening,
    Idle,
    Busy,
}

/// What `control` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Nothing to do.
    Live,
    /// The owner should make sure that the instance is still good.
    Stale,
    /// Somebody wants it closed, by whoever may.
    Revoked(CloseReason),
    /// Somebody has it and is closing it.
    Taken(CloseReason),
}

impl Notice {
    fn of(control: u32) -> Self {
        let reason = || {
            CloseReason::from_code(control as u8).expect("control carries the reason it was given")
        };
        match control & STATE {
            LIVE | BID => Self::Live,
            STALE | BID_STALE => Self::Stale,
            REVOKED => Self::Revoked(reason()),
            _ => Self::Taken(reason()),
        }
    }
}

/// The owner's borrow was refused: it holds one already that excludes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InUse;

/// The words of a slot, whatever its instance is.
#[repr(C)]
pub(crate) struct Words {
    word: AtomicU64,
    admit_below: AtomicU64,
    check_from: AtomicU64,
    control: AtomicU32,
    /// In units of [`EPOCH`] uses. Written by the owner only.
    epoch: AtomicU32,
}

/// One instance, and who may touch it.
// A line of its own: the owner writes to it at each use, and its neighbours on the heap may be other
// threads' slots. The words first: whoever has the address of the slot has that of the words.
#[repr(C, align(64))]
pub(crate) struct Slot<T> {
    words: Words,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: the argument above: at any time one thread may touch `value`. That it may be *another*
// thread than the one that made it is so only through `take_idle`, whose callers must have `T: Send`.
unsafe impl<T> Send for Slot<T> {}
// SAFETY: as for `Send`. Shared references lead to the two atomic words, and to `value` only through
// the unsafe methods.
unsafe impl<T> Sync for Slot<T> {}

/// The words of no slot: what a table has in its empty places. They grant nothing.
#[cfg(not(sessile_loom))]
pub(crate) fn vacant() -> &'static Words {
    static VACANT: Words = Words {
        word: AtomicU64::new(OPENING),
        admit_below: AtomicU64::new(0),
        check_from: AtomicU64::new(0),
        control: AtomicU32::new(LIVE),
        epoch: AtomicU32::new(0),
    };
    &VACANT
}

#[cfg(sessile_loom)]
pub(crate) fn vacant() -> &'static Words {
    unreachable!("models have slots, not tables")
}

/// A granted borrow, to be given back to [`Words::release`].
///
/// It carries the word as it was before an exclusive borrow, so that letting go does not have to
/// wait for it to come back from memory. Shared ones may end in any order, and read it again: theirs
/// carries the uses alone, without the number of borrows.
///
/// So its highest bit is never set, and carries a mark of the holder's.
#[derive(Clone, Copy)]
pub(crate) struct Granted(u64);

impl Granted {
    const MARK: u64 = 1 << 63;

    #[inline(always)]
    pub(crate) fn marked(self, mark: bool) -> Self {
        Self(self.0 | if mark { Self::MARK } else { 0 })
    }

    /// Without the mark, as it has to be given back; and whether it had one.
    #[inline(always)]
    pub(crate) fn unmarked(self) -> (Self, bool) {
        (Self(self.0 & !Self::MARK), self.0 & Self::MARK != 0)
    }
}

impl Words {
    /// The fast path of [`Slot::borrow`]: granted, or nothing has changed.
    #[inline(always)]
    pub(crate) fn try_borrow(&self, mode: Mode) -> Option<Granted> {
        let word = self.word.load(Ordering::Relaxed);
        let (borrowed, uses) = match mode {
            Mode::Exclusive => (word | EXCLUSIVE, word),
            Mode::Shared if word < MOST_SHARED => (word + SHARED, word & USES),
            Mode::Shared => return None,
        };
        self.word.store(borrowed, Ordering::Relaxed);
        fence::light();
        if uses < self.admit_below.load(Ordering::Relaxed) {
            return Some(Granted(uses));
        }
        self.word.store(word, Ordering::Release);
        None
    }

    /// Lets go of a borrow, and counts the use. Says whether the owner has to look after the
    /// instance, which is no longer borrowed, or one borrow less.
    #[inline(always)]
    #[must_use]
    pub(crate) fn release(&self, mode: Mode, granted: Granted) -> bool {
        let (rest, uses) = match mode {
            Mode::Exclusive => (granted.0 + 1, granted.0 + 1),
            Mode::Shared => {
                let rest = self.word.load(Ordering::Relaxed) - SHARED + 1;
                (rest, rest & USES)
            }
        };
        // Release: a closer that reads idle sees all that was done to the instance.
        self.word.store(rest, Ordering::Release);
        fence::light();
        uses >= self.check_from.load(Ordering::Relaxed)
    }
}

/// See [`Slot::alone`].
pub(crate) struct Alone<'s> {
    words: &'s Words,
    word: u64,
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.words.word.store(self.word, Ordering::Relaxed);
    }
}

impl<T> Slot<T> {
    /// A slot whose instance is yet to be made, by the calling thread.
    ///
    /// From the `check_from`th use on, letting go asks the owner to look after the instance.
    pub(crate) fn opening(check_from: u64) -> Self {
        Self {
            words: Words {
                word: AtomicU64::new(OPENING),
                admit_below: AtomicU64::new(EPOCH),
                check_from: AtomicU64::new(check_from),
                control: AtomicU32::new(LIVE),
                epoch: AtomicU32::new(0),
            },
            value: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    pub(crate) fn words(&self) -> &Words {
        &self.words
    }

    /// Where the instance is. To follow the pointer, hold a borrow.
    #[inline(always)]
    pub(crate) fn value(&self) -> *mut T {
        self.value.get().cast()
    }

    // ---- the owner ----------------------------------------------------------------------------

    /// Puts the instance in, and leaves it borrowed by the owner, exclusively.
    ///
    /// # Safety
    ///
    /// The caller is the owner, and the slot is [`opening`](Self::opening).
    pub(crate) unsafe fn fill(&self, value: T) -> Granted {
        // SAFETY: valid: the cell is ours and holds nothing yet. Aliasing: while `word` says
        // `OPENING`, the owner is refused and no closer takes.
        unsafe { (*self.value.get()).write(value) };
        self.words.word.store(EXCLUSIVE, Ordering::Relaxed);
        Granted(0)
    }

    /// Borrows, and tells what is asked of the owner.
    ///
    /// After [`Notice::Revoked`] and [`Notice::Taken`] nothing is borrowed. The first leaves the
    /// owner to [`take_idle`](Self::take_idle), in a race with the closer; after the second the
    /// instance is not to be touched.
    pub(crate) fn borrow(&self, mode: Mode) -> Result<(Notice, Granted), InUse> {
        let word = self.words.word.load(Ordering::Relaxed);
        let borrowed = match mode {
            Mode::Exclusive if word < SHARED => word | EXCLUSIVE,
            Mode::Shared if word < MOST_SHARED => word + SHARED,
            _ => return Err(InUse),
        };
        // Before the word, so that whoever sees the new one sees its epoch.
        let begins_epoch = word < SHARED && self.begin_epoch(word / EPOCH);
        self.words.word.store(borrowed, Ordering::Release);
        if word >= SHARED {
            // Inside another shared borrow: that one keeps closers away, and the last to let go
            // attends to them.
            return Ok((Notice::Live, Granted(word & USES)));
        }
        fence::full();
        let notice = self.turn_down();
        if matches!(notice, Notice::Revoked(_) | Notice::Taken(_)) {
            self.words.word.store(word, Ordering::Release);
        } else if notice == Notice::Live && (begins_epoch || self.is_shut()) {
            self.admit();
        }
        Ok((notice, Granted(word)))
    }

    /// Lets go of an exclusive borrow that was not a use. Says whether the instance was ordered
    /// closed meanwhile.
    #[must_use]
    pub(crate) fn put_back(&self, granted: Granted) -> bool {
        self.words.word.store(granted.0, Ordering::Release);
        fence::full();
        matches!(self.notice(), Notice::Revoked(_) | Notice::Taken(_))
    }

    /// Makes the owner's only borrow exclusive, whatever its mode, until the guard is dropped. It is
    /// busy all the while: no closer can tell the difference.
    pub(crate) fn alone(&self) -> Alone<'_> {
        let word = self.words.word.load(Ordering::Relaxed);
        self.words.word.store(word | EXCLUSIVE, Ordering::Relaxed);
        Alone { words: &self.words, word }
    }

    /// Turns the exclusive borrow that [`fill`](Self::fill) has left into one of this mode.
    pub(crate) fn settle(&self, mode: Mode) {
        if mode == Mode::Shared {
            self.words.word.store(SHARED, Ordering::Relaxed);
        }
    }

    /// Whether more shared borrows are live than the one in hand.
    pub(crate) fn is_nested(&self) -> bool {
        (2 * SHARED..OPENING).contains(&self.words.word.load(Ordering::Relaxed))
    }

    /// Takes the instance out for closing, for `reason` or the one it was revoked for before.
    ///
    /// # Safety
    ///
    /// The caller is the owner and holds the only borrow, granted by [`Words::try_borrow`],
    /// [`fill`](Self::fill), or [`borrow`](Self::borrow) with `Live` or `Stale`; it touches the
    /// instance no more.
    pub(crate) unsafe fn take_borrowed(&self, reason: CloseReason) -> (T, CloseReason) {
        self.revoke(reason); // so that an earlier reason stays
        let Notice::Revoked(reason) = self.notice() else {
            unreachable!("nobody else takes a borrowed instance");
        };
        self.words.control.store(TAKEN | reason as u32, Ordering::Release);
        // SAFETY: valid: the slot was filled before it could be borrowed, and is taken only now.
        // Aliasing: by point 1 of the argument nobody else has or gets it.
        (unsafe { self.value().read() }, reason)
    }

    /// What control says to the owner, who is about to use the instance: a bid is turned down.
    fn turn_down(&self) -> Notice {
        let control = &self.words.control;
        let mut now = control.load(Ordering::Acquire);
        while now & BID != 0 {
            let order = (Ordering::AcqRel, Ordering::Acquire);
            match control.compare_exchange_weak(now, now & !BID, order.0, order.1) {
                Ok(_) => now &= !BID,
                Err(changed) => now = changed,
            }
        }
        Notice::of(now)
    }

    /// Undoes [`alert`](Self::alert): letting go asks the owner to look after the instance from the
    /// `check_from`th use on, as in [`opening`](Self::opening).
    ///
    /// Afterwards the owner must look once more at whatever an alert could have been for: one that
    /// came before this may have been undone with it.
    pub(crate) fn calm(&self, check_from: u64) {
        let bound = &self.words.check_from;
        if bound.load(Ordering::Relaxed) == check_from {
            return;
        }
        bound.store(check_from, Ordering::Relaxed);
        fence::full(); // as in `admit`
        if matches!(self.notice(), Notice::Revoked(_) | Notice::Taken(_)) {
            bound.store(0, Ordering::Relaxed);
        }
    }

    fn begin_epoch(&self, epoch: u64) -> bool {
        let epoch = epoch as u32; // of three years of uses one has seen all epochs that fit
        let begins = self.words.epoch.load(Ordering::Relaxed) != epoch;
        if begins {
            self.words.epoch.store(epoch, Ordering::Release);
        }
        begins
    }

    /// Clears [`Notice::Stale`], if that is still what control says.
    pub(crate) fn refresh(&self) {
        let control = &self.words.control;
        if control.compare_exchange(STALE, LIVE, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.admit();
        }
    }

    /// Whether the fast path of borrowing is closed. If control says `LIVE`, it was by somebody who
    /// marked the instance stale, and came to the bound only after the owner had seen to the mark.
    fn is_shut(&self) -> bool {
        self.words.admit_below.load(Ordering::Relaxed) == 0
    }

    /// Opens the fast path of borrowing, until the epoch ends.
    fn admit(&self) {
        let Words { control, admit_below, epoch, .. } = &self.words;
        let uses = (u64::from(epoch.load(Ordering::Relaxed)) + 1) * EPOCH;
        admit_below.store(uses, Ordering::Relaxed);
        // A closer changes control, fences, then makes the bound zero. Either we see its change
        // here, or it sees ours and its zero comes after our bound.
        fence::full();
        if control.load(Ordering::Relaxed) != LIVE {
            admit_below.store(0, Ordering::Relaxed);
        }
    }

    // ---- anybody ------------------------------------------------------------------------------

    /// Orders the instance closed. The first order's reason stays; `false` if there was one.
    pub(crate) fn revoke(&self, reason: CloseReason) -> bool {
        let Words { control, admit_below, check_from, .. } = &self.words;
        let mut now = control.load(Ordering::Acquire);
        let mut is_first = false;
        while !matches!(now & STATE, REVOKED | TAKEN) && !is_first {
            let revoked = REVOKED | reason as u32;
            let order = (Ordering::AcqRel, Ordering::Acquire);
            match control.compare_exchange_weak(now, revoked, order.0, order.1) {
                Ok(_) => is_first = true,
                Err(changed) => now = changed,
            }
        }
        fence::full(); // see `admit`
        admit_below.store(0, Ordering::Release);
        check_from.store(0, Ordering::Release);
        is_first
    }

    /// Asks the owner to make sure, before its next use, that the instance is still good.
    pub(crate) fn mark_stale(&self) {
        let Words { control, admit_below, .. } = &self.words;
        let marked = control.compare_exchange(LIVE, STALE, Ordering::AcqRel, Ordering::Relaxed);
        if matches!(marked, Ok(_) | Err(STALE)) {
            fence::full(); // see `admit`
            admit_below.store(0, Ordering::Release);
        }
    }

    /// Has the owner look after the instance when it next lets go, whatever for.
    ///
    /// Whoever does so has made known before what there is to look for, and passes a
    /// [`fence::heavy`] afterwards: an instance that it then sees borrowed is looked after.
    pub(crate) fn alert(&self) {
        fence::full(); // see `calm`
        self.words.check_from.store(0, Ordering::Release);
    }

    /// Bids for an instance: to have it if it is idle, or else leave everything as it was. `false` if
    /// it was ordered closed.
    ///
    /// There is one bidder at a time. It goes on with a [`fence::heavy`], and then either
    /// [`take_bid`](Self::take_bid) or [`withdraw`](Self::withdraw).
    pub(crate) fn bid(&self) -> bool {
        let Words { control, admit_below, .. } = &self.words;
        let mut now = control.load(Ordering::Acquire);
        while matches!(now, LIVE | STALE) {
            let order = (Ordering::AcqRel, Ordering::Acquire);
            match control.compare_exchange_weak(now, now | BID, order.0, order.1) {
                Ok(_) => {
                    fence::full(); // see `admit`
                    admit_below.store(0, Ordering::Release);
                    return true;
                }
                Err(changed) => now = changed,
            }
        }
        false
    }

    /// The end of a [`bid`](Self::bid): takes the instance out for closing if it is idle, and nobody
    /// has turned the bid down or ordered the instance closed. Otherwise the bid is still to be
    /// withdrawn.
    ///
    /// # Safety
    ///
    /// The caller bid for this instance, nobody else has since, and it has passed a [`fence::heavy`]
    /// that returned `true` in between; and `T: Send`.
    pub(crate) unsafe fn take_bid(&self, reason: CloseReason) -> Option<T> {
        // Acquire: pairs with the store in `release`.
        if self.words.word.load(Ordering::Acquire) >= SHARED {
            return None;
        }
        let control = &self.words.control;
        let now = control.load(Ordering::Relaxed);
        if now & BID == 0 {
            return None;
        }
        let taken = TAKEN | reason as u32;
        control.compare_exchange(now, taken, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        // SAFETY: valid: idle is stored only after `fill`, and this compare-exchange is the only one
        // to succeed. Aliasing: points 1 and 4 of the argument; the caller vouches for `T: Send`.
        Some(unsafe { self.value().read() })
    }

    /// The other end of a [`bid`](Self::bid).
    pub(crate) fn withdraw(&self) {
        self.turn_down();
    }

    /// Takes a revoked instance out for closing if nobody has, and it is idle.
    ///
    /// # Safety
    ///
    /// The caller is the owner; or `T: Send` and the caller has passed a [`fence::heavy`] that
    /// returned `true` *after* it saw the slot revoked.
    pub(crate) unsafe fn take_idle(&self) -> Option<(T, CloseReason)> {
        // Acquire: pairs with the store in `release`.
        if self.words.word.load(Ordering::Acquire) >= SHARED {
            return None;
        }
        let control = &self.words.control;
        let now = control.load(Ordering::Relaxed);
        let Notice::Revoked(reason) = Notice::of(now) else {
            return None;
        };
        let taken = TAKEN | reason as u32;
        control.compare_exchange(now, taken, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        // SAFETY: valid: idle is stored only after `fill`, and this compare-exchange is the only
        // one to succeed. Aliasing: point 1 of the argument. The thread may be another than the
        // owner: the caller vouches for `T: Send` then.
        Some((unsafe { self.value().read() }, reason))
    }

    pub(crate) fn notice(&self) -> Notice {
        Notice::of(self.words.control.load(Ordering::Acquire))
    }

    pub(crate) fn activity(&self) -> Activity {
        match self.words.word.load(Ordering::Acquire) {
            OPENING => Activity::Opening,
            SHARED.. => Activity::Busy,
            _ => Activity::Idle,
        }
    }

    /// How often it has been borrowed and let go: two looks differ if it was used between them.
    pub(crate) fn uses(&self) -> u64 {
        let Words { word, epoch, .. } = &self.words;
        loop {
            let before = epoch.load(Ordering::Acquire);
            let word = word.load(Ordering::Acquire);
            if word < OPENING {
                return word & USES;
            }
            if word == OPENING {
                return 0;
            }
            // Neither may be of another epoch than the other.
            if epoch.load(Ordering::Relaxed) == before {
                return u64::from(before) * EPOCH + (word & !EXCLUSIVE);
            }
        }
    }
}

#[cfg(all(test, sessile_loom))]
mod models;
