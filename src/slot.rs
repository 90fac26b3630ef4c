//! Who may touch an instance, and when.
//!
//! A [`Slot`] holds one instance. Its **owner**, one thread, uses it many times; a **closer**, any
//! thread, may take it out once, while it is idle. Two words decide:
//!
//! * `borrow`, written by the owner only: how the instance is borrowed now.
//! * `control`, written by everybody, and only ever forwards:
//!   `LIVE` ⇄ `STALE` → `REVOKED` → `TAKEN`. The last two carry the reason.
//!
//! # The protocol
//!
//! ```text
//! owner borrows    1 borrow := busy      2 fence          3 read control: LIVE, or see below
//! owner lets go    1 borrow := idle      2 fence          3 read check_from: not yet, or look at
//!                                                           control
//! closer           1 control := REVOKED  2 heavy fence    3 read borrow: idle, or leave it
//!                    check_from := 0
//!                  4 if idle: control REVOKED → TAKEN by compare-exchange; on success the
//!                    instance is the closer's
//! owner who read   borrow := idle if it was busy, then REVOKED → TAKEN by compare-exchange, as
//! REVOKED          the closer does; on success the instance is the owner's to close
//! owner who read   never touches the instance again
//! TAKEN
//! owner in a       control := REVOKED, TAKEN; the instance is the owner's to close
//! granted borrow
//! ```
//!
//! `check_from` is the number of uses from which on letting go has the owner look at control, and
//! at its limits. It is a limit on uses, or zero for "at every use", and a closer makes it zero: so
//! the fast path of letting go has one comparison for all purposes.
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
//! 1. *No two threads touch the instance.* A closer takes only after reading idle in step 3.
//!    Let B be the owner's next borrow after the idle that was read. The closer did not see B's
//!    store, so B's load sees `REVOKED` or `TAKEN`: B is not granted. So when a closer takes, no
//!    borrow is live and none will be granted, and what is left, the owner's claim against the
//!    closer's (or two closers'), is decided by the single change to `TAKEN`. The owner may take
//!    a busy instance only in a granted borrow, one whose load saw neither `REVOKED` nor `TAKEN`: then every closer
//!    that revokes reads busy until the borrow ends, so nobody else can have taken.
//! 2. *What a closer sees is complete.* It reads idle with acquire what the owner stored with
//!    release, so everything the owner did to the instance happened before.
//! 3. *None is lost.* If the closer reads busy, it did not see the owner's store of idle; so the
//!    owner's load in step 3 of letting go sees zero, then `REVOKED`, and the owner closes. If the closer
//!    reads idle, it takes, or somebody else already has.
//!
//! `REVOKED` is never taken back: a closer that has read idle may be slow to take, and must not find
//! that meanwhile the owner went on to use a pardoned instance.

#![allow(unsafe_code)] // one cell, reached from the thread that the protocol names

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;

use crate::fence;
use crate::manager::CloseReason;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

const IDLE: u32 = 0;
const MOST_SHARED: u32 = u32::MAX - 2;
/// Not yet made: refuses its owner and looks busy to everybody else.
const OPENING: u32 = u32::MAX - 1;
const EXCLUSIVE: u32 = u32::MAX;

const LIVE: u32 = 0;
const STALE: u32 = 1 << 8;
const REVOKED: u32 = 2 << 8;
const TAKEN: u32 = 3 << 8;
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
            LIVE => Self::Live,
            STALE => Self::Stale,
            REVOKED => Self::Revoked(reason()),
            _ => Self::Taken(reason()),
        }
    }
}

/// The owner's borrow was refused: it holds one already that excludes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InUse;

/// The words of a slot, whatever its instance is.
///
/// Two words where one could hold both uses and borrow: stored as constants, `borrow` does not make
/// each use wait for the one before, as a word that is read, changed and stored twice would.
#[repr(C)]
pub(crate) struct Words {
    borrow: AtomicU32,
    control: AtomicU32,
    /// How often the instance has been borrowed and let go. Written by the owner only.
    uses: AtomicU64,
    check_from: AtomicU64,
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
        borrow: AtomicU32::new(OPENING),
        control: AtomicU32::new(LIVE),
        uses: AtomicU64::new(0),
        check_from: AtomicU64::new(0),
    };
    &VACANT
}

#[cfg(sessile_loom)]
pub(crate) fn vacant() -> &'static Words {
    unreachable!("models have slots, not tables")
}

impl Words {
    /// The fast path of [`Slot::borrow`]: granted, or nothing has changed.
    #[inline(always)]
    pub(crate) fn try_borrow(&self, mode: Mode) -> bool {
        let before = self.borrow.load(Ordering::Relaxed);
        let borrowed = match mode {
            Mode::Exclusive if before == IDLE => EXCLUSIVE,
            Mode::Shared if before < MOST_SHARED => before + 1,
            _ => return false,
        };
        self.borrow.store(borrowed, Ordering::Relaxed);
        fence::light();
        // A shared borrow inside another is granted in any case: the outer one keeps closers away,
        // and the last to let go attends to them. It takes the slow path to find that out.
        if self.control.load(Ordering::Relaxed) == LIVE {
            return true;
        }
        self.borrow.store(before, Ordering::Release);
        false
    }

    /// Lets go of a borrow, and counts the use. Says whether the owner has to look after the
    /// instance, which is no longer borrowed, or one borrow less.
    #[inline(always)]
    #[must_use]
    pub(crate) fn release(&self, mode: Mode) -> bool {
        let rest = match mode {
            Mode::Exclusive => IDLE,
            Mode::Shared => self.borrow.load(Ordering::Relaxed) - 1,
        };
        let uses = self.uses.load(Ordering::Relaxed).wrapping_add(1);
        self.uses.store(uses, Ordering::Relaxed);
        // Release: a closer that reads idle sees all that was done to the instance.
        self.borrow.store(rest, Ordering::Release);
        fence::light();
        uses >= self.check_from.load(Ordering::Relaxed)
    }
}

impl<T> Slot<T> {
    /// A slot whose instance is yet to be made, by the calling thread.
    ///
    /// From the `check_from`th use on, letting go asks the owner to look after the instance.
    pub(crate) fn opening(check_from: u64) -> Self {
        Self {
            words: Words {
                borrow: AtomicU32::new(OPENING),
                control: AtomicU32::new(LIVE),
                uses: AtomicU64::new(0),
                check_from: AtomicU64::new(check_from),
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

    /// Puts the instance in, and leaves it borrowed by the owner.
    ///
    /// # Safety
    ///
    /// The caller is the owner, and the slot is [`opening`](Self::opening).
    pub(crate) unsafe fn fill(&self, value: T, mode: Mode) {
        // SAFETY: valid: the cell is ours and holds nothing yet. Aliasing: while `borrow` says
        // `OPENING`, the owner is refused and no closer takes.
        unsafe { (*self.value.get()).write(value) };
        let borrowed = match mode {
            Mode::Exclusive => EXCLUSIVE,
            Mode::Shared => 1,
        };
        self.words.borrow.store(borrowed, Ordering::Relaxed);
    }

    /// Borrows, and tells what is asked of the owner.
    ///
    /// After [`Notice::Revoked`] and [`Notice::Taken`] nothing is borrowed. The first leaves the
    /// owner to [`take_idle`](Self::take_idle), in a race with the closer; after the second the
    /// instance is not to be touched.
    pub(crate) fn borrow(&self, mode: Mode) -> Result<Notice, InUse> {
        let before = self.words.borrow.load(Ordering::Relaxed);
        let borrowed = match (mode, before) {
            (Mode::Exclusive, IDLE) => EXCLUSIVE,
            (Mode::Shared, 0..MOST_SHARED) => before + 1,
            _ => return Err(InUse),
        };
        self.words.borrow.store(borrowed, Ordering::Relaxed);
        if before != IDLE {
            return Ok(Notice::Live); // inside another shared borrow
        }
        fence::full();
        let notice = self.notice();
        if matches!(notice, Notice::Revoked(_) | Notice::Taken(_)) {
            self.words.borrow.store(IDLE, Ordering::Release);
        }
        Ok(notice)
    }

    /// Lets go of an exclusive borrow that was not a use. Says whether the instance was ordered
    /// closed meanwhile.
    #[must_use]
    pub(crate) fn put_back(&self) -> bool {
        self.words.borrow.store(IDLE, Ordering::Release);
        fence::full();
        matches!(self.notice(), Notice::Revoked(_) | Notice::Taken(_))
    }

    /// Whether more shared borrows are live than the one in hand.
    pub(crate) fn is_nested(&self) -> bool {
        matches!(self.words.borrow.load(Ordering::Relaxed), 2..=MOST_SHARED)
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
        self.words
            .control
            .store(TAKEN | reason as u32, Ordering::Release);
        // SAFETY: valid: the slot was filled before it could be borrowed, and is taken only now.
        // Aliasing: by point 1 of the argument nobody else has or gets it.
        (unsafe { self.value().read() }, reason)
    }

    /// Clears [`Notice::Stale`], if that is still what control says.
    pub(crate) fn refresh(&self) {
        let control = &self.words.control;
        let _ = control.compare_exchange(STALE, LIVE, Ordering::AcqRel, Ordering::Relaxed);
    }

    // ---- anybody ------------------------------------------------------------------------------

    /// Orders the instance closed. The first order's reason stays; `false` if there was one.
    pub(crate) fn revoke(&self, reason: CloseReason) -> bool {
        let Words {
            control,
            check_from,
            ..
        } = &self.words;
        let mut now = control.load(Ordering::Relaxed);
        while matches!(now, LIVE | STALE) {
            let revoked = REVOKED | reason as u32;
            let order = (Ordering::AcqRel, Ordering::Relaxed);
            match control.compare_exchange_weak(now, revoked, order.0, order.1) {
                Ok(_) => {
                    check_from.store(0, Ordering::Release);
                    return true;
                }
                Err(changed) => now = changed,
            }
        }
        false
    }

    /// Asks the owner to make sure, before its next use, that the instance is still good.
    pub(crate) fn mark_stale(&self) {
        let control = &self.words.control;
        let _ = control.compare_exchange(LIVE, STALE, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Takes a revoked instance out for closing if nobody has, and it is idle.
    ///
    /// # Safety
    ///
    /// The caller is the owner; or `T: Send` and the caller has passed a [`fence::heavy`] that
    /// returned `true` *after* it saw the slot revoked.
    pub(crate) unsafe fn take_idle(&self) -> Option<(T, CloseReason)> {
        // Acquire: pairs with the store in `release`.
        if self.words.borrow.load(Ordering::Acquire) != IDLE {
            return None;
        }
        let control = &self.words.control;
        let now = control.load(Ordering::Relaxed);
        let Notice::Revoked(reason) = Notice::of(now) else {
            return None;
        };
        let taken = TAKEN | reason as u32;
        control
            .compare_exchange(now, taken, Ordering::AcqRel, Ordering::Relaxed)
            .ok()?;
        // SAFETY: valid: idle is stored only after `fill`, and this compare-exchange is the only
        // one to succeed. Aliasing: point 1 of the argument. The thread may be another than the
        // owner: the caller vouches for `T: Send` then.
        Some((unsafe { self.value().read() }, reason))
    }

    pub(crate) fn notice(&self) -> Notice {
        Notice::of(self.words.control.load(Ordering::Acquire))
    }

    pub(crate) fn activity(&self) -> Activity {
        match self.words.borrow.load(Ordering::Acquire) {
            IDLE => Activity::Idle,
            OPENING => Activity::Opening,
            _ => Activity::Busy,
        }
    }

    /// How often it has been borrowed and let go: two looks differ if it was used between them.
    pub(crate) fn uses(&self) -> u64 {
        self.words.uses.load(Ordering::Relaxed)
    }
}
