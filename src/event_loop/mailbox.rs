//! Where others leave work for an owner.
//!
//! One word, `head`, is the whole mailbox: a stack of letters to which anybody pushes, all of which
//! the owner takes at once and turns over, so that they come out in the order they went in. It is
//! null when empty, and a mark of its own when closed for good.
//!
//! # Wake
//!
//! ```text
//! to post    1 push, by compare-exchange     2 if the mailbox was empty: read `sleep`;
//!                                              if it says asleep, change it to woken and wake
//! to sleep   1 `sleep` := asleep             2 read `head`; if there is anything, stay awake
//! to drain   1 `sleep` := awake              2 take all
//! ```
//!
//! All of it is sequentially consistent, so in that one order either the push comes before the
//! owner's read of `head`, and it stays awake; or the read came first, and with it `asleep` came
//! before the poster's read, which wakes it. No wake is lost.
//!
//! Only who finds the mailbox empty looks at `sleep`: those who push on top of a letter rely on its
//! poster, for the owner takes them all together. And only who changes asleep to woken makes the
//! system call. So there is one for each sleep, and none while the owner is awake.
//!
//! # The end
//!
//! Closing swaps the mark in and gets every letter that is there; a push that comes later finds the
//! mark and hands its work back. There is no moment between.

#![allow(unsafe_code)] // letters are linked by raw pointers, and their kinds told by function pointers

use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};

use crate::contain::drop_each;
use crate::sync::{AtomicPtr, AtomicU32, AtomicUsize, Ordering, in_one_order};

/// Work that can be posted.
pub(crate) trait Job: Send + 'static {
    /// Does it. On the owner.
    fn run(self);
}

/// A job in the post, whatever its kind. Dropped, it drops the job.
pub(crate) struct Letter(NonNull<Head>);

#[repr(C)]
struct Head {
    next: *mut Head,
    /// Takes the job out of its box, and runs it or drops it.
    open: unsafe fn(NonNull<Head>, run: bool),
}

#[repr(C)]
struct Boxed<J> {
    head: Head,
    job: ManuallyDrop<J>,
}

// SAFETY: a letter owns its job, and `J: Send`.
unsafe impl Send for Letter {}

impl Letter {
    pub(crate) fn new<J: Job>(job: J) -> Self {
        let boxed = Box::new(Boxed {
            head: Head { next: ptr::null_mut(), open: open::<J> },
            job: ManuallyDrop::new(job),
        });
        Self(NonNull::from(Box::leak(boxed)).cast())
    }

    pub(crate) fn run(self) {
        let letter = ManuallyDrop::new(self);
        // SAFETY: valid: `open` belongs to this letter's kind, and is called once: `self` is gone.
        // Aliasing: a letter in hand is linked to by nobody.
        unsafe { (letter.0.as_ref().open)(letter.0, true) }
    }

    /// The job back, from a letter that was made of one of this kind.
    ///
    /// # Safety
    ///
    /// The letter was made by `Letter::new::<J>`.
    unsafe fn unwrap<J: Job>(self) -> J {
        let letter = ManuallyDrop::new(self);
        // SAFETY: valid: by the caller's word it is a `Boxed<J>` from `Box::leak`, freed only here.
        // Aliasing: as in `run`.
        ManuallyDrop::into_inner(unsafe { Box::from_raw(letter.0.cast::<Boxed<J>>().as_ptr()) }.job)
    }
}

impl Drop for Letter {
    fn drop(&mut self) {
        // SAFETY: as in `run`; this is the one call.
        unsafe { (self.0.as_ref().open)(self.0, false) }
    }
}

/// # Safety
///
/// `letter` is the head of a `Boxed<J>` that came from `Box::leak`, in nobody's hand, not opened yet.
unsafe fn open<J: Job>(letter: NonNull<Head>, run: bool) {
    // SAFETY: valid: by the caller's word. Aliasing: in nobody's hand. The box is freed before the
    // job runs, so that a job that panics leaks nothing.
    let boxed = unsafe { Box::from_raw(letter.cast::<Boxed<J>>().as_ptr()) };
    let job = ManuallyDrop::into_inner(boxed.job);
    if run { job.run() } else { drop(job) }
}

/// What `head` is when the mailbox is closed: no letter's address, for letters are aligned.
fn closed() -> *mut Head {
    ptr::without_provenance_mut(1)
}

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;
const WOKEN: u32 = 2;

pub(crate) struct Mailbox {
    head: AtomicPtr<Head>,
    sleep: AtomicU32,
    /// How many letters have been posted and not been taken out yet, if there is a limit.
    waiting: AtomicUsize,
    capacity: Option<usize>,
}

// SAFETY: the letters that `head` leads to are owned by the mailbox, and are `Send`.
unsafe impl Send for Mailbox {}
// SAFETY: letters go in and out by atomic operations on `head`, each to one thread.
unsafe impl Sync for Mailbox {}

/// Why a job was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused<J> {
    Full(J),
    Closed(J),
}

/// Whether the poster has to wake the owner.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Posted {
    Seen,
    Wake,
}

impl Mailbox {
    pub(crate) fn new(capacity: Option<usize>) -> Self {
        Self {
            head: AtomicPtr::new(ptr::null_mut()),
            sleep: AtomicU32::new(AWAKE),
            waiting: AtomicUsize::new(0),
            capacity,
        }
    }

    // ---- anybody ------------------------------------------------------------------------------

    /// Posts a job. After `Posted::Wake` the caller wakes the owner.
    pub(crate) fn post<J: Job>(&self, job: J) -> Result<Posted, Refused<J>> {
        if !self.make_room() {
            // Letters that a close has dropped keep their room: it is no use waiting for that.
            return Err(if self.is_closed() { Refused::Closed(job) } else { Refused::Full(job) });
        }
        let letter = ManuallyDrop::new(Letter::new(job));
        match self.push(letter.0) {
            Some(posted) => Ok(posted),
            None => {
                self.give_room(1);
                // SAFETY: it was made of a `J` a moment ago, and was not pushed.
                Err(Refused::Closed(unsafe { ManuallyDrop::into_inner(letter).unwrap() }))
            }
        }
    }

    /// `None` if the mailbox is closed.
    fn push(&self, mut letter: NonNull<Head>) -> Option<Posted> {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            if head == closed() {
                return None;
            }
            // SAFETY: valid: a letter that the caller owns. Aliasing: nobody links to it yet.
            unsafe { letter.as_mut().next = head };
            let order = (Ordering::SeqCst, Ordering::Relaxed);
            match self.head.compare_exchange_weak(head, letter.as_ptr(), order.0, order.1) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        Some(if head.is_null() { self.rouse() } else { Posted::Seen })
    }

    /// Says whether the owner is asleep and the caller is the one to wake it.
    pub(crate) fn rouse(&self) -> Posted {
        in_one_order();
        let asleep = self.sleep.load(Ordering::SeqCst) == ASLEEP
            && self.sleep.swap(WOKEN, Ordering::SeqCst) == ASLEEP;
        if asleep { Posted::Wake } else { Posted::Seen }
    }

    fn make_room(&self) -> bool {
        let Some(capacity) = self.capacity else { return true };
        let more = |waiting| (waiting < capacity).then_some(waiting + 1);
        self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.head.load(Ordering::Acquire) == closed()
    }

    // ---- the owner ----------------------------------------------------------------------------

    /// Letters have been run or dropped: others may take their room.
    pub(crate) fn give_room(&self, letters: usize) {
        if self.capacity.is_some() {
            self.waiting.fetch_sub(letters, Ordering::Relaxed);
        }
    }

    /// Announces that the owner will sleep. `false`: there is work, it must not.
    #[must_use]
    pub(crate) fn fall_asleep(&self) -> bool {
        // An exchange, which on most machines such a store is anyway: it comes right after what a late
        // waker has left there, and `loom` does not have to guess.
        self.sleep.swap(ASLEEP, Ordering::SeqCst);
        in_one_order();
        let empty = self.head.load(Ordering::SeqCst).is_null();
        if !empty {
            self.sleep.store(AWAKE, Ordering::SeqCst);
        }
        empty
    }

    /// The owner is up again, for whatever reason.
    pub(crate) fn wake_up(&self) {
        self.sleep.store(AWAKE, Ordering::SeqCst);
    }

    /// Whether there is anything; for spinning before sleep.
    pub(crate) fn has_post(&self) -> bool {
        !self.head.load(Ordering::Relaxed).is_null()
    }

    /// Takes all letters out, oldest first. Of a closed mailbox there are none, and it stays closed.
    pub(crate) fn take_all(&self) -> Letters {
        let head = self.head.load(Ordering::Relaxed);
        // Only the owner closes, so that this cannot change before the swap.
        if head.is_null() || head == closed() {
            return Letters::none();
        }
        Letters::turned(self.head.swap(ptr::null_mut(), Ordering::SeqCst))
    }

    /// No more post, ever. What there was comes out, oldest first.
    pub(crate) fn close(&self) -> Letters {
        Letters::turned(self.head.swap(closed(), Ordering::SeqCst))
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        drop(self.close());
    }
}

/// Letters in hand, oldest first. Dropped, it drops them.
pub(crate) struct Letters(*mut Head);

// SAFETY: it owns the letters, and they are `Send`.
unsafe impl Send for Letters {}

impl Letters {
    pub(crate) fn none() -> Self {
        Self(ptr::null_mut())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_null()
    }

    /// From newest first to oldest first.
    fn turned(mut newest: *mut Head) -> Self {
        let mut turned = ptr::null_mut();
        if newest == closed() {
            newest = ptr::null_mut();
        }
        while let Some(mut letter) = NonNull::new(newest) {
            // SAFETY: valid and unaliased: the whole stack was swapped out, so it is ours alone. That
            // each `next` can be seen is due to the release of its push and the acquire of the swap.
            let letter = unsafe { letter.as_mut() };
            newest = letter.next;
            letter.next = turned;
            turned = letter;
        }
        Self(turned)
    }
}

impl Iterator for Letters {
    type Item = Letter;

    fn next(&mut self) -> Option<Letter> {
        let letter = NonNull::new(self.0)?;
        // SAFETY: valid and unaliased: the list is ours alone.
        self.0 = unsafe { letter.as_ref() }.next;
        Some(Letter(letter))
    }
}

impl Drop for Letters {
    fn drop(&mut self) {
        // One by one: a job whose destructor panics must not keep the others from being told.
        drop_each(self);
    }
}
